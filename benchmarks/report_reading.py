"""How fast a large run is read: python benchmarks/report_reading.py [ROWS].

Writes a run folder with ROWS alignment rows (a million by default) in shards of 16 questions, as
`gradalign score` lays it out, and times in a fresh process what a person waits for. Prints a table
and writes JSON to benchmarks/out/report_reading.json.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from gradalign.report.folder import RunFolder
from gradalign.report.rows import Rows
from gradalign.report.schema import SCHEMA_VERSION, schema

TEACHERS = ("strong", "weak", "self+answer")
METHODS = ("gkd:beta=0", "gkd", "opd", "opsd", "minillm")
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
        begin = time.perf_counter()
        work()  # type: ignore[operator]
        figures[f"{name}_seconds"] = time.perf_counter() - begin

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
    num_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        sizes = write_run(Path(folder), num_rows)
        command = [sys.executable, __file__, "--measure", folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout)
    for name, value in {**sizes, **figures}.items():
        print(
            f"{name:<32}{value:>14,.3f}" if isinstance(value, float) else f"{name:<32}{value:>14,}"
        )
    out = Path(__file__).parent / "out"
    out.mkdir(exist_ok=True)
    record = {"platform": platform.platform(), "python": platform.python_version()}
    (out / "report_reading.json").write_text(json.dumps({**record, **sizes, **figures}, indent=2))


if __name__ == "__main__":
    main()
