"""The stages of a rehearsal: how long a step is, and every arm's virtual training.

An arm's training is of the whole run; the arms are dealt out to the shards, so that a run goes on
where it was and workers share them. Each arm is trained twice, by every other question and by the
rest, and read each time on the questions that did not train it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gradalign.alignment.weights import mean_of_shared, update_estimate
from gradalign.analysis.align import question_ids
from gradalign.analysis.weights import weight_grams
from gradalign.estimates import Arm
from gradalign.models.optimizer_state import EPS, FIRST, AdamwStep, adamw_step
from gradalign.models.training_step import StepSpec, parse_step
from gradalign.rehearsal.trials import STEPS_TRIED, Trial, chosen_length, trial_of
from gradalign.rehearsal.virtual import QuestionGain, Update, VirtualStudent
from gradalign.stages.base import Run, StageKind, Tick, Work
from gradalign.stages.weights.gradients import num_questions, open_space
from gradalign.store.table_builder import Rows

if TYPE_CHECKING:
    import torch

LEAPS = 4
"""Leaps of a rehearsal: so often is the direction of an arm computed anew."""

FIRST_TRIED = 2e-6
"""Length of a step that is tried first, in units of the weights' own length."""

TABLE, TRIALS = "rehearsals", "rehearsal_trials"


@dataclass(frozen=True)
class Noise:
    """What a batch of the foreseen training has of an arm's update at the run's student.

    Attributes:
        batch2: squared length that its questions and responses do not share with others.
        gain: first-order gain of a step of length 1 on it.
        training: how each question's own update moves that gain, by question id.
        excess: |M_B| / |mu|: how much longer its steps are than what they cover along mu; NaN where
            questions share nothing.
    """

    batch2: float
    gain: float
    training: Mapping[str, float]
    excess: float


@dataclass(frozen=True)
class StepLength:
    """Tries one step of every arm at several lengths; nothing where the length is given."""

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "step length"
    unit: ClassVar[str] = "arms"
    arms: tuple[Arm, ...]

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's arms have been tried."""
        return not self._missing(run, shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student, with gradients."""
        with open_space(run) as (model, parameters):
            trainings = Trainings(run, VirtualStudent(run, model, parameters))

            def work(shard: str, tick: Tick) -> Counter[str]:
                missing = self._missing(run, shard)
                for done, arm in enumerate(missing, start=1):
                    rows = Rows(TRIALS)
                    for trial in trainings.trials(arm):
                        rows.add(1, **trial.columns(), num_questions=num_questions(run))
                    _append(run, TRIALS, shard, rows.table_of())
                    tick(done, len(missing), 1)
                return Counter()

            yield work

    def _missing(self, run: Run, shard: str) -> list[Arm]:
        if not parse_step(run.config.rehearse_step).divergences:
            return []
        return _left(run, TRIALS, shard, self.arms)


@dataclass(frozen=True)
class Rehearsal:
    """Every arm's virtual training.

    Attributes:
        arms: teachers and methods that have a direction.
    """

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "rehearsal"
    unit: ClassVar[str] = "leaps"
    arms: tuple[Arm, ...]

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's arms are trained."""
        return not _left(run, TABLE, shard, self.arms)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student, with gradients."""
        with open_space(run) as (model, parameters):
            trainings = Trainings(run, VirtualStudent(run, model, parameters))

            def work(shard: str, tick: Tick) -> Counter[str]:
                missing = _left(run, TABLE, shard, self.arms)
                length = _length(run)
                total, done = 2 * LEAPS * len(missing), 0
                for arm in missing:
                    rows = Rows(TABLE)
                    for reading in trainings.readings(arm, length):
                        if reading is None:
                            done += 1
                            tick(done, total, 1)
                            continue
                        rows.add(1, **reading.columns(arm), num_questions=num_questions(run))
                    _append(run, TABLE, shard, rows.table_of())
                return Counter()

            yield work


@dataclass(frozen=True)
class Reading:
    """One question under a student that some steps have moved.

    Attributes:
        steps: of training.
        length: of one of them.
        moved: how far the student is, Euclidean.
        first_order: what the steps gain to first order; the same for all questions.
        training: how the question's own update moves that.
        found: what the question says.
    """

    steps: int
    length: float
    moved: float
    first_order: float
    training: float
    found: QuestionGain

    def columns(self, arm: Arm) -> dict[str, object]:
        """Return a row of the table `rehearsals`."""
        return {
            "question_id": self.found.question,
            "teacher": arm.teacher,
            "method": arm.method,
            "steps": self.steps,
            "length": self.length,
            "moved": self.moved,
            "first_order": self.first_order,
            "training": self.training,
            "gain": self.found.gain,
            "outside": self.found.outside,
            "divergence": self.found.divergence,
            "ratios": [self.found.ratios],
        }


class Trainings:
    """Trains arms virtually.

    Args:
        run: the run, with alignment in the space of the weights.
        student: to be moved.
    """

    def __init__(self, run: Run, student: VirtualStudent) -> None:
        self._run, self._student = run, student
        self._spec = parse_step(run.config.rehearse_step)
        self._noise = _noise_of(run)
        self._adamw: AdamwStep | None = None
        source = run.config.weights_adamw
        if self._spec.optimizer == "adamw" and source not in (None, FIRST):
            self._adamw = adamw_step(str(source), student.model, student.parameters)

    def readings(self, arm: Arm, length: float) -> Iterator[Reading | None]:
        """Yield what every question says after the settings' numbers of steps; None after a leap.

        Args:
            arm: the arm.
            length: of a step; a learning rate where the settings give one.
        """
        halves = self._student.halves()
        for own, others in (halves, halves[::-1]):
            for stop in self._path(arm, own, length):
                if stop is None:
                    yield None
                    continue
                noise, moved = self._noise[arm], _size(stop.displacement)
                first = stop.steps * stop.first_length * noise.gain
                # Of AdamW's steps the length of SGD's that would cover as much.
                way = stop.steps * stop.first_length
                way = moved * noise.excess if math.isnan(way) else way
                for found in self._student.gains(others, stop.displacement):
                    training = way * noise.training[found.question]
                    yield Reading(stop.steps, length, moved, first, training, found)

    def path(
        self, arm: Arm, questions: Sequence[str], length: float
    ) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """Yield where the student is after the settings' numbers of steps on some questions.

        Args:
            arm: the arm.
            questions: that train.
            length: of a step; a learning rate where the settings give one.
        """
        for stop in self._path(arm, questions, length):
            if stop is not None:
                yield stop.steps, stop.displacement

    def _path(self, arm: Arm, questions: Sequence[str], length: float) -> Iterator[_Stop | None]:
        """Yield the stops of a virtual training, and None after every leap."""
        wanted = sorted(set(self._run.config.rehearse_steps))
        leap = wanted[-1] / LEAPS
        displacement: list[torch.Tensor] | None = None
        pace: _Pace | None = None
        for number in range(LEAPS):
            update = self._update(arm, questions, displacement)
            pace = pace or _Pace(self._spec, update, self._noise[arm])
            step = self._step(update, pace, length)
            first = pace.first_length(update, length)
            before = number * leap
            for steps in wanted:
                if before < steps <= before + leap:
                    yield _Stop(steps, _sum(displacement, step, steps - before), first)
            displacement = _sum(displacement, step, leap)
            yield None

    def trials(self, arm: Arm) -> Iterator[Trial]:
        """Yield what a few steps of one half of the questions do to the other, at each length."""
        own, others = self._student.halves()
        update = self._update(arm, own, None)
        pace = _Pace(self._spec, update, self._noise[arm])
        step = self._step(update, pace, 1.0)
        yield from trial_of(
            arm,
            self._spec.divergences,
            lambda length: self._student.gains(others, _sum(None, step, STEPS_TRIED * length)),
            # LoRA's matrices are 0 at first: they have no size of their own.
            start=FIRST_TRIED * (_size(self._student.parameters) or 1.0),
        )

    def _update(
        self, arm: Arm, questions: Sequence[str], displacement: list[torch.Tensor] | None
    ) -> Update:
        variance = self._spec.optimizer == "adamw" and self._adamw is None
        return self._student.update(arm, questions, displacement, with_variance=variance)

    def _step(self, update: Update, pace: _Pace, length: float) -> list[torch.Tensor]:
        """Return the displacement of one step of the training, on average."""
        factor = pace.factor(update) * length
        if self._spec.optimizer == "sgd":
            return [factor * part for part in update.direction]
        if self._adamw is not None:
            assert self._adamw.scales is not None
            scales = [scale.to(part) for scale, part in zip(
                self._adamw.scales, update.direction, strict=True)]  # fmt: skip
        else:
            scales = pace.root_mean_squares(update)
        return [factor * part / scale for part, scale in zip(update.direction, scales, strict=True)]


class _Stop(NamedTuple):
    """Where a virtual training is after some steps, and the length of one to first order."""

    steps: int
    displacement: list[torch.Tensor]
    first_length: float


class _Pace:
    """How far a step of a training goes along an arm's mean update.

    With mu the expected update, M_B that of a batch and M the mean over the questions at hand: a
    step of SGD of length L covers L |mu| / |M_B| along mu, and M stands for its direction. What M_B
    has beyond mu is known at the run's student, and follows the noise between groups of questions
    from there on. AdamW's step divides each weight's mu by the root of its mean square in batches.
    """

    def __init__(self, spec: StepSpec, update: Update, noise: Noise) -> None:
        self._spec = spec
        self._batch2 = noise.batch2
        self._scale = noise.batch2 / update.noise2 if update.noise2 > 0 else math.nan
        self._num_weights = sum(part.numel() for part in update.direction)

    def factor(self, update: Update) -> float:
        """Return what M times a step's length or learning rate is multiplied by."""
        if not (update.shared2 > 0 and update.length2 > 0):
            return 0.0  # questions have no direction in common
        along = math.sqrt(update.shared2 / update.length2)  # |mu| / |M|
        if self._spec.unit == "lr":
            return along
        if self._spec.optimizer == "adamw":  # its first step has this length
            return along / math.sqrt(self._num_weights)
        return along / math.sqrt(update.shared2 + self._noise2(update))

    def _noise2(self, update: Update) -> float:
        """Return the squared length of what a batch does not share with others."""
        if math.isnan(self._scale):
            return self._batch2
        return max(update.noise2, 0.0) * self._scale

    def root_mean_squares(self, update: Update) -> list[torch.Tensor]:
        """Return the root of each weight's mean square over batches."""
        if update.variance is None or math.isnan(self._scale):
            return [part.abs() + EPS for part in update.direction]  # AdamW's first step
        return [
            (part.square() + variance * self._scale).sqrt() + EPS
            for part, variance in zip(update.direction, update.variance, strict=True)
        ]

    def first_length(self, update: Update, length: float) -> float:
        """Return the Euclidean length of a step on a batch, of SGD."""
        if self._spec.optimizer == "adamw":
            return math.nan
        if self._spec.unit != "lr":
            return length
        return length * math.sqrt(max(update.shared2, 0.0) + self._noise2(update))


def _sum(
    displacement: list[torch.Tensor] | None, step: Sequence[torch.Tensor], times: float
) -> list[torch.Tensor]:
    if displacement is None:
        return [times * part for part in step]
    return [old + times * part for old, part in zip(displacement, step, strict=True)]


def _size(parts: Sequence[torch.Tensor]) -> float:
    """Return the Euclidean length of a vector in pieces."""
    return math.sqrt(sum(float(part.detach().double().square().sum()) for part in parts))


def _noise_of(run: Run) -> dict[Arm, Noise]:
    """Return every arm's noise, from the run's table `gradients`."""
    responses = run.config.rehearse_responses or run.config.num_rollouts
    found = {}
    for arm, grams, own in weight_grams(run):
        # |M_q|^2 with the training's number of responses in place of the run's.
        within_Q = np.nan_to_num(own.response_variance_Q)
        between_Q = np.where(np.isnan(own.within2_Q), own.length2_Q, own.within2_Q)
        length2_Q = between_Q + np.where(np.isnan(own.within2_Q), 0.0, within_Q / responses)
        shared = mean_of_shared(grams.method_QQ)[0].value
        noise2 = max(float(length2_Q.mean()) - (0.0 if math.isnan(shared) else shared), 0.0)
        estimate = update_estimate(replace(grams, own_Q=length2_Q), step=run.config.weights_batch)
        training = dict(zip(question_ids(run), estimate.training_Q.tolist(), strict=True))
        batch2 = noise2 / run.config.weights_batch
        excess = math.sqrt(1.0 + batch2 / shared) if shared > 0 else math.nan
        found[arm] = Noise(batch2, estimate.gain.value, training, excess)
    return found


def _left(run: Run, table: str, shard: str, arms: Sequence[Arm]) -> list[Arm]:
    """Return those of a shard's arms that no shard's table has.

    An arm that was added later may have put others in another shard's care.
    """
    shards = run.shards()
    own = arms[shards.index(shard) :: len(shards)]
    there: set[tuple[str, str]] = set()
    for stored in _stored(run, table, ["teacher", "method"]):
        there.update(zip(stored["teacher"].to_pylist(), stored["method"].to_pylist(), strict=True))
    return [arm for arm in own if tuple(arm) not in there]


def _length(run: Run) -> float:
    """Return what a step is long: as in the trainings that are there, or as trials found."""
    for stored in _stored(run, TABLE, ["length"]):
        if len(stored):
            return float(stored["length"][0].as_py())
    return chosen_length(run)


def _stored(run: Run, table: str, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the tables of a run of as many questions."""
    for shard in run.folder.files(table):
        stored = run.folder.read_table(table, shard, [*names, "num_questions"])
        yield stored.filter(pc.equal(stored["num_questions"], num_questions(run)))


def _append(run: Run, table: str, shard: str, rows: pa.Table) -> None:
    """Write rows beside those of a run of as many questions that are there."""
    if run.folder.has_table(table, shard):
        stored = run.folder.read_table(table, shard)
        stored = stored.filter(pc.equal(stored["num_questions"], num_questions(run)))
        rows = pa.concat_tables([stored, rows]).unify_dictionaries()
    run.folder.write_table(table, shard, rows)
