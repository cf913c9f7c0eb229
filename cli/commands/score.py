"""`gradalign score`: the main job."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..gating import (
    FailUnderOption,
    JunitOption,
    check_ahead,
    print_outcomes,
    stop_if_failed,
    try_conditions,
)
from ..help import add_command
from ..options import COMMON, build_config, config_parameters, with_parameters
from ..output import DisplayOption, JsonOption, print_previews, print_report
from .plan import PLACE, ProbeOption, has_folder, show_plan

HELP = """Score teachers and methods against the ideal gradient.

Every option is also an environment variable (GRADALIGN_NUM_ROLLOUTS) and a key of --config.
Running the same command again resumes: finished shards are not done again.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "score",
        with_parameters(_score, config_parameters()),
        HELP,
        common=COMMON,
        examples=(
            "gradalign score --student demo:student --teacher demo:strong \\\n"
            "    --teacher self+answer --task demo:addition --limit 12 \\\n"
            "    --output-dir runs/first",
            "gradalign score --config runs/first/run.json --seed 1 --output-dir runs/second",
        ),
    )


def _score(
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="YAML, TOML or JSON file of settings, or a run.json.",
            rich_help_panel="The run",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with what is in --output-dir.")
    ] = True,
    fail_under: FailUnderOption = None,
    junit: JunitOption = None,
    print_prompts: Annotated[
        int | None,
        typer.Option(
            "--print-prompts",
            min=1,
            help="Show the prompts of the first N questions, as text and as ids, and stop; "
            "needs no --output-dir.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Make all checks, print the plan, and write nothing; needs no --output-dir.",
        ),
    ] = False,
    probe: ProbeOption = False,
    display: DisplayOption = "auto",
    json_output: JsonOption = False,
    **settings: Any,
) -> None:
    from gradalign.progress import reporting

    conditions = fail_under or []
    writes = print_prompts is None and not dry_run
    check_folder = writes or has_folder(settings, config)
    if not check_folder:
        settings["output_dir"] = PLACE
    merged = build_config(settings, config)
    if not writes:
        check_ahead(conditions, junit, merged)
    if print_prompts is not None:
        print_previews(merged, print_prompts, json_output=json_output)
        return
    if dry_run:
        show_plan(
            merged,
            probe=probe,
            display=display,
            json_output=json_output,
            resume=resume,
            check_folder=check_folder,
        )
        return
    with reporting(display) as reporter:
        check_ahead(conditions, junit, merged)  # a typing error should not cost a run
        from gradalign.pipeline import score_config

        report = score_config(merged, resume=resume, reporter=reporter, with_probe=probe)
    print_report(report, json_output=json_output)
    if conditions:
        outcomes = try_conditions(report, conditions, junit)
        print_outcomes(outcomes, to_stderr=json_output)
        stop_if_failed(outcomes)
