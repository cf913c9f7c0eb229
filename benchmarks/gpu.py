"""How fast is gradalign on a GPU? Whole runs, the branch stage beside raw vLLM, teacher passes.

    python benchmarks/gpu.py --student FOLDER --out gpu.json        at most nine minutes of commands
    python benchmarks/gpu.py --small --out gpu-small.json           tries it without a GPU

Three parts: a whole `gradalign score` of --student on vLLM; rows of `throughput.py` for --student
and for a random model of Qwen3-1.7B's shape (raw LLM.generate with our arguments and with vLLM's
defaults, with seeds and without, the branch stage on the same requests, and teacher passes).
Every row has a process of its own. What is done is in the file at once: the same command goes on
with the rest, so that the benchmark fits machines that are lent for minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import OUT, argument_parser, environment, write_json
from speed.workloads import prepare_run
from throughput import GPU_ROWS

THROUGHPUT = Path(__file__).parent / "throughput.py"
PREPARE = "prepare"


def whole_run(student: str, folder: Path, seconds: float, *, small: bool) -> dict[str, Any]:
    """Make a run with the command line, and say where its time went."""
    sizes = ["--limit", "2", "--nodes", "4"] if small else ["--limit", "24", "--nodes", "8"]
    command = [
        sys.executable, "-m", "gradalign_cli.main", "score", "--student", student,
        "--teacher", "self+answer", "--task", "demo:addition", "--engine", "vllm", "--go-on",
        "--max-tokens", "64", "--diagnose", "none", "--display", "plain",
        "--output-dir", str(folder / "run"), *sizes,
    ]  # fmt: skip
    begin = time.perf_counter()
    subprocess.run(command, check=True, timeout=seconds)
    wall = time.perf_counter() - begin
    record = json.loads((folder / "run" / "run.json").read_text())
    stages = record["stages"]
    drawn = record["totals"]["continuation_tokens"]
    return {
        "seconds": wall,
        "totals": record["totals"],
        "stages": {name: stage["seconds"] for name, stage in stages.items()},
        "model_seconds": sum(stage["model_seconds"] for stage in stages.values()),
        "engine_starts": record["engine_starts"],
        "branch_tokens_per_second": drawn / stages["branch"]["seconds"],
    }


def one_row(name: str, row: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Measure one row in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as work_folder:
        command = [
            sys.executable, str(THROUGHPUT), "--child", "--row", row, "--workload", name,
            "--folder", str(folder), "--work-folder", work_folder,
        ]  # fmt: skip
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, timeout=seconds
        )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures | {"tokens_per_second": figures["tokens"] / figures["seconds"]}


def main() -> None:
    """Do what the file does not hold yet, as far as the time goes."""
    parser = argument_parser(__doc__)
    parser.add_argument("--student", default="", help="checkpoint of the whole run and `gpu-real`")
    parser.add_argument("--small", action="store_true", help="small shapes, for a CPU")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--work-dir", type=Path, default=OUT / "gpu")
    parser.add_argument("--out", type=Path, default=OUT / "gpu.json")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    report = json.loads(options.out.read_text()) if options.out.exists() else {}
    report.setdefault("environment", environment())
    parts: list[tuple[str, str]] = [("score", "")] if options.student else []
    named = ["gpu-small"] if options.small else ["gpu-real"] * bool(options.student) + ["gpu-1.7b"]
    parts += [(name, row) for name in named for row in (PREPARE, *GPU_ROWS)]
    for name, row in parts:
        folder = options.work_dir / name
        found = report.setdefault(name, {})
        done = found.get(row, {}) if row else found
        if done and "failed" not in done:
            continue
        left = end - time.monotonic()
        if left < 30:
            print(f"{name} {row}: not begun, the time is up; the same command goes on")
            break
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if name == "score":
                found |= whole_run(options.student, folder, left, small=options.small)
            elif row == PREPARE:
                begin = time.perf_counter()
                prepare_run(name, folder, options.student)
                found[row] = {"seconds": time.perf_counter() - begin}
            else:
                found[row] = one_row(name, row, folder, left)
        except subprocess.TimeoutExpired:
            print(f"{name} {row}: cut off, the time is up; the same command goes on")
            break
        except subprocess.CalledProcessError as error:  # tried again by the next command
            print(f"{name} {row}: status {error.returncode}", file=sys.stderr)
            report[name] = found | {row: {"failed": error.returncode}} if row else {}
        write_json(options.out, report)
        shown = report[name].get(row, {}) if row else found
        print(name, row, json.dumps({k: v for k, v in shown.items() if k != "totals"}), flush=True)


if __name__ == "__main__":
    main()
