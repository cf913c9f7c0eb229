"""`gradalign plan`: what a run would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradalign.config import read_config_file

from .help import add_command
from .options import COMMON, build_config, config_parameters, with_parameters
from .output import Column, DisplayOption, json_flag, make_table, print_json, print_table

if TYPE_CHECKING:
    from gradalign.config import ScoreConfig
    from gradalign.planning import Memory, ModelMemory, Plan

HELP = """Say what a run would cost, before it is run.

Takes the options of `gradalign score` (without --output-dir, if you like), makes all of its checks,
and writes nothing. Without --probe lengths and numbers of candidates are upper bounds.
"""

PLACE = "gradalign-run"
"""Stands for the folder of a run that is not to be made."""

ProbeOption = Annotated[
    bool,
    typer.Option(
        "--probe",
        help="Open the models, sample a few questions, and measure instead of assuming.",
    ),
]

LABELS = {
    "questions": "questions",
    "spines": "spines",
    "spine_prompt_tokens": "prompt tokens of spines",
    "spine_tokens": "generated tokens of spines",
    "nodes": "nodes",
    "branches": "candidates",
    "continuations": "targeted rollouts",
    "continuation_prompt_tokens": "prompt tokens of targeted rollouts",
    "continuation_tokens": "generated tokens of targeted rollouts",
    "student_passes": "student passes",
    "teacher_passes": "teacher passes",
    "forced_tokens": "tokens read in these passes",
    "scored_tokens": "continuation tokens scored",
    "prefix_continuations": "responses from prefixes (diagnostic)",
    "prefix_tokens": "tokens generated for them",
}


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "plan",
        with_parameters(_plan, config_parameters({"output_dir": PLACE})),
        HELP,
        common=COMMON - {"output_dir"} | {"probe", "json_output"},
        examples=(
            "gradalign plan --student demo:student --teacher demo:strong \\\n"
            "    --task demo:addition --limit 100",
            "gradalign plan --config runs/first/run.json --limit 60 --probe",
        ),
    )


def _plan(
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="YAML, TOML or JSON file of settings, or a run.json.",
            rich_help_panel="The run",
        ),
    ] = None,
    probe: ProbeOption = False,
    display: DisplayOption = "auto",
    json_output: Annotated[bool, json_flag("the plan", alone=True)] = False,
    **settings: Any,
) -> None:
    given = settings.get("output_dir") or (
        config is not None and "output_dir" in read_config_file(config)
    )
    if not given:
        settings["output_dir"] = PLACE
    show_plan(
        build_config(settings, config),
        probe=probe,
        display=display,
        json_output=json_output,
        check_folder=bool(settings.get("output_dir")) and bool(given),
    )


def show_plan(
    config: ScoreConfig,
    *,
    probe: bool,
    display: DisplayOption,
    json_output: bool,
    resume: bool = True,
    check_folder: bool = True,
) -> None:
    """Make a plan and print it."""
    from gradalign.pipeline import plan_config
    from gradalign.progress import make_reporter

    plan = plan_config(
        config,
        resume=resume,
        reporter=make_reporter(display),
        with_probe=probe,
        check_folder=check_folder,
    )
    if json_output:
        print_json(plan.as_dict(), escape=True)
    else:
        print_plan(plan)


def print_plan(plan: Plan) -> None:
    """Print a plan as a table."""
    from dataclasses import asdict

    from gradalign.report.format import duration, size

    figures = asdict(plan.figures)
    rows: list[tuple[str, str] | None] = [
        *((label, f"{figures[name]:,}") for name, label in LABELS.items()),
        ("disk, uncompressed", size(figures["disk_bytes"])),
        None,
    ]
    for kind, seconds in asdict(plan.seconds).items():
        label = "opening models" if kind == "other" else kind
        rows.append((f"time: {label}", "unknown" if seconds is None else duration(seconds)))
    table = make_table(
        [Column("what"), Column("how much", right=True)],
        [*rows, None, *_memory(plan.memory)],
        title="Plan (measured by a probe)" if plan.measured else "Plan (upper bounds)",
        header=False,
    )
    print_table(table, notes=(f"- {line}" for line in plan.assumptions), width=100)


def _memory(memory: Memory) -> list[tuple[str, str]]:
    from gradalign.report.format import size

    rows = [(f"weights: {model.name}", _weights(model)) for model in memory.models]
    if memory.num_devices:
        there = f"{size(memory.free_bytes)} free of {size(memory.total_bytes)}"
        rows.append((f"GPU: {memory.num_devices} x {memory.device_name}", there))
    else:
        rows.append(("GPU", "none: models run in the machine's memory"))
        rows.append((f"memory ({memory.device_name})", size(memory.total_bytes)))
    unknown = "unknown"
    rows.append(
        (
            "keys and values of the longest sequence",
            unknown if memory.sequence_bytes is None else size(memory.sequence_bytes),
        )
    )
    needed = unknown if memory.needed_bytes is None else size(memory.needed_bytes)
    verdict = {True: "fits", False: "DOES NOT FIT", None: ""}[memory.fits]
    rows.append(("needed at once, at least", f"{needed} {verdict}".strip()))
    return rows


def _weights(model: ModelMemory) -> str:
    from gradalign.report.format import size

    if model.parameters is None or model.weight_bytes is None:
        return "unknown"
    return f"{model.parameters / 1e6:,.1f} M, {size(model.weight_bytes)}"
