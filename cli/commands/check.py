"""`gradalign check`: conditions on a finished run, for continuous integration."""

from __future__ import annotations

from typing import Annotated

import typer

from gradalign.errors import UsageError

from ..gating import FailUnderOption, JunitOption, print_outcomes, stop_if_failed, try_conditions
from ..help import add_command
from ..options import RunArgument
from ..output import json_flag, print_json

HELP = """Check conditions on a run's summary; status 3 if one does not hold, 5 if one is undecided.

A condition is COLUMN[METHOD@TEACHER,SPLIT] with >=, <=, > or < and a number. The split is `all`
if left out; * matches any method or teacher. `gradalign recommend` judges, this only compares.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "check",
        _check,
        HELP,
        examples=(
            "gradalign check gradalign-demo --fail-under 'pooled[gkd@demo:strong]>=-1'",
            "gradalign check gradalign-demo --fail-under 'pooled[*@*,incorrect]>=-1' \\\n"
            "    --junit alignment.xml",
        ),
    )


def _check(
    run: RunArgument,
    fail_under: FailUnderOption = None,
    junit: JunitOption = None,
    json_output: Annotated[bool, json_flag("every condition's outcome")] = False,
) -> None:
    from gradalign.report.report import read_report

    if not fail_under:
        raise UsageError("nothing to check.", "Give at least one --fail-under.")
    outcomes = try_conditions(read_report(run), fail_under, junit)
    if json_output:
        print_json([outcome.to_dict() for outcome in outcomes], escape=True)
    else:
        print_outcomes(outcomes)
    stop_if_failed(outcomes)
