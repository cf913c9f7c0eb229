"""How fast a large run is read: python benchmarks/report_reading.py.

Writes a run folder with a million alignment rows in shards of 16 questions, as `gradalign score`
lays it out, and times in a fresh process what a person waits for: wall time, and processor time,
which other work on the machine does not lengthen. Prints a table and writes JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from common import OUT, argument_parser, environment, in_a_process, write_json

from gradalign.store.folder import RunFolder
from gradalign.store.schema import SCHEMA_VERSION, schema
from gradalign.store.table_builder import Rows

TEACHERS = ("strong", "weak", "self+answer")
METHODS = ("gkd:beta=0", "gkd", "opd", "opsd:beta=0.5,clip=0", "minillm")
NODES_PER_QUESTION, QUESTIONS_PER_SHARD = 64, 16


def fill(table: str, count: int, **columns: object) -> pa.Table:
    """Make a table's rows; what is not given is a plausible number or an empty text."""
    rng = np.random.default_rng(0)
    for field in schema(table):
        if field.name in columns:
            continue
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_floating(kind):
            columns[field.name] = rng.random(count)
        elif pa.types.is_string(kind):
            columns[field.name] = ""
        elif pa.types.is_list(kind):
            columns[field.name] = [[1, 2]] * count
        else:
            columns[field.name] = pa.array(np.zeros(count, dtype=np.int32)).cast(kind)
    rows = Rows(table)
    rows.add(count, **columns)
    return rows.table_of()


def write_run(folder: Path, num_rows: int) -> dict[str, int]:
    """Write questions, nodes, alignment and summary; return their sizes."""
    run = RunFolder(str(folder))
    arms = [(teacher, method) for teacher in TEACHERS for method in METHODS]
    num_questions = -(-num_rows // (len(arms) * NODES_PER_QUESTION))
    for shard, start in enumerate(range(0, num_questions, QUESTIONS_PER_SHARD)):
        names = [f"q{i:06d}" for i in range(start, min(start + QUESTIONS_PER_SHARD, num_questions))]
        question = np.repeat(names, NODES_PER_QUESTION)
        position = np.tile(np.arange(NODES_PER_QUESTION), len(names))
        spine = np.char.add(np.char.add(question, "/"), (position // 16).astype(str))
        node = np.char.add(np.char.add(spine, "/"), position.astype(str))
        keys = {
            "question_id": question.tolist(),
            "spine_id": spine.tolist(),
            "position": position,
            "node_id": node.tolist(),
        }
        name = f"shard-{shard:05d}"
        run.write_table("questions", name, fill("questions", len(names), question_id=names))
        run.write_table("nodes", name, fill("nodes", len(node), **keys))
        parts = [
            fill("alignment", len(node), **keys, teacher=teacher, method=method)
            for teacher, method in arms
        ]
        run.write_table("alignment", name, pa.concat_tables(parts).unify_dictionaries())
    splits = ["all", "correct", "incorrect", *(f"question:q{i:06d}" for i in range(num_questions))]
    rows = [(*arm, split) for arm in arms for split in splits]
    teacher, method, split = (list(column) for column in zip(*rows, strict=True))
    run.write_summary(fill("summary", len(rows), teacher=teacher, method=method, split=split))
    run.write_json(
        "run.json", {"schema_version": SCHEMA_VERSION, "status": "done", "config": {"seed": 0}}
    )
    return {
        "questions": num_questions,
        "alignment_rows": num_questions * NODES_PER_QUESTION * len(arms),
        "summary_rows": len(rows),
    }


def measure(folder: str) -> dict[str, float]:
    """Time the reads in this process, which has read nothing yet."""
    import resource

    import gradalign

    figures: dict[str, float] = {}

    def timed(name: str, work: object) -> None:
        begin, busy = time.perf_counter(), time.process_time()
        work()  # type: ignore[operator]
        figures[f"{name}_seconds"] = time.perf_counter() - begin
        figures[f"{name}_processor_seconds"] = time.process_time() - busy

    timed("import_pandas", lambda: __import__("pandas"))
    report = gradalign.read_report(folder)
    timed("summary", lambda: report.summary)
    timed("first_question_nodes", lambda: report.table("nodes", question_id="q000003"))
    timed("next_question_nodes", lambda: report.table("nodes", question_id="q000500"))
    timed("next_question_alignment", lambda: report.table("alignment", question_id="q000700"))
    timed("all_alignment", lambda: report.alignment)
    figures["peak_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return figures


def main() -> None:
    """Write the run, measure it in a process of its own, print and keep the figures."""
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2])))
        return
    parser = argument_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the alignment table")
    parser.add_argument(
        "--output", type=Path, default=OUT / "report_reading.json", help="JSON file"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = write_run(Path(folder), options.rows)
        figures = in_a_process(__file__, ["--measure", folder])
    for name, value in {**sizes, **figures}.items():
        print(
            f"{name:<44}{value:>14,.3f}" if isinstance(value, float) else f"{name:<44}{value:>14,}"
        )
    record = {
        **environment(),
        "config": {
            "rows": options.rows,
            "teachers": TEACHERS,
            "methods": METHODS,
            "nodes_per_question": NODES_PER_QUESTION,
            "questions_per_shard": QUESTIONS_PER_SHARD,
        },
    }
    write_json(options.output, {**record, **sizes, **figures})


if __name__ == "__main__":
    main()
