"""`gradalign export`: per-token weights for trainers."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer

from ..completion import complete_method_of_run, complete_teacher_of_run
from ..help import add_command
from ..options import RunArgument

HELP = """Write a weight per token of every response, for selective distillation.

One row per response: prompt_ids, token_ids, weights, scores (null where not measured),
spine_score, spine_kept. Positions that were not branched, or where nothing depends on the token,
get --elsewhere.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "export",
        _export,
        HELP,
        examples=(
            "gradalign export gradalign-demo",
            "gradalign export gradalign-demo --teacher demo:strong --method gkd \\\n"
            "    --rule scale --format jsonl --output weights.jsonl",
        ),
    )


def _export(
    run: RunArgument,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="The file; default: weights.FORMAT.")
    ] = None,
    file_format: Annotated[
        Literal["parquet", "jsonl"], typer.Option("--format", help="Kind of file.")
    ] = "parquet",
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Whose update is weighted; default: the best one's.",
            autocompletion=complete_teacher_of_run,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Of which method; default: the teacher's best.",
            autocompletion=complete_method_of_run,
        ),
    ] = None,
    rule: Annotated[
        Literal["keep", "drop", "scale"],
        typer.Option(help="keep what is above the threshold, drop what is below, or scale."),
    ] = "keep",
    score: Annotated[
        Literal["estimate", "bound", "weights"],
        typer.Option(
            help="The cosine, the careful end of its one-sided interval, or what other questions "
            "gain through the weights."
        ),
    ] = "estimate",
    threshold: Annotated[float, typer.Option(help="Score to compare with.")] = 0.0,
    elsewhere: Annotated[
        float | None,
        typer.Option(help="Weight without a score; default: keep 0, drop 1, scale the mean."),
    ] = None,
    spines: Annotated[
        Literal["all", "correct", "incorrect", "aligned"],
        typer.Option(help="Responses that keep any weight; aligned: above the threshold."),
    ] = "all",
    confidence: Annotated[float, typer.Option(help="Of the one-sided interval.")] = 0.95,
) -> None:
    from gradalign.report.export import ExportSettings, choose_arm, export, why_chosen
    from gradalign.report.report import read_report

    settings = ExportSettings(rule, score, threshold, elsewhere, spines, confidence)
    path = output or f"weights.{file_format}"
    report = read_report(run)
    arm = choose_arm(report, teacher, method)
    counts = export(
        report,
        path,
        file_format=file_format,
        teacher=arm.teacher,
        method=arm.method,
        settings=settings,
    )
    print(f"gradalign: {why_chosen(report, arm, teacher, method)}", file=sys.stderr)
    said = {"teacher": arm.teacher, "method": arm.method, "rule": rule, **counts}
    said["mean_weight"] = round(counts["mean_weight"], 4)
    print(json.dumps(said), file=sys.stderr)
    typer.echo(path)
