"""`--fail-under` as several commands have it: a table, annotations, exit status 3 or 5."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradalign.errors import RunError, ThresholdError, UndecidedError, UsageError
from gradalign.report.format import visible
from gradalign.report.terminal.tables import Column, make_table, print_table

if TYPE_CHECKING:
    from gradalign.config import ScoreConfig
    from gradalign.report.gate import Outcome
    from gradalign.report.report import Report

FailUnderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-under",
        metavar="CONDITION",
        help="Such as 'pooled_low[gkd@demo:strong,incorrect]>=0.1', repeatable; status 3 where "
        "one does not hold, 5 where one is undecided.",
        rich_help_panel="The run",
    ),
]
JunitOption = Annotated[
    str | None,
    typer.Option(
        "--junit",
        metavar="FILE",
        help="Write JUnit XML of the conditions to this file.",
        rich_help_panel="The run",
    ),
]


def try_conditions(
    report: Report, conditions: Sequence[str], junit_file: str | None
) -> list[Outcome]:
    """Try conditions, tell GitHub Actions and the JUnit file; nothing on stdout.

    Raises:
        UsageError: a condition cannot be used.
        RunError: the JUnit file cannot be written.
    """
    from gradalign.report.gate import check, github_annotations, junit, warnings_of
    from gradalign.store.output_file import replacing

    outcomes = check(report, conditions)
    for line in warnings_of(conditions):
        print(f"warning: {visible(line)}", file=sys.stderr)
    if junit_file is not None:
        try:
            with replacing(junit_file, _is_junit) as target:
                Path(target).write_bytes(junit(outcomes, report.path))
        except RunError as error:
            raise RunError(f"--junit: {error.message}", "Give another file.") from error
        except OSError as error:
            raise RunError(f"cannot write --junit {junit_file}: {error.strerror}.") from error
    if os.environ.get("GITHUB_ACTIONS"):
        for line in github_annotations(outcomes):
            print(line, file=sys.stderr)
    return outcomes


def _is_junit(path: str) -> bool:
    from gradalign.store.output_file import head_of

    return b'<testsuite name="gradalign ' in head_of(path)


def check_ahead(conditions: Sequence[str], junit_file: str | None, config: ScoreConfig) -> None:
    """Refuse, before a run, conditions it cannot have and a JUnit file that cannot be written.

    Raises:
        UsageError: one of them, or a file for conditions that are not given.
    """
    if conditions:
        from gradalign.report.gate import check_ahead as conditions_ahead

        conditions_ahead(conditions, config)
    if junit_file is None:
        return
    if not conditions:
        raise UsageError("--junit has no conditions to write.", "Give at least one --fail-under.")
    path = Path(junit_file)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"--junit {junit_file} cannot be written.", "Give a file in a folder.")


def print_outcomes(outcomes: Sequence[Outcome], *, to_stderr: bool = False) -> None:
    """Print a table of all conditions, failures first."""
    from gradalign.report.format import number

    reasons = any(outcome.reason for outcome in outcomes)
    rows = (
        (
            "ok" if outcome.passed else "undecided" if outcome.undecided else "FAILED",
            outcome.condition,
            number(outcome.value, 4),
            outcome.name,
            *([outcome.reason] if reasons else []),
        )
        for outcome in sorted(outcomes, key=lambda item: (item.passed, item.undecided))
    )
    table = make_table(
        [
            Column("", whole=True, name=True),
            Column("condition", name=True),
            Column("value", right=True, whole=True),
            Column("tried on", priority=1),
            *([Column("why", priority=1)] if reasons else []),
        ],
        rows,
        lines=False,
        style=lambda row: {"ok": "", "undecided": "yellow"}.get(str(row[0]), "red"),
    )
    print_table(table, width=132, file=sys.stderr if to_stderr else None)


def stop_if_failed(outcomes: Sequence[Outcome]) -> None:
    """Leave with status 3 if a condition does not hold, with 5 if one is undecided.

    Raises:
        ThresholdError: one does not hold.
        UndecidedError: all others hold, and the interval of one holds its threshold.
    """
    failed = [outcome for outcome in outcomes if outcome.status == "fail"]
    if failed:
        raise ThresholdError(
            f"{len(failed)} of {len(outcomes)} conditions failed: "
            + "; ".join(outcome.message for outcome in failed[:3])
            + (", ..." if len(failed) > 3 else "")
            + "."
        )
    undecided = [outcome for outcome in outcomes if outcome.undecided]
    if undecided:
        raise UndecidedError(
            f"{len(undecided)} of {len(outcomes)} conditions are undecided: "
            + "; ".join(outcome.message for outcome in undecided[:3])
            + (", ..." if len(undecided) > 3 else "")
            + ".",
            "Take more questions (--limit).",
        )
