"""Token level against sequence level, and how far a teacher's word is worth.

Source: "Revisiting On-Policy Distillation" (arXiv 2603.25562). Token-level distillation
(gamma = 0) looks at the next token's log ratio only; the gradient of the reverse KL between whole
responses (gamma = 1) adds the log ratios of everything that follows, at a variance that grows with
the length. Axes: _H halves of the continuations, _N nodes, _C candidates, _T tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradalign import methods
from gradalign.analysis.node_views import (
    Bools,
    Floats,
    NodeTable,
    NodeView,
    ShardViews,
    continuations_scored,
)
from gradalign.analysis.scoring import score_nodes
from gradalign.analysis.whole import on_candidates
from gradalign.contexts import is_delta
from gradalign.diagnostics.base import (
    Advice,
    Consequence,
    Diagnostic,
    Figures,
    counts,
    ideal_columns,
    key_columns,
    spine_positions,
)
from gradalign.diagnostics.collector import (
    Collector,
    FigureKey,
    noise_ratio,
    pooled_columns,
    pooled_difference,
    questions_of,
    root_ratio,
)
from gradalign.estimates import Estimate
from gradalign.methods import Method
from gradalign.rounding import pass_error
from gradalign.stages.base import Run
from gradalign.store.splits import outcome_splits, position_splits
from gradalign.store.table_builder import Rows

TABLE = "diagnostics_horizon"

GAMMAS = (0.0, 0.5, 0.9, 1.0)


def spec(gamma: float) -> str:
    """Return the method: the sampled-token estimator of the discounted reverse KL."""
    return f"minillm:gamma={gamma:g},single_step=false"


def bias2(direction_HNC: npt.ArrayLike, sequence_HNC: npt.ArrayLike) -> Floats:
    """Unbiased |m - m_1|^2, m_1 the sequence-level direction, [N]; may be negative by noise.

    It is the product of the differences in the two halves of the continuations, whose noise is
    independent.

    Args:
        direction_HNC: the method's direction from each half, [2, N, C].
        sequence_HNC: the direction of gamma = 1 from each half, [2, N, C].

    Raises:
        ValueError: shapes differ, or there are not two halves.
    """
    m_HNC = np.asarray(direction_HNC, dtype=np.float64)
    one_HNC = np.asarray(sequence_HNC, dtype=np.float64)
    if m_HNC.shape != one_HNC.shape or m_HNC.shape[:1] != (2,):
        raise ValueError(f"halves must be [2, N, C], got {m_HNC.shape} and {one_HNC.shape}")
    gap_HNC = m_HNC - one_HNC
    return np.asarray((gap_HNC[0] * gap_HNC[1]).sum(axis=-1))


def imbalance(log_ratio_T: npt.ArrayLike) -> Bools:
    """Where the drawn token is punished, r < 0, [T].

    The mean over tokens is the share of negative one-token signals: far above one half, the
    signal is mostly a push away from what the student does, and rarely one towards anything.
    """
    return np.asarray(np.asarray(log_ratio_T, dtype=np.float64) < 0.0)


def looks_ahead(run: Run) -> bool:
    """Whether the continuations are to be scored for this diagnostic's sake.

    That costs passes of every model, so it is done where `horizon` is asked for by name (or by
    `all`), and not by default.
    """
    return bool({"horizon", "all"} & set(run.config.diagnose))


@dataclass(frozen=True)
class HorizonTable:
    """Bias and variance of the reverse KL's estimators, from gamma = 0 to gamma = 1."""

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's rows are there, those with a future included if there is one."""
        if not run.folder.has_table(TABLE, shard):
            return False
        table = run.folder.read_table(TABLE, shard)
        scored = [t for t in run.teachers if continuations_scored(run, shard, t.label)]
        if not scored or not len(table):
            return True
        return bool(np.isfinite(table["sequence_norm2"].to_numpy()).any())

    def write(self, views: ShardViews) -> Counter[str]:
        """See TableWriter."""
        run, nodes = views.run, views.nodes
        rows = Rows(TABLE)
        for teacher in run.teachers:
            view = views.teacher(teacher.label)
            at = view.rows
            ahead = continuations_scored(run, views.shard, teacher.label)
            gammas = GAMMAS if ahead else GAMMAS[:1]
            drawn_N = nodes.column("sampled_token_id")[at]
            ratio_N = view.batch.at(1.0).r_NS[
                np.arange(len(at)), np.maximum(view.batch.sampled_N, 0)
            ]
            shared = {
                **key_columns(nodes, at),
                **ideal_columns(nodes, view),
                "teacher": teacher.label,
                "special": np.isin(drawn_N, special_ids(run)),
                "sampled_log_ratio": np.where(view.batch.sampled_N >= 0, ratio_N, np.nan),
            }
            sequence_HNC = _halves(nodes, view, methods.get(spec(1.0))) if len(gammas) > 1 else None
            for gamma in gammas:
                method = methods.get(spec(gamma))
                scores = score_nodes(nodes, view, method)
                bias_N = norm_N = np.full(len(at), np.nan)
                if sequence_HNC is not None:
                    bias_N = bias2(_halves(nodes, view, method), sequence_HNC)
                    norm_N = (sequence_HNC[0] * sequence_HNC[1]).sum(axis=-1)
                rows.add(
                    len(at),
                    **{**shared, "ideal_norm2": scores.ideal_norm2},
                    gamma=gamma,
                    cosine=scores.cosine,
                    dot=scores.dot,
                    method_norm2=scores.method_norm2,
                    bias2=bias_N,
                    sequence_norm2=norm_N,
                    variance=method.squared_deviation(view.batch),
                )
        run.folder.write_table(TABLE, views.shard, rows.table_of())
        return Counter(horizon_nodes=len(nodes.row_of) * len(run.teachers))


def special_ids(run: Run) -> list[int]:
    """Return the ids of special and template tokens, and of those that end a response."""
    return sorted({*run.resolved.special_token_ids, *run.resolved.stop_token_ids})


def _halves(nodes: NodeTable, view: NodeView, method: Method) -> Floats:
    """Return a direction on the candidates from each half of the continuations, [2, N, C].

    Candidates that a half did not measure are left out of both.
    """
    both_NC = view.mask_NC & np.isfinite(nodes.half_value_HNC[:, view.rows]).all(axis=0)
    return np.stack(
        [on_candidates(method.ascent(view.batch.half(h)), view, both_NC) for h in (0, 1)]
    )


def collect(run: Run, shard: str, into: Collector) -> None:
    """Add alignment, bias and noise for every discount, and how lopsided the signal is."""
    if not run.folder.has_table(TABLE, shard):
        return
    for teacher, frame, question, splits in spine_positions(run, shard):
        gap = (frame["teacher_logprob"] - frame["student_logprob"]).to_numpy(dtype=np.float64)
        # Where both are nearly certain the sign of the gap is that of a rounding error.
        error = pass_error(frame["student_logprob"].to_numpy())
        negative = imbalance(np.where(np.abs(gap) <= error, 0.0, gap)).astype(np.float64)
        into.mean(FigureKey("horizon", teacher, "negative_share"), question, negative, splits)
        into.mean(FigureKey("horizon", teacher, "log_prob_gap"), question, gap, splits)
        odd = np.isin(frame["token_id"].to_numpy(), special_ids(run))
        for variant, kept in (("special tokens", odd), ("other tokens", ~odd)):
            key = FigureKey("horizon", teacher, "log_prob_gap", variant)
            into.mean(key, question, gap, {"all": kept})
    _collect_discounts(run, shard, into)


def _collect_discounts(run: Run, shard: str, into: Collector) -> None:
    """Add alignment, bias and noise for every discount, and what special tokens do."""
    nodes = run.folder.read_table("nodes", shard).to_pandas()
    relative = dict(zip(nodes["node_id"].astype(str), nodes["relative_position"], strict=True))
    every = run.folder.read_table(TABLE, shard).to_pandas()
    at_token_level = every[every["gamma"] == 0]
    for teacher, part in at_token_level.groupby("teacher", sort=False, observed=True):
        _collect_special(str(teacher), part, into)
    frame = every[counts(run, shard, every)]
    for teacher, of_teacher in frame.groupby("teacher", sort=False, observed=True):
        by_gamma = {float(g): part for g, part in of_teacher.groupby("gamma", sort=True)}
        first = by_gamma[0.0]
        for gamma, part in by_gamma.items():
            variant = f"gamma={gamma:g}"
            question = questions_of(part)
            at = part["node_id"].astype(str).map(relative).to_numpy(dtype=np.float64)
            splits = {**outcome_splits(part["correct"]), **position_splits(at)}
            whole = {"all": splits["all"]}
            into.pooled(FigureKey("horizon", str(teacher), "alignment", variant), part, splits)
            weight = part["weight"].to_numpy(dtype=np.float64)[:, None]
            noise = part[["variance", "method_norm2"]].to_numpy(dtype=np.float64) * weight
            key = FigureKey("horizon", str(teacher), "noise_ratio", variant)
            into.add(key, noise_ratio, question, noise, whole)
            if len(by_gamma) > 1:
                bias = part[["bias2", "sequence_norm2"]].to_numpy(dtype=np.float64) * weight
                key = FigureKey("horizon", str(teacher), "relative_bias", variant)
                into.add(key, root_ratio, question, bias, whole)
            if gamma > 0:
                both = np.column_stack([pooled_columns(part), pooled_columns(first)])
                key = FigureKey("horizon", str(teacher), "alignment_gain", variant)
                into.add(key, pooled_difference, question, both, whole)


def _collect_special(teacher: str, part: pd.DataFrame, into: Collector) -> None:
    """Add the alignment without nodes whose drawn token is special, and what they cost."""
    question, columns = questions_of(part), pooled_columns(part)
    ordinary = columns * ~part["special"].to_numpy(dtype=np.bool_)[:, None]
    whole = {"all": np.ones(len(part), dtype=np.bool_)}
    into.pooled(
        FigureKey("horizon", teacher, "alignment", "gamma=0,without special tokens"),
        part,
        {"all": ~part["special"].to_numpy(dtype=np.bool_)},
    )
    key = FigureKey("horizon", teacher, "alignment_gain", "gamma=0,without special tokens")
    into.add(key, pooled_difference, question, np.column_stack([ordinary, columns]), whole)


def advise(teacher: str, figures: Figures) -> dict[FigureKey, Advice]:
    """Say how far to look ahead, what special tokens cost, and where the signal is lopsided."""
    said: dict[FigureKey, Advice] = {}
    token = FigureKey("horizon", teacher, "alignment", "gamma=0")
    if token in figures:
        gains = figures.variants("horizon", teacher, "alignment_gain")
        advice = horizon_advice(
            figures.numbered("horizon", teacher, "alignment_gain"),
            figures.numbered("horizon", teacher, "noise_ratio"),
            figures.numbered("horizon", teacher, "alignment"),
        )
        # No continuation can be scored for a difference of teachers.
        if not (is_delta(teacher) and advice.consequence is Consequence.MORE_DATA):
            said[token] = advice
        without = "gamma=0,without special tokens"
        said[FigureKey("horizon", teacher, "alignment_gain", without)] = special_advice(
            gains[without]
        )
    key = FigureKey("horizon", teacher, "negative_share")
    if key in figures:
        depth = {
            split: value
            for split, value in figures.splits(token).items()
            if split.startswith("position:")
        }
        said[key] = signal_advice(figures.splits(key)["all"], depth)
    return said


def horizon_advice(
    gain: Mapping[float, Estimate],
    noise: Mapping[float, Estimate],
    alignment: Mapping[float, Estimate],
) -> Advice:
    """Say how far the loss should look ahead.

    Args:
        gain: alignment of each gamma > 0 less that of gamma = 0, paired; empty if not scored.
        noise: variance of the one-sample estimator over its squared mean, by gamma.
        alignment: alignment itself, by gamma.
    """
    if gain and all(value.negative for value in alignment.values()):
        return Advice(
            "The teacher pulls away from success however far the loss looks ahead: take another.",
            Consequence.CHANGE_TEACHER,
        )

    def price(gamma: float, whose: str = "Its") -> str:
        """Say how much noisier it is than the token level."""
        if gamma not in noise or not (noise[0.0].value > 0 and noise[gamma].value > 0):
            return ""
        times = noise[gamma].value / noise[0.0].value
        return f" {whose} one-sample estimator is {times:.2g} times as noisy."

    if not gain:
        return Advice(
            "Only the token level was measured; `gradalign diagnose RUN --only horizon` scores "
            "the continuations to see whether looking ahead pays.",
            Consequence.MORE_DATA,
        )
    better = {gamma: value for gamma, value in gain.items() if value.positive}
    if better:
        gamma = max(better, key=lambda item: better[item].value)
        if not alignment[gamma].positive:
            return Advice(
                f"Looking ahead mends something (gamma = {gamma:g}: {better[gamma]}), but even so "
                f"the alignment is not surely above 0 ({alignment[gamma]}): take another teacher.",
                Consequence.CHANGE_TEACHER,
            )
        return Advice(
            f"Looking ahead pays: gamma = {gamma:g} gains {better[gamma]} of alignment over the "
            f"token level. Couple future log ratios in.{price(gamma)}",
            Consequence.CHANGE_LOSS,
        )
    last = price(max(gain), f"At gamma = {max(gain):g} the")
    if all(value.negative for value in gain.values()):
        return Advice(
            f"Looking ahead costs alignment at every gamma: stay at the token level.{last}",
            Consequence.CHANGE_LOSS,
        )
    return Advice(
        f"Looking ahead gains nothing that is sure: stay at the token level.{last}",
        Consequence.NOTHING,
    )


def signal_advice(negative: Estimate, depth: Mapping[str, Estimate]) -> Advice:
    """Say whether the one-token signal is lopsided, and where along a response it is worth most.

    Args:
        negative: share of drawn tokens with a negative log ratio.
        depth: alignment at the token level by quarter of the response.
    """
    bad = [name for name, value in depth.items() if value.negative]
    text = (
        f"{negative.value:.0%} of the drawn tokens are pushed down: the one-token signal says what "
        "not to do; prefer an expected (full or renormalised top-k) loss. "
        if negative.low > 0.6
        else ""
    )
    if bad and len(bad) == len(depth):
        return Advice(
            f"{text}The teacher pulls the wrong way along the whole response: take another.",
            Consequence.CHANGE_TEACHER,
        )
    if bad:
        return Advice(
            f"{text}The teacher pulls the wrong way at {', '.join(bad)}: mask these positions.",
            Consequence.CHANGE_LOSS,
        )
    if text:
        return Advice(text, Consequence.CHANGE_LOSS)
    return Advice(
        "The one-token signal is balanced, and no quarter of the response is misled.",
        Consequence.NOTHING,
    )


def special_advice(gain: Estimate) -> Advice:
    """Say whether nodes at special tokens should be left out of the loss."""
    if gain.positive:
        return Advice(
            f"Special tokens distort the signal: without them alignment gains {gain}. Mask them.",
            Consequence.CHANGE_LOSS,
        )
    return Advice(
        "Special tokens do no harm that is sure: keep them in the loss.", Consequence.NOTHING
    )


DIAGNOSTIC = Diagnostic(collect, advise, writers=lambda run: (HorizonTable(),))
