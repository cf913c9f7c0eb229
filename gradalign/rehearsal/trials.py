"""How long a step may be: one leap of every arm at several lengths, before any of them trains.

A length is right where first order still holds and stored responses still stand for new ones. All
arms of a run train with one length, as they would with one learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # scipy.stats takes seconds to import

from gradalign.estimates import Arm
from gradalign.models.training_step import parse_step
from gradalign.rehearsal.virtual import QuestionGain
from gradalign.stages.base import Run

Floats = npt.NDArray[np.float64]

STEPS_TRIED = 3
"""Steps of a trial."""

EFFECTIVE = 0.8
"""Least share of responses that must be left, in effect, after a trial."""

CURVED = 0.25
"""By which share of it a trial's gain may leave first order, where that is surely so."""

PASSING = 0.75
"""Share of arms that must pass at a length."""

TINY = 1e-5
"""Divergence of a step so short that gains are linear in its length."""


@dataclass(frozen=True)
class Trial:
    """One arm at one length.

    Attributes:
        teacher, method: the arm.
        divergence: KL(P || P') of a whole response that one step makes, nats.
        length: of that step.
        effective: share of responses left in effect after `STEPS_TRIED` steps.
        gain: what these gain.
        linear: what a much shorter leap gains, times the ratio of lengths.
        half: half the 95% interval of the two's difference.
    """

    teacher: str
    method: str
    divergence: float
    length: float
    effective: float
    gain: float
    linear: float
    half: float

    @property
    def passed(self) -> bool:
        """Whether first order holds and the stored responses stand for new ones."""
        apart = abs(self.gain - self.linear)
        return self.effective >= EFFECTIVE and apart <= max(self.half, CURVED * abs(self.linear))

    def columns(self) -> dict[str, object]:
        """Return a row of the table `rehearsal_trials`."""
        return asdict(self)


def trial_of(
    arm: Arm,
    divergences: Sequence[float],
    gains: Callable[[float], list[QuestionGain]],
    *,
    start: float = 1.0,
) -> Iterator[Trial]:
    """Try one arm's first steps at the lengths of some divergences.

    Args:
        arm: the arm.
        divergences: of one step; the trials are of `STEPS_TRIED` of them.
        gains: what questions say after `STEPS_TRIED` steps of a length.
        start: the length that is tried first.

    Yields:
        A trial of each; for an arm that moves nothing one without numbers.
    """
    length = start
    for _ in range(12):  # find a length that moves the student a little
        found = gains(length)
        moved = divergence_of(found) / STEPS_TRIED**2
        if TINY / 4 <= moved <= TINY * 4:
            break
        if moved == 0.0:
            yield Trial(arm.teacher, arm.method, *[math.nan] * 6)
            return
        # The divergence of a great leap does not grow with its square.
        length *= math.sqrt(TINY / moved) if moved < 1.0 else 1e-2
    curvature = moved / length**2
    linear_Q = np.array([item.gain for item in found]) / length
    for divergence in divergences:
        own = math.sqrt(divergence / curvature)
        found = gains(own)
        gain_Q = np.array([item.gain for item in found])
        apart_Q = gain_Q - own * linear_Q
        half = math.inf
        if len(apart_Q) > 1:
            reach = float(stdtrit(len(apart_Q) - 1, 0.975))
            half = reach * float(apart_Q.std(ddof=1)) / math.sqrt(len(apart_Q))
        yield Trial(
            arm.teacher,
            arm.method,
            divergence,
            own,
            effective_share(np.concatenate([item.ratios for item in found])),
            float(gain_Q.mean()),
            own * float(linear_Q.mean()),
            half,
        )


def divergence_of(gains: Sequence[QuestionGain]) -> float:
    """Return KL(P || P') of a whole response, the mean over questions, nats."""
    return float(np.mean([item.divergence for item in gains]))


def effective_share(ratio_R: Floats) -> float:
    """Return the share of responses that their ratios leave in effect, (sum r)^2 / (n sum r^2).

    Kong, "A note on importance sampling using standardized weights", 1992.
    """
    square = float(ratio_R @ ratio_R)
    return float(ratio_R.sum()) ** 2 / (len(ratio_R) * square) if square > 0 else 0.0


def chosen_length(run: Run) -> float:
    """Return the length of a step, or its learning rate, that all arms train with.

    `auto` takes the largest divergence at which three quarters of the arms pass, or the least one.
    Its length is that at which the arms diverge so far on average.
    """
    spec = parse_step(run.config.rehearse_step)
    if not spec.divergences:
        return spec.value
    trials = read_trials(run)
    for divergence in sorted(spec.divergences, reverse=True):
        own = [trial for trial in trials if trial.divergence == divergence]
        passed = sum(trial.passed for trial in own)
        if passed >= PASSING * len(own) or divergence == min(spec.divergences):
            break
    if not own:
        return 0.0  # no arm moves anything
    return math.sqrt(divergence / float(np.mean([divergence / t.length**2 for t in own])))


def read_trials(run: Run) -> list[Trial]:
    """Return all trials of a run, of the arms that move something."""
    names = list(Trial.__dataclass_fields__)
    rows = [
        row
        for shard in run.shards()
        if run.folder.has_table("rehearsal_trials", shard)
        for row in run.folder.read_table("rehearsal_trials", shard, names).to_pylist()
    ]
    return [Trial(**row) for row in rows if row["length"] is not None]
