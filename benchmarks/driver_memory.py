"""Peak memory of the driver at 200 and at 2,000 questions; it must not grow with their number.

Each run is a process of its own, with the smallest settings that go through every stage; what is
reported is the largest resident set of that process, its children not counted. The local
executor's process holds the models too; with `--executor ray` the driver holds none.

    python benchmarks/driver_memory.py --output driver_memory.json
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import argument_parser, environment, in_a_process, write_json

SETTINGS: dict[str, Any] = {
    "student": "demo:student",
    "teachers": ["demo:strong"],
    "verifier": "demo:addition",
    "methods": ["gkd"],
    "num_rollouts": 1,
    "nodes": 1,
    "continuations": 2,
    "max_tokens": 16,
    "shard_size": 16,
    "bootstrap_resamples": 100,
    "engine": "transformers",
    "control": False,
}
ALLOWED = 1.10


def child(settings: dict[str, Any]) -> None:
    """Make one run and print this process's peak memory."""
    import torch

    import gradalign

    torch.set_num_threads(1)
    start = time.monotonic()
    report = gradalign.score(**settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "questions": report.metadata["num_questions"],
        "peak_mib": round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1),
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(result))


def measure(questions: int, executor: str, padding: int) -> dict[str, Any]:
    """Run the given number of questions in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            **SETTINGS,
            "task": task_file(Path(folder), questions, padding),
            "executor": executor,
            "output_dir": f"{folder}/run",
        }
        arguments = ["--child", json.dumps(settings)]
        found = in_a_process(__file__, arguments, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    return dict(found)


def task_file(folder: Path, questions: int, padding: int) -> str:
    """Write the demo's additions as a questions file; each row carries some text to be kept."""
    from gradalign.demo.addition import generate

    path = folder / "questions.jsonl"
    with path.open("w") as file:
        for problem in generate(questions, seed=1):
            row = {
                "id": problem.prompt.rstrip("="),
                "prompt": problem.prompt,
                "answer": problem.answer,
                "solution": problem.response,
                "note": "x" * padding,
            }
            file.write(json.dumps(row) + "\n")
    return str(path)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--questions", type=int, nargs=2, default=[200, 2000])
    parser.add_argument("--executor", choices=["local", "ray"], default="local")
    parser.add_argument("--padding", type=int, default=0, help="characters of text per row")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    runs = []
    for questions in arguments.questions:
        runs.append(measure(questions, arguments.executor, arguments.padding))
        print(
            "{questions:6,} questions  {peak_mib:8,.1f} MiB  {seconds:7,.1f} s".format(**runs[-1])
        )
    ratio = runs[1]["peak_mib"] / runs[0]["peak_mib"]
    print(f"ratio {ratio:.3f} (at most {ALLOWED})")
    if arguments.output:
        record = {
            "runs": runs,
            "ratio": round(ratio, 4),
            "allowed": ALLOWED,
            "settings": {**SETTINGS, "executor": arguments.executor},
            "padding": arguments.padding,
            **environment(),
        }
        write_json(arguments.output, record)
    sys.exit(0 if ratio <= ALLOWED else 1)


if __name__ == "__main__":
    main()
