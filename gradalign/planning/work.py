"""What each stage has its model do: tokens, and the passes that they are computed in."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradalign.analysis.gradients import WeightGradients
from gradalign.analysis.steps import AdamwSteps
from gradalign.engines.vllm.settings import CPU_BLOCK, CPU_ROWS, GPU_BLOCK, SURE_ROWS
from gradalign.models.matched import ROUNDS as MATCHING_ROUNDS
from gradalign.models.training_step import parse_step
from gradalign.planning.figures import Figures
from gradalign.planning.pace import TRIALS, Load
from gradalign.rehearsal.stages import LEAPS, Rehearsal, StepLength
from gradalign.stages.base import Run, Stage
from gradalign.stages.continuations import TeacherContinuations
from gradalign.stages.deltas import DeltaTables
from gradalign.stages.distributions import StudentPositions, TeacherPositions
from gradalign.stages.noise_floor import SCORER, SPINES_PER_SHARD
from gradalign.stages.preparation.workload import Workload
from gradalign.stages.weights.answer_gradients import AnswerGradients
from gradalign.stages.weights.derivatives import IdealDerivatives
from gradalign.stages.weights.gradients import IdealUpdates

TRANSFORMERS_ROWS = 1024
"""Sequences that the engine `transformers` draws at once, if not told otherwise."""

BATCH = 2048
"""Tokens of a teacher-forced pass, about."""

LONGER = 0.4
"""By how much of the mean the longest of e times as many responses is longer: 1.3 times the mean
for 2, 2.4 for 32."""

ROUNDS = {"neyman": 2, "uniform": 1}
"""Rounds of targeted rollouts: the second waits for the first."""

HEAD_SHARE = 0.25
"""What the output layer alone takes of a small model's time for a token."""

BACKWARD = 2.0
"""Forward passes that a backward pass takes as long as."""

DERIVATIVE = 2.0
"""Forward passes that derivatives of logits take: two differences, or one with its tangent."""


SEARCH = 3
"""Readings until a trial has found a length that moves the student a little."""


@dataclass(frozen=True)
class Work:
    """The work of a run with such figures.

    Attributes:
        run: the run.
        workload: what preparation counted.
        figures: counts, planned or found.
        device: cuda, cpu or mps.
    """

    run: Run
    workload: Workload
    figures: Figures
    device: str

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return math.ceil(self.figures.questions / self.run.config.shard_size)

    @property
    def _own_tokens(self) -> float:
        """Tokens of all prompts and spines."""
        return self.figures.spine_prompt_tokens + self.figures.spine_tokens

    def load(self, stage: Stage) -> Load:
        """Return what a stage has its model do; of `prefix` and `answers`, all stages together."""
        if stage.kind == "sample":
            return self._sampled()
        if stage.kind == "branch":
            return self._branched()
        if stage.kind == "prefix":
            figures = self.figures
            return self._drawn(figures.prefix_continuations, figures.prefix_tokens, rounds=1)
        if stage.kind == "answers":
            figures = self.figures
            return self._drawn(figures.teacher_answers, figures.teacher_answer_tokens, rounds=1)
        return self._read(stage)

    def rows(self, stage: Stage) -> float:
        """Return how many rows of tables, or alignments, a stage makes."""
        run, figures = self.run, self.figures
        if stage.kind == "analysis":
            return figures.nodes * len(run.teachers) * len(run.config.methods)
        if stage.kind == "sample":
            return figures.spines
        if stage.kind == "prefix":
            return figures.prefix_continuations
        if stage.kind == "answers" or isinstance(stage, AnswerGradients):
            return figures.teacher_answers
        if isinstance(stage, DeltaTables):
            return figures.nodes * len(run.deltas)
        times = len(getattr(stage, "teachers", ())) or 1
        if stage.kind in ("branch", "continuations"):
            return times * figures.continuations
        if isinstance(stage, StudentPositions | TeacherPositions):
            return times * figures.spine_tokens
        return figures.nodes * len(run.read_teachers)

    def _sampled(self) -> Load:
        """Return the drawing of spines, and what of them the engine scores for the noise floor.

        A prompt is read once for all of a question's spines.
        """
        figures = self.figures
        drawn = self._drawn(figures.spines, figures.spine_tokens, rounds=1)
        floor = 0.0
        if self.run.resolved.engine != SCORER and self.run.sampling.is_plain:
            scored = min(self.shards * SPINES_PER_SHARD, figures.spines)
            floor = scored * self._own_tokens / max(figures.spines, 1)
        return drawn + Load(self.workload.prompt_tokens + floor, self.shards)

    def _branched(self) -> Load:
        """Return the drawing of targeted rollouts, with what has to be read again before."""
        figures, rounds = self.figures, ROUNDS[self.run.config.allocation]
        drawn = self._drawn(figures.continuations, figures.continuation_tokens, rounds=rounds)
        if self.run.resolved.engine == "transformers":  # a round reads the spines again
            return drawn + Load(rounds * self._own_tokens, rounds * self.shards)
        # vLLM keeps whole blocks; what is beyond the last one is half a block on average.
        block = int(
            self.run.config.engine_args.get(
                "block_size", CPU_BLOCK if self.device == "cpu" else GPU_BLOCK
            )
        )
        return drawn + Load(figures.continuations * block / 2, 0)

    def _read(self, stage: Stage) -> Load:
        """Return the teacher-forced passes of a stage."""
        figures = self.figures
        if isinstance(stage, DeltaTables):  # arithmetic on tables
            return Load(0.0, 0.0)
        if isinstance(stage, TeacherPositions):
            if self.run.resolved.matching.get(stage.model) == "bytes":
                return self._matched(stage)
            return self._passes(self._shown_tokens(stage), len(stage.teachers)) + TRIALS
        if isinstance(stage, TeacherContinuations):
            return self._offshoots(self._shown_tokens(stage), len(stage.teachers))
        if stage.kind == "continuations":
            return self._offshoots(self._own_tokens, 1)
        if isinstance(stage, AnswerGradients):
            # With about the student's prompts before them.
            prompt = figures.spine_prompt_tokens / max(figures.spines, 1)
            tokens = figures.teacher_answer_tokens + figures.teacher_answers * prompt
            return self._passes((1 + BACKWARD) * tokens, 1)
        times = self._times_of_weights(stage)
        if times:
            return self._passes(times * self._own_tokens, 1)
        if isinstance(stage, StudentPositions):
            return self._passes(self._own_tokens, 1) + TRIALS
        return self._passes(HEAD_SHARE * figures.nodes, 1)  # by the output layer alone

    def _times_of_weights(self, stage: Stage) -> float:
        """Return how often a stage for the weights reads the spines; 0 for other stages."""
        if isinstance(stage, WeightGradients):
            return 1 + BACKWARD * stage.passes(self.run)
        if isinstance(stage, AdamwSteps):
            return 1 + BACKWARD * len(stage.arms)
        if isinstance(stage, IdealUpdates):
            return 1 + BACKWARD
        if isinstance(stage, IdealDerivatives):
            return 1 + BACKWARD + DERIVATIVE
        if isinstance(stage, StepLength):  # one half of the questions moves, the other is read
            tries = len(parse_step(self.run.config.rehearse_step).divergences)
            return (1 + len(stage.arms) * (1 + BACKWARD + tries + SEARCH) / 2) if tries else 0.0
        if isinstance(stage, Rehearsal):  # two trainings of an arm, each of half of the questions
            points = len(self.run.config.rehearse_steps)
            return 1 + len(stage.arms) * (LEAPS * (1 + BACKWARD) + points)
        return 0.0

    def _matched(self, stage: TeacherPositions) -> Load:
        """Return the passes of a teacher that is matched by bytes: every spine by itself.

        A token is read behind each of the matched ones, at most, of which most need none.
        """
        spines = len(stage.teachers) * self.figures.spines
        kept = sum(self.run.kept_tokens(teacher.label) for teacher in stage.teachers)
        tokens = self._shown_tokens(stage) + self.figures.nodes * kept
        return Load(tokens, spines * (1 + MATCHING_ROUNDS)) + TRIALS

    def _shown_tokens(self, stage: TeacherPositions | TeacherContinuations) -> float:
        """Return the tokens of a checkpoint's prompts and of the spines, in all its contexts."""
        labels = [teacher.label for teacher in stage.teachers]
        prompts = sum(self.workload.teacher_prompt_tokens[label] for label in labels)
        return prompts * self.run.config.num_rollouts + len(labels) * self.figures.spine_tokens

    def _passes(self, tokens: float, times: int) -> Load:
        return Load(tokens, times * self.shards + tokens / BATCH)

    def _offshoots(self, trunk_tokens: float, times: int) -> Load:
        """Return a pass over every spine, and one over all continuations that leave it."""
        own = self.figures.continuation_tokens
        return Load(trunk_tokens + times * own, times * 2 * self.figures.spines) + TRIALS

    def _drawn(self, sequences: float, tokens: float, *, rounds: int) -> Load:
        """Return the passes of sequences that are drawn side by side, a token in each pass.

        Those of a round run until the longest of them ends.
        """
        if not sequences:
            return Load(0.0, 0.0)
        asked = max(sequences / self.shards / rounds, 1.0)
        at_once = min(self._rows(), asked)
        longest = (1 + LONGER * math.log(asked)) * tokens / sequences
        longest = min(longest, self.run.resolved.max_tokens)
        return Load(tokens, max(tokens / at_once, self.shards * rounds * longest))

    def _rows(self) -> int:
        """Return how many sequences the student's engine draws at once."""
        given = self.run.config.engine_args
        if self.run.resolved.engine == "transformers":
            return int(given.get("max_rows", TRANSFORMERS_ROWS))
        return int(given.get("max_num_seqs", CPU_ROWS if self.device == "cpu" else SURE_ROWS))
