"""Write docs/columns.md from the schemas: python docs/columns.py."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from gradalign.store.schema import SCHEMA_VERSION, meaning, schema, table_names

KEYS = {
    "question_id": "the task's id of the question",
    "spine_id": "question id / number of the response",
    "position": "0 is the first token of the response",
    "node_id": "spine id / position",
    "teacher": "MODEL, MODEL+CONTEXT or delta:A,B; empty where none is looked at",
    "method": "method with its options",
    "token_id": "the token",
    "candidate_id": "the token that was forced",
    "index": "number within its group",
    "num_questions": "questions behind the row",
    "num_nodes": "nodes behind the row",
    "num_candidates": "tokens that were forced at the node",
    "num_contexts": "contexts that are aggregated",
    "value": "what was measured",
}

INTRODUCTION = f"""# Every column

Generated from the schemas by `python docs/columns.py`; a test holds it to them. Schema version
{SCHEMA_VERSION}. Every table but `summary` is a folder of parquet files in the run folder, one or
more per shard of questions. `pandas.read_parquet("RUN/nodes")`, DuckDB
(`from 'RUN/nodes/*.parquet'`) and Polars read them as they are;
`gradalign.read_report("RUN").nodes` gives the same as a DataFrame.

P is the student's next-token distribution, Q a teacher's, V the success probability after forcing
a token, g* the ideal gradient, m a method's direction ([mathematics](mathematics.md)). Logarithms
are natural.
"""


def kind_name(kind: pa.DataType) -> str:
    """Return a column's type in a word."""
    if pa.types.is_dictionary(kind):
        return kind_name(kind.value_type)
    if pa.types.is_list(kind):
        return f"list of {kind_name(kind.value_type)}"
    return {"double": "float64", "float": "float32", "bool": "boolean"}.get(str(kind), str(kind))


def text() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    for table in table_names():
        parts.append(f"\n## {table}\n\n| column | type | meaning |\n| --- | --- | --- |\n")
        for field in schema(table):
            said = (meaning(table, field.name) or KEYS.get(field.name, "")).replace("|", "\\|")
            parts.append(f"| `{field.name}` | {kind_name(field.type)} | {said} |\n")
    return "".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("columns.md").write_text(text(), encoding="utf-8")
