"""The summary of the diagnostics: a row per teacher, diagnostic and split, with advice."""

from __future__ import annotations

from collections.abc import Sequence

from gradalign.diagnostics import NAMES, load
from gradalign.diagnostics.base import Advice, Consequence, Figures
from gradalign.diagnostics.collector import Collector, FigureKey
from gradalign.diagnostics.predictors import FILE, correlate_predictors
from gradalign.stages.base import Run
from gradalign.store.table_builder import Rows

TABLE = "diagnostics_summary"


def summarise_diagnostics(run: Run, names: Sequence[str]) -> None:
    """Write the summary of every diagnostic that the run's folder has tables of.

    Args:
        run: a run whose other stages are done.
        names: the diagnostics that were just computed; the predictors are correlated anew if
            they are among them.
    """
    if "predictors" in names:
        correlate_predictors(run)
    every = [load(name) for name in NAMES]
    collector = Collector()
    for shard in run.shards():
        for diagnostic in every:
            diagnostic.collect(run, shard, collector)
    figures = list(collector.figures(run.config.seed, run.config.bootstrap_resamples))
    for diagnostic in every:
        figures += diagnostic.figures(run)
    known = Figures(figures)
    said: dict[FigureKey, Advice] = {}
    for teacher in known.teachers:
        for diagnostic in every:
            said |= diagnostic.advise(teacher, known)
    rows = Rows(TABLE)
    silent = Advice("", Consequence.NOTHING)
    for figure in figures:
        advice = said.get(figure.key, silent) if figure.split == "all" else silent
        rows.add(
            mechanism=figure.key.mechanism,
            teacher=figure.key.teacher,
            diagnostic=figure.key.diagnostic,
            variant=figure.key.variant,
            split=figure.split,
            num_questions=figure.num_questions,
            value=figure.estimate.value,
            low=figure.estimate.low,
            high=figure.estimate.high,
            advice=advice.text,
            consequence=int(advice.consequence),
        )
    if figures:
        run.folder.write_table(TABLE, FILE, rows.table_of())
