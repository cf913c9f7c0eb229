"""What to do about it: one sentence per mechanism and teacher, from the measured figures.

A sentence claims something only where an interval supports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

LOW_MASS = 0.9
"""Below this share of the student's mass on shared top tokens the models look at other tokens."""

SMALL = 0.05
"""Differences of success or alignment below this are not worth an action."""


class Value(NamedTuple):
    """An estimate with its interval."""

    value: float
    low: float
    high: float

    @property
    def positive(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    @property
    def negative(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.high < 0

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def overlap_advice(mass: Value) -> str:
    """Say what the student's mass on the shared top 16 tokens means."""
    if mass.high < LOW_MASS:
        return (
            f"Only {mass.value:.0%} of the student's mass lies on tokens that both models have "
            "among their top 16: warm the student up on responses of this teacher, or take one "
            "of the same family."
        )
    if mass.low >= LOW_MASS:
        return (
            f"Both models look at the same tokens ({mass.value:.0%} of the student's mass is on "
            "shared top 16 tokens): a lack of alignment has another cause."
        )
    return (
        f"{mass.value:.0%} of the student's mass lies on shared tokens, with an interval on both "
        f"sides of {LOW_MASS:.0%}: score more questions before changing anything."
    )


def topk_advice(
    gain: Mapping[tuple[int, str], Value], cosine: Mapping[tuple[int, str], Value]
) -> str:
    """Say which truncated form to train on.

    Args:
        gain: alignment of each (k, form) less that of the full direction, paired.
        cosine: of each (k, form) with the full direction.
    """
    if not gain:
        return "Too few top tokens were kept to compare truncated losses."
    worse = sorted(case for case, value in gain.items() if value.negative)
    safe = sorted(
        case
        for case, value in cosine.items()
        if value.low > 1 - SMALL and case not in worse and case[1] != "biased"
    )
    # Where a repaired form of the same size costs as surely, the size is to blame.
    small = sorted({k for k, form in worse if form != "biased"})
    around = [k for k, form in worse if form == "biased" and cosine[k, form].negative]
    biased = [k for k, form in worse if form == "biased" and k not in {*small, *around}]
    text = ""
    if around:
        text += (
            f"The biased top-k loss turns the update around at k = {', '.join(map(str, around))}: "
            "detach the log ratio or renormalise. "
        )
    if biased:
        text += (
            f"The biased top-k loss costs alignment at k = {', '.join(map(str, biased))}: detach "
            "the log ratio or renormalise. "
        )
    if small:
        text += (
            f"Truncation itself costs alignment at k = {', '.join(map(str, small))}: use a larger "
            "set. "
        )
    if safe:
        k, form = safe[0]
        return (
            text
            + f"The cheapest form that stays within 5 % of the full direction: k = {k}, {form}."
        )
    return (
        text + "No truncated form is sure to stay within 5 % of the full direction: use it whole."
    )


def contexts_advice(share: Value, conflict: Value, kind: str) -> str:
    """Say whether a student can follow these contexts.

    Args:
        share: part of the teachers' pull that is common to the contexts.
        conflict: mean KL of the consensus to the contexts, nats.
        kind: which contexts.
    """
    if share.high < 0.5:
        return (
            f"These contexts ({kind}) contradict each other: only {share.value:.0%} of their pull "
            f"is common, {conflict.value:.2g} nats per token can be followed by no student that "
            "does not see them. Keep one kind, or state the rule that they share."
        )
    if share.low > 0.5:
        return (
            f"These contexts ({kind}) agree: {share.value:.0%} of their pull is common and can be "
            "learned without seeing them."
        )
    return (
        f"{share.value:.0%} of the pull of these contexts ({kind}) is common, with an interval "
        "around one half: score more questions."
    )


def horizon_advice(
    gain: Mapping[float, Value], noise: Mapping[float, Value], alignment: Mapping[float, Value]
) -> str:
    """Say how far the loss should look ahead.

    Args:
        gain: alignment of each gamma > 0 less that of gamma = 0, paired; empty if not scored.
        noise: variance of the one-sample estimator over its squared mean, by gamma.
        alignment: alignment itself, by gamma.
    """
    if gain and all(value.negative for value in alignment.values()):
        return "The teacher pulls away from success however far the loss looks ahead: take another."

    def price(gamma: float, whose: str = "Its") -> str:
        """Say how much noisier it is than the token level."""
        if gamma not in noise or not (noise[0.0].value > 0 and noise[gamma].value > 0):
            return ""
        times = noise[gamma].value / noise[0.0].value
        return f" {whose} one-sample estimator is {times:.2g} times as noisy."

    if not gain:
        return (
            "Only the token level was measured; `gradalign diagnose RUN --only horizon` scores "
            "the continuations to see whether looking ahead pays."
        )
    better = {gamma: value for gamma, value in gain.items() if value.positive}
    if better:
        gamma = max(better, key=lambda item: better[item].value)
        if not alignment[gamma].positive:
            return (
                f"Looking ahead mends something (gamma = {gamma:g}: {better[gamma]}), but even so "
                f"the alignment is not surely above 0 ({alignment[gamma]}): take another teacher."
            )
        return (
            f"Looking ahead pays: gamma = {gamma:g} gains {better[gamma]} of alignment over the "
            f"token level. Couple future log ratios in.{price(gamma)}"
        )
    last = price(max(gain), f"At gamma = {max(gain):g} the")
    if all(value.negative for value in gain.values()):
        return f"Looking ahead costs alignment at every gamma: stay at the token level.{last}"
    return f"Looking ahead gains nothing that is sure: stay at the token level.{last}"


def signal_advice(negative: Value, depth: Mapping[str, Value]) -> str:
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
        return text + "The teacher pulls the wrong way along the whole response: take another."
    if bad:
        return text + f"The teacher pulls the wrong way at {', '.join(bad)}: mask these positions."
    return text or "The one-token signal is balanced, and no quarter of the response is misled."


def special_advice(gain: Value) -> str:
    """Say whether nodes at special tokens should be left out of the loss."""
    if gain.positive:
        return f"Special tokens distort the signal: without them alignment gains {gain}. Mask them."
    return "Special tokens do no harm that is sure: keep them in the loss."


def predictors_advice(methods: Sequence[str], predictor: str, correlation: Value) -> str:
    """Say what to choose tokens by.

    Args:
        methods: those of which it is said.
        predictor: their best; empty for none.
        correlation: the strongest among the methods, which is that of the first of them.
    """
    of = ", ".join(methods)
    if not predictor:
        return (
            f"Nothing cheap predicts the alignment of {of}: do not select or weigh tokens by "
            "overlap, KL or entropy."
        )
    side = "high" if correlation.value > 0 else "low"
    whose = f" for {methods[0]}" if len(methods) > 1 else ""
    return (
        f"The alignment of {of} is better where {predictor} is {side} (rank correlation "
        f"{correlation}{whose}): a cheap filter or weight for tokens, to be checked against "
        "`pooled` before use."
    )


def prefix_advice(drop: Mapping[float, Value], edge: Mapping[float, Value]) -> str:
    """Say whether a teacher can be trusted after the student's prefixes.

    Args:
        drop: success from scratch less success from a prefix, by depth.
        edge: success from a prefix less the student's own from the same prefix, by depth.
    """
    if edge and all(value.negative for value in edge.values()):
        return (
            "The teacher does worse than the student itself from the student's prefixes, at every "
            "depth: do not distill from it on them."
        )
    lost = [depth for depth, value in drop.items() if value.positive and value.value > SMALL]
    if not lost:
        if all(value.high < 2 * SMALL for value in drop.values()):
            return "The teacher goes on from the student's prefixes as well as from scratch."
        return (
            "No loss after the student's prefixes is sure, and none is ruled out: score more "
            "questions or spines."
        )
    deepest = max(lost)
    beaten = [depth for depth, value in edge.items() if not value.positive]
    text = (
        f"The teacher loses {drop[deepest].value:.0%} of success after {deepest:.0%} of a student "
        "response: it was not made for such prefixes. "
    )
    if beaten:
        return text + (
            f"From {min(beaten):.0%} on it is not surely better than the student there: limit the "
            "loss to what comes before, or let the teacher begin the responses."
        )
    return text + "It still beats the student there, so its targets are worth following."
