"""The summary of the diagnostics: a row per teacher, diagnostic and split, with advice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradalign.diagnostics import advice
from gradalign.diagnostics.advice import Value
from gradalign.diagnostics.collect import (
    collect_contexts,
    collect_horizon,
    collect_prefix,
    collect_tokens,
    collect_topk,
)
from gradalign.diagnostics.contexts_stage import TABLE as CONTEXTS_TABLE
from gradalign.diagnostics.horizon_stage import TABLE as HORIZON_TABLE
from gradalign.diagnostics.horizon_stage import special_ids
from gradalign.diagnostics.predictors import FILE, correlate_predictors
from gradalign.diagnostics.predictors import TABLE as PREDICTORS_TABLE
from gradalign.diagnostics.sums import Collector, Figure, Key
from gradalign.diagnostics.topk_stage import TABLE as TOPK_TABLE
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
    collector = Collector()
    special = special_ids(run)
    for shard in run.shards():
        if run.folder.has_table("diagnostics", shard):
            collect_tokens(run, shard, special, collector)
        if run.folder.has_table(TOPK_TABLE, shard):
            collect_topk(run, shard, collector)
        if run.folder.has_table(CONTEXTS_TABLE, shard):
            collect_contexts(run, shard, collector)
        if run.folder.has_table(HORIZON_TABLE, shard):
            collect_horizon(run, shard, collector)
        collect_prefix(run, shard, collector)
    figures = list(collector.figures(run.config.seed, run.config.bootstrap_resamples))
    figures += _best_predictors(run)
    said = _advice(figures)
    rows = Rows(TABLE)
    for figure in figures:
        rows.add(
            mechanism=figure.key.mechanism,
            teacher=figure.key.teacher,
            diagnostic=figure.key.diagnostic,
            variant=figure.key.variant,
            split=figure.split,
            num_questions=figure.num_questions,
            value=figure.value,
            low=figure.low,
            high=figure.high,
            advice=said.get(figure.key, "") if figure.split == "all" else "",
        )
    if figures:
        run.folder.write_table(TABLE, FILE, rows.table_of())


def _best_predictors(run: Run) -> list[Figure]:
    """Return the best predictor of each teacher and method; of none the value is missing."""
    if not run.folder.has_table(PREDICTORS_TABLE, FILE):
        return []
    frame = run.folder.read_table(PREDICTORS_TABLE, FILE).to_pandas()
    found = []
    for (teacher, method), group in frame.groupby(["teacher", "method"], sort=False, observed=True):
        best = group[group["best"]]
        questions = int(group["num_questions"].max())
        if len(best):
            row = best.iloc[0]
            name, ends = str(row["predictor"]), (row["correlation"], row["low"], row["high"])
        else:
            name, ends = "none", (np.nan, np.nan, np.nan)
        key = Key("predictors", str(teacher), "best_predictor", f"{method}: {name}")
        found.append(Figure(key, "all", questions, *map(float, ends)))
    return found


def _advice(figures: Sequence[Figure]) -> dict[Key, str]:
    """Return the sentence of each figure that has one."""
    by_key: dict[Key, dict[str, Value]] = {}
    for figure in figures:
        value = Value(figure.value, figure.low, figure.high)
        by_key.setdefault(figure.key, {})[figure.split] = value
    said: dict[Key, str] = {}
    for teacher in dict.fromkeys(figure.key.teacher for figure in figures):
        said.update(_advice_on(teacher, by_key))
    return said


def _advice_on(teacher: str, by_key: dict[Key, dict[str, Value]]) -> dict[Key, str]:
    def variants(mechanism: str, diagnostic: str) -> dict[str, Value]:
        return {
            key.variant: splits["all"]
            for key, splits in by_key.items()
            if (key.mechanism, key.teacher, key.diagnostic) == (mechanism, teacher, diagnostic)
            and "all" in splits
        }

    def numbered(mechanism: str, diagnostic: str) -> dict[float, Value]:
        found = variants(mechanism, diagnostic)
        parts = {name: name.partition("=")[2] for name in found}
        return {float(parts[name]): found[name] for name in found if "," not in name}

    said: dict[Key, str] = {}
    key = Key("overlap", teacher, "overlap_mass_student")
    if key in by_key:
        said[key] = advice.overlap_advice(by_key[key]["all"])
    full = Key("topk", teacher, "alignment", "full")
    if full in by_key:
        said[full] = advice.topk_advice(
            _cases(variants("topk", "alignment_gain")), _cases(variants("topk", "cosine_to_full"))
        )
    for variant, share in variants("contexts", "shared_share").items():
        conflict = variants("contexts", "conflict")[variant]
        said[Key("contexts", teacher, "shared_share", variant)] = advice.contexts_advice(
            share, conflict, variant.removesuffix(" contexts")
        )
    token = Key("horizon", teacher, "alignment", "gamma=0")
    if token in by_key:
        said[token] = advice.horizon_advice(
            numbered("horizon", "alignment_gain"),
            numbered("horizon", "noise_ratio"),
            numbered("horizon", "alignment"),
        )
        gain = variants("horizon", "alignment_gain")["gamma=0,without special tokens"]
        key = Key("horizon", teacher, "alignment_gain", "gamma=0,without special tokens")
        said[key] = advice.special_advice(gain)
    key = Key("horizon", teacher, "negative_share")
    if key in by_key:
        depth = {s: v for s, v in by_key.get(token, {}).items() if s.startswith("position:")}
        said[key] = advice.signal_advice(by_key[key]["all"], depth)
    said.update(_advice_on_predictors(teacher, variants("predictors", "best_predictor")))
    drop = numbered("prefix", "drop")
    if drop and teacher:
        key = Key("prefix", teacher, "drop", f"depth={max(drop):g}")
        said[key] = advice.prefix_advice(drop, numbered("prefix", "edge"))
    return said


def _advice_on_predictors(teacher: str, best: dict[str, Value]) -> dict[Key, str]:
    """Say it once for all methods with the same best predictor and sign, with the strongest."""
    alike: dict[tuple[str, bool], list[str]] = {}
    for variant, value in best.items():
        alike.setdefault((variant.rpartition(": ")[2], value.value > 0), []).append(variant)
    said = {}
    for (name, _), group in alike.items():
        # Of none there are no correlations, and the order stays.
        group.sort(key=lambda variant: -abs(best[variant].value) if name != "none" else 0.0)
        methods = [variant.rpartition(": ")[0] for variant in group]
        said[Key("predictors", teacher, "best_predictor", group[0])] = advice.predictors_advice(
            methods, "" if name == "none" else name, best[group[0]]
        )
    return said


def _cases(variants: dict[str, Value]) -> dict[tuple[int, str], Value]:
    """Turn `k=4,renorm` into (4, "renorm")."""
    found = {}
    for variant, value in variants.items():
        size, _, form = variant.removeprefix("k=").partition(",")
        found[int(size), form] = value
    return found
