"""`gradalign plan`: what a run would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradalign.config import read_config_file

from ..help import add_command
from ..options import COMMON, build_config, config_parameters, with_parameters
from ..output import Column, DisplayOption, json_flag, make_table, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gradalign.config import ScoreConfig
    from gradalign.planning import Memory, ModelMemory, Plan

HELP = """Say what a run would cost, before it is run.

Takes the options of `gradalign score` (without --output-dir, if you like), makes all of its checks,
and writes nothing. It says what is likely, by ratios of past runs, and what is the most; --probe
measures, and so does a run of these settings that is in --output-dir.
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

FullOption = Annotated[
    bool,
    typer.Option("--full", help="Show every row: tokens, passes, stages, and every model's size."),
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
    "teacher_answers": "answers of teachers (--teacher-accuracy)",
    "teacher_answer_tokens": "tokens generated for them",
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
    full: FullOption = False,
    display: DisplayOption = "auto",
    json_output: Annotated[bool, json_flag("the plan", alone=True)] = False,
    **settings: Any,
) -> None:
    given = has_folder(settings, config)
    if not given:
        settings["output_dir"] = PLACE
    show_plan(
        build_config(settings, config),
        probe=probe,
        full=full,
        display=display,
        json_output=json_output,
        check_folder=given,
    )


def has_folder(settings: Mapping[str, Any], config: str | None) -> bool:
    """Whether a command's flags or its file of settings say where the run goes."""
    in_file = config is not None and "output_dir" in read_config_file(config)
    return settings.get("output_dir") is not None or in_file


def show_plan(
    config: ScoreConfig,
    *,
    probe: bool,
    display: DisplayOption,
    json_output: bool,
    resume: bool = True,
    check_folder: bool = True,
    full: bool = False,
) -> None:
    """Make a plan and print it."""
    from gradalign.progress import reporting

    with reporting(display) as reporter:
        from gradalign.pipeline import plan_config

        plan = plan_config(
            config,
            resume=resume,
            reporter=reporter,
            with_probe=probe,
            check_folder=check_folder,
        )
    if json_output:
        print_json(plan.as_dict(), escape=True)
    else:
        print_plan(plan, full=full)


BASIS = {
    "typical": "Likely: by ratios of past runs of the bundled models; --probe measures this one.",
    "probe": "Likely: measured by a probe of a few questions.",
    "begun": "Likely: by what the unfinished run in the output folder has counted so far.",
    "run": "This is what the finished run in the output folder came to.",
}


def print_plan(plan: Plan, *, full: bool = False) -> None:
    """Print a plan: what is likely in a sentence, then beside the most that it can be.

    Args:
        plan: the plan.
        full: every row, and all assumptions.
    """
    _print_sentence(headline(plan))
    rows = _all_rows(plan) if full else _main_rows(plan)
    most = "probe" if plan.measured else "at most"
    table = make_table(
        [
            Column("what"),
            Column("likely", right=True, whole=True),
            Column(most, right=True, whole=True),
        ],
        [*rows, None, *(_memory(plan.memory) if full else [_memory_in_short(plan.memory)])],
        title="Plan (measured by a probe)" if plan.measured else "Plan (most: upper bounds)",
    )
    engine = plan.engine
    times = "once" if engine.number == 1 else f"{engine.number} times"
    starts = f"- The student's engine will be opened {times}: {engine.reason}."
    kept = plan.assumptions if full else plan.assumptions[: _warnings(plan)]
    more = [] if full else ["--full has every row and what is assumed."]
    notes = [starts, *(f"- {line}" for line in kept), BASIS[plan.likely.basis], *more]
    print_table(table, notes=notes)


def _print_sentence(text: str) -> None:
    """Print a sentence and an empty line; on a terminal no word is torn apart."""
    import shutil
    import sys
    import textwrap

    lines = [text]
    if sys.stdout.isatty():
        lines = textwrap.wrap(text, max(shutil.get_terminal_size().columns - 1, 20))
    print("\n".join(lines), end="\n\n")


def headline(plan: Plan) -> str:
    """Return the likely time, rollouts and bytes of a plan in one sentence, and the bounds."""
    from gradalign.progress import spoken
    from gradalign.report.format import size

    likely, most = plan.likely, plan.figures
    made = likely.figures.continuations
    if likely.basis == "run":
        took = "" if likely.seconds.total is None else f" in {spoken(likely.seconds.total)}"
        return (
            f"This run is done: it made {made:,} targeted rollouts{took} and takes "
            f"{size(likely.figures.disk_bytes)} on disk."
        )
    time = "an unknown time"
    if likely.seconds.total is not None and likely.seconds_range is not None:
        low, high = map(spoken, likely.seconds_range)
        same_unit = low.partition(" ")[2] == high.partition(" ")[2] and low.count(" ") == 1
        low = low.partition(" ")[0] if same_unit else low
        time = f"about {spoken(likely.seconds.total)} ({low} to {high})"
    low_made, high_made = map(_rounded, likely.rollouts_range)
    bounds = [f"{most.continuations:,} rollouts", size(most.disk_bytes)]
    if plan.seconds.total is not None:
        bounds.insert(0, spoken(plan.seconds.total))
    return (
        f"Likely {time}, {_rounded(made)} targeted rollouts ({low_made} to {high_made}) and "
        f"{size(likely.figures.disk_bytes)} on disk; at most {', '.join(bounds)}."
    )


def _rounded(count: float) -> str:
    """Return a count with two digits that say something: 8,744 as 8,700."""
    whole = round(count)
    return f"{round(whole, 2 - len(str(whole))):,}"


def _times(plan: Plan, kind: str) -> tuple[str, str]:
    from gradalign.progress import spoken

    pair = (getattr(plan.likely.seconds, kind), getattr(plan.seconds, kind))
    likely, most = ("unknown" if value is None else spoken(value) for value in pair)
    return likely, most


_Row = tuple[str, str, str] | None


def _main_rows(plan: Plan) -> list[_Row]:
    from gradalign.report.format import size

    likely, most = plan.likely.figures, plan.figures
    generated = [
        f.spine_tokens + f.continuation_tokens + f.prefix_tokens + f.teacher_answer_tokens
        for f in (likely, most)
    ]
    read = [f.forced_tokens + f.scored_tokens for f in (likely, most)]
    rows: list[_Row] = [
        ("questions", f"{likely.questions:,}", f"{most.questions:,}"),
        ("responses (spines)", f"{likely.spines:,}", f"{most.spines:,}"),
        ("targeted rollouts", _rounded(likely.continuations), f"{most.continuations:,}"),
        ("tokens generated", _rounded(generated[0]), f"{generated[1]:,}"),
        ("tokens read", _rounded(read[0]), f"{read[1]:,}"),
        ("disk", size(likely.disk_bytes), size(most.disk_bytes)),
        None,
        ("time: responses", *_times(plan, "sample")),
        ("time: reading responses", *_times(plan, "distribute")),
        ("time: targeted rollouts", *_times(plan, "branch")),
    ]
    if most.scored_tokens:
        rows.append(("time: reading rollouts", *_times(plan, "score")))
    return [*rows, ("time: rest", *_times(plan, "other")), ("time: all", *_times(plan, "total"))]


def _all_rows(plan: Plan) -> list[_Row]:
    from dataclasses import asdict

    from gradalign.report.format import size

    likely, most = asdict(plan.likely.figures), asdict(plan.figures)
    return [
        *((label, f"{likely[name]:,}", f"{most[name]:,}") for name, label in LABELS.items()),
        ("disk (most: uncompressed)", size(likely["disk_bytes"]), size(most["disk_bytes"])),
        None,
        *(
            (f"time: {'rest' if kind == 'other' else kind}", *_times(plan, kind))
            for kind in asdict(plan.seconds)
        ),
    ]


def _warnings(plan: Plan) -> int:
    """Return how many of a plan's remarks are warnings: all before the first assumption."""
    for number, line in enumerate(plan.assumptions):
        if line.startswith(("every response has", "measured on")):
            return number
    return len(plan.assumptions)


def _fit(memory: Memory) -> str:
    return {True: "fits", False: "DOES NOT FIT", None: "unknown"}[memory.fits]


def _memory_in_short(memory: Memory) -> tuple[str, str, str]:
    from gradalign.report.format import size

    needed = "unknown" if memory.needed_bytes is None else size(memory.needed_bytes)
    fit = {True: "fits", False: "EXCEEDS", None: "of"}[memory.fits]
    return ("memory, at least", needed, f"{fit} {size(memory.total_bytes)}")


def _memory(memory: Memory) -> list[tuple[str, str, str]]:
    from gradalign.report.format import size

    rows = [(f"weights: {model.name}", *_weights(model)) for model in memory.models]
    if memory.num_devices:
        name = f"GPU: {memory.num_devices} x {memory.device_name}"
        rows.append((name, f"{size(memory.free_bytes)} free", size(memory.total_bytes)))
    else:
        rows.append(("GPU: none, models run in the machine's memory", "", ""))
        rows.append((f"memory ({memory.device_name})", "", size(memory.total_bytes)))
    unknown = "unknown"
    sequence = unknown if memory.sequence_bytes is None else size(memory.sequence_bytes)
    rows.append(("keys and values of the longest sequence", "", sequence))
    needed = unknown if memory.needed_bytes is None else size(memory.needed_bytes)
    rows.append(("needed at once, at least", needed, _fit(memory)))
    return rows


def _weights(model: ModelMemory) -> tuple[str, str]:
    from gradalign.report.format import size

    if model.parameters is None or model.weight_bytes is None:
        return "unknown", ""
    return f"{model.parameters / 1e6:,.1f} M", size(model.weight_bytes)
