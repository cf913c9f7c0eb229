"""Tokens per second of targeted rollouts: the branch stage, raw vLLM, and the script people write.

    python benchmarks/throughput.py --workload bundled --workload medium --repeats 3

All rows of a workload answer the same requests, recorded from one run of the branch stage:
thousands of short continuations of nodes along spines, whose prompts share long prefixes. Every row
has a process of its own, in which further questions are done first to warm up. Rows take turns,
so that a busy spell of the machine does not hit one of them alone, and the best of the repeats
counts. Prints a table and writes JSON with hardware, versions and the full configuration; workloads
that the file holds of earlier runs stay in it.

Rows:
    raw LLM.generate       one call with all requests, with the arguments that our engine uses
    stage, ENGINE          gradalign's branch stage: scheduling, engine, decoding, verifier, tables
    stage, vllm, no cache  the same with prefix caching off
    plain script           per node and candidate, model.generate with num_return_sequences=n
    bare, by turns         two processes with an engine each and nothing else, one of them stopped
                           every few seconds: what a second worker brings at best
    ray, by turns          the branch stage on two Ray actors, one of them stopped likewise
    score, ENGINE          all of `gradalign.score`; the share of it spent inside engines and model
                           passes, and the same with loading models and starting engines
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import OUT, argument_parser, environment, in_a_process, write_json
from speed.rows import ROWS, measure
from speed.workloads import OF_GPU, WORKLOADS, make_config, prepare_run

GPU_ROWS = (
    "raw LLM.generate", "raw, vLLM's defaults", "raw, no seeds", "raw, defaults, no seeds",
    "stage, vllm", "teacher passes",
)  # fmt: skip
STAGES = tuple(
    row for row in ROWS if not row.startswith(("bare", "ray", "score", "raw,", "teacher"))
)
SCORES = tuple(row for row in ROWS if row.startswith("score"))
DEFAULT_ROWS: dict[str, tuple[str, ...]] = {
    "bundled": tuple(row for row in STAGES if row != "stage, vllm, no cache") + SCORES,
    "bundled-neyman": ("raw LLM.generate", "stage, vllm", "stage, transformers"),
    "medium": STAGES + SCORES,
    "long-prefix": ("stage, vllm", "stage, vllm, no cache"),
    "prefixes": ("stage, vllm", "stage, vllm, no cache", "stage, transformers", "plain script"),
    "real": ("raw LLM.generate", "stage, vllm"),
    "workers": tuple(row for row in ROWS if row.startswith(("bare", "ray"))),
    "long": ("score, vllm",),
    **dict.fromkeys(OF_GPU, GPU_ROWS),
}


def run_workload(
    name: str, rows: tuple[str, ...], repeats: int, student: str = ""
) -> dict[str, Any]:
    """Measure the rows of a workload in turns."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare_run(name, folder, student)
        found: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
        for repeat in range(repeats):
            for number, row in enumerate(rows):
                work_folder = folder / f"row-{repeat}-{number}"
                work_folder.mkdir()
                figures = _in_a_process(row, name, folder, work_folder)
                if figures is not None:
                    found[row].append(figures)
        config = make_config(name, folder, student).model_dump_json()
    return {
        **environment(),
        "about": WORKLOADS[name].about,
        "config": json.loads(config.replace(f"{temporary}/", "")),
        "prompt_tokens": WORKLOADS[name].prompt_tokens,
        "rows": {row: runs for row, runs in found.items() if runs},
    }


def _in_a_process(row: str, name: str, folder: Path, work_folder: Path) -> dict[str, Any] | None:
    arguments = ["--child", "--row", row, "--workload", name]
    arguments += ["--folder", str(folder), "--work-folder", str(work_folder)]
    log = work_folder / "stderr"
    try:
        figures: dict[str, Any] = in_a_process(__file__, arguments, errors=log)
    except subprocess.CalledProcessError as error:
        tail = log.read_text(errors="replace")[-2000:]
        print(f"{name}: {row} failed with status {error.returncode}:\n{tail}", file=sys.stderr)
        return None
    figures["tokens_per_second"] = figures["tokens"] / figures["seconds"]
    figures["load_average"] = os.getloadavg()[0]
    return figures


def table(name: str, result: dict[str, Any]) -> str:
    """Show a workload: the fastest repeat of every row."""
    best = {
        row: max(runs, key=lambda run: run["tokens_per_second"])
        for row, runs in result["rows"].items()
    }
    raw = best.get("raw LLM.generate", {}).get("tokens_per_second")
    plain = best.get("plain script", {}).get("tokens_per_second")
    lines = [
        f"{name}: {result['about']}",
        f"{'row':24}{'tokens/s':>10}{'per CPU s':>11}{'requests':>10}{'seconds':>9}"
        f"{'of raw':>8}{'x plain':>9}{'x one':>7}{'in models':>11}{'+ opening':>11}{'MiB':>7}",
    ]
    for row, run in best.items():
        speed = run["tokens_per_second"]
        spent = run["cpu_seconds"]
        line = f"{row:24}{speed:10,.0f}"
        line += f"{run['tokens'] / spent:11,.0f}" if spent else f"{'':11}"
        line += f"{run['requests']:10,}{run['seconds']:9.2f}"
        line += f"{speed / raw:8.2f}" if raw else f"{'':8}"
        line += f"{speed / plain:9.1f}" if plain else f"{'':9}"
        line += f"{run['times_one']:7.2f}" if "times_one" in run else f"{'':7}"
        for keys in (("model_seconds",), ("model_seconds", "opening_seconds")):
            share = sum(run.get(key, 0.0) for key in keys) / run["seconds"]
            line += f"{share:11.0%}" if all(key in run for key in keys) else f"{'':11}"
        lines.append(line + f"{max(run['peak_mib'], run['child_peak_mib']):7d}")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark, or one row of it in a child process."""
    parser = argument_parser(__doc__)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS))
    parser.add_argument("--row", action="append", choices=list(ROWS))
    parser.add_argument("--student", default="", help="checkpoint of the workload `real`")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT / "throughput.json")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work-folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        (row,), (name,) = options.row, options.workload
        print(json.dumps(measure(row, name, options.folder, options.work_folder)))
        return
    report = json.loads(options.out.read_text()) if options.out.exists() else {}
    named = [
        name
        for name, work in WORKLOADS.items()
        if name not in OF_GPU and (options.student or not work.real)
    ]
    for name in options.workload or named:
        if WORKLOADS[name].real and not options.student:
            parser.error(f"workload {name} needs --student")
        rows = tuple(options.row or DEFAULT_ROWS[name])
        report[name] = run_workload(name, rows, options.repeats, options.student)
        print(table(name, report[name]) + "\n", flush=True)
        write_json(options.out, report)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
