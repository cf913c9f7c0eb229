"""A plain on-policy training loop whose step is exactly the direction that gradalign scores.

Each step draws responses from the current student, asks `gradalign.methods` for the ascent
direction on the logits of every response token, carries it through the network by one backward
pass, and moves all parameters by a fixed distance along the result. What differs between two
configurations is therefore the direction alone. Axes: _B responses, _N response tokens (nodes),
_V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gradalign import methods
from gradalign.engines import Request, SamplingSettings, derive_seed
from gradalign.engines.transformers.engine import TransformersEngine
from gradalign.methods import NodeBatch, SpineView
from gradalign.models.distributions import ForcedSequence, forced_log_probs
from gradalign.questions import Question
from validity.pairs import Configuration, Pair, context_ids, load_model, tokenizer_of
from validity.registry import pair_of

EVAL_DRAW, EVAL_SEED, TRAIN_DRAW = 99, 7, 1000
"""Seed of the held-out questions, the first seed of the responses to them, and the first seed of
the questions that are trained on."""


@dataclass(frozen=True)
class TrainSettings:
    """What all configurations share.

    Attributes:
        step_norm: Euclidean length of every parameter step.
        checkpoints: numbers of steps after which success is measured, rising.
        prompts: questions per step.
        group: responses per question.
        eval_prompts: held-out questions for the success before and after.
        eval_responses: responses to each.
    """

    step_norm: float = 0.00625
    checkpoints: tuple[int, ...] = (3, 6, 12, 24)
    prompts: int = 32
    group: int = 8
    eval_prompts: int = 2048
    eval_responses: int = 1

    @property
    def steps(self) -> int:
        """Number of steps of the whole training."""
        return self.checkpoints[-1]

    def optimizer(self, model: torch.nn.Module, seed: int) -> torch.optim.Optimizer:
        """Return what moves a model, and let it have gradients; steps of one length here.

        Args:
            model: a fresh copy of the student.
            seed: of whatever is drawn.
        """
        return FixedLength(model.requires_grad_(True).parameters(), lr=self.step_norm)


class FixedLength(torch.optim.Optimizer):
    """Gradient descent with steps of Euclidean length `lr`, over all parameters together."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move by `lr` against the gradient.

        Raises:
            ValueError: a closure is given.
        """
        if closure is not None:
            raise ValueError("FixedLength takes no closure")
        for group in self.param_groups:
            step_by(group["params"], group["lr"])


@dataclass(frozen=True)
class Rollout:
    """Responses of the student, in groups of the same question, and their rewards."""

    questions: list[Question]
    response_ids: list[npt.NDArray[np.int32]]
    reward_B: npt.NDArray[np.float64]

    def parts(self, responses: int | None) -> Iterator[Rollout]:
        """Yield it in pieces of so many responses; whole if None."""
        size = responses or len(self.questions)
        for begin in range(0, len(self.questions), size):
            some = slice(begin, begin + size)
            yield Rollout(self.questions[some], self.response_ids[some], self.reward_B[some])


@dataclass(frozen=True)
class Gain:
    """Success on held-out questions before and after training."""

    before: float
    after: float

    @property
    def gain(self) -> float:
        """The difference."""
        return self.after - self.before


def rollout(
    pair: Pair, model: torch.nn.Module, questions: Sequence[Question], group: int, seed: int
) -> Rollout:
    """Draw `group` responses to each question at temperature 1."""
    tokenizer = tokenizer_of(pair.student)
    asked = [question for question in questions for _ in range(group)]
    requests = [
        Request(
            context_ids(pair, question, "none"),
            pair.max_tokens,
            derive_seed(seed, question.id, (), index % group),
        )
        for index, question in enumerate(asked)
    ]
    sampling = SamplingSettings(stop_token_ids=(tokenizer.eos_token_id,))
    with TransformersEngine(model, sampling=sampling) as engine:
        drawn = dict(engine.generate(requests))
    ids = [drawn[index].token_ids for index in range(len(asked))]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    rewards = [
        pair.verify(text, question.answer or "") if drawn[index].finish_reason == "stop" else 0.0
        for index, (text, question) in enumerate(zip(texts, asked, strict=True))
    ]
    return Rollout(asked, ids, np.asarray(rewards))


def success(
    pair: Pair, model: torch.nn.Module, questions: Sequence[Question], responses: int, seed: int
) -> float:
    """Mean reward; with one seed, all models are given the same random numbers."""
    return float(rollout(pair, model, questions, responses, seed).reward_B.mean())


@lru_cache(maxsize=8)
def success_before(pair_name: str, prompts: int, responses: int, seed: int) -> float:
    """Success of the untrained student, the same for every configuration."""
    pair = pair_of(pair_name)
    held_out = pair.questions(prompts, EVAL_DRAW, True)
    return success(pair, load_model(pair.student, pair.dtype), held_out, responses, seed)


@dataclass(frozen=True)
class ResponseLogits:
    """Student logits at every response token, and the way back into the network.

    Attributes:
        logits_BWV: of all positions, with gradient.
        row_N, column_N: where each response token's distribution lies in it.
    """

    logits_BWV: torch.Tensor
    row_N: npt.NDArray[np.int64]
    column_N: npt.NDArray[np.int64]

    @property
    def logits_NV(self) -> torch.Tensor:
        """The logits of the response tokens, without gradient."""
        return self.logits_BWV.detach()[self._at].float()

    def push(self, ascent_NV: npt.NDArray[np.float64]) -> None:
        """Accumulate the parameter gradient of ascending along `ascent_NV`; NaN pushes nowhere."""
        grad_BWV = torch.zeros_like(self.logits_BWV)
        grad_BWV[self._at] = -torch.from_numpy(np.nan_to_num(ascent_NV)).to(grad_BWV)
        self.logits_BWV.backward(grad_BWV)

    @property
    def _at(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.row_N), torch.from_numpy(self.column_N)


def logits_of(pair: Pair, model: torch.nn.Module, rolled: Rollout) -> ResponseLogits:
    """Run the student over responses that it drew."""
    prompts = [context_ids(pair, question, "none") for question in rolled.questions]
    starts_B = np.asarray([len(prompt) for prompt in prompts])
    lengths_B = np.asarray([len(ids) for ids in rolled.response_ids])
    ids_BW = torch.zeros((len(prompts), int((starts_B + lengths_B).max())), dtype=torch.long)
    for row, (prompt, ids) in enumerate(zip(prompts, rolled.response_ids, strict=True)):
        tokens = [*prompt, *ids]
        ids_BW[row, : len(tokens)] = torch.tensor(tokens)  # causal: what follows does not matter
    row_N = np.repeat(np.arange(len(prompts)), lengths_B)
    begin_B = np.concatenate([[0], np.cumsum(lengths_B)[:-1]])
    column_N = np.arange(len(row_N)) - begin_B[row_N] + starts_B[row_N] - 1
    return ResponseLogits(model(input_ids=ids_BW, use_cache=False).logits, row_N, column_N)


def teacher_log_probs(
    pair: Pair, teacher: torch.nn.Module, configuration: Configuration, rolled: Rollout
) -> torch.Tensor:
    """Teacher log-probabilities at every response token, [N, V]."""
    sequences = [
        ForcedSequence(context_ids(pair, question, configuration.context), ids)
        for question, ids in zip(rolled.questions, rolled.response_ids, strict=True)
    ]
    found = dict(forced_log_probs(teacher, sequences))
    return torch.cat([found[index] for index in range(len(sequences))])


def node_batch(
    rolled: Rollout, student: ResponseLogits, teacher_NV: torch.Tensor | None, group: int
) -> NodeBatch:
    """Every response token as a node, dense over the vocabulary."""
    logits_NV, row_N = student.logits_NV.numpy(), student.row_N
    sampled_N = np.concatenate(rolled.response_ids).astype(np.int64)
    lengths_B = np.bincount(row_N, minlength=len(rolled.questions))
    begin_N = (np.cumsum(lengths_B) - lengths_B)[row_N]
    mean_B = np.repeat(rolled.reward_B.reshape(-1, group).mean(axis=1), group)
    spines = SpineView(
        begin_N=begin_N,
        at_N=np.arange(len(row_N)),
        end_N=begin_N + lengths_B[row_N],
        reward_N=rolled.reward_B[row_N],
        group_mean_N=mean_B[row_N],
        log_ratio_T=np.zeros(len(row_N)),
    )
    other_NV = logits_NV if teacher_NV is None else teacher_NV.numpy()
    return NodeBatch.from_logits(logits_NV, other_NV, sampled_N, spines=spines)


def move(model: torch.nn.Module, step_norm: float) -> float:
    """Step by `step_norm` against the accumulated gradient; return the gradient's length."""
    length = step_by(list(model.parameters()), step_norm)
    model.zero_grad(set_to_none=True)
    return length


@torch.no_grad()
def step_by(parameters: Sequence[torch.nn.Parameter], step_norm: float) -> float:
    """Move all parameters together by `step_norm` against their gradients; return those' length."""
    pieces = [p for p in parameters if p.grad is not None]
    length = float(torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in pieces])))
    if length > 0:
        for parameter in pieces:
            parameter.add_(parameter.grad, alpha=-step_norm / length)
    return length


def training_questions(pair: Pair, settings: TrainSettings, seed: int) -> list[Question]:
    """The questions of a training, `settings.prompts` of them for every step."""
    return list(pair.questions(settings.steps * settings.prompts, TRAIN_DRAW + seed, False))


Watch = Callable[[int, torch.nn.Module], None]
"""Called with the number of steps done and the model."""


def train(
    pair: Pair,
    configuration: Configuration,
    settings: TrainSettings,
    seed: int,
    watch: Watch = lambda step, model: None,
) -> torch.nn.Module:
    """Train a fresh copy of the student on-policy and return it; `watch` sees every step."""
    model = load_model(pair.student, pair.dtype)
    optimizer = settings.optimizer(model, seed)
    teacher = (
        load_model(configuration.teacher_model(pair.student), pair.dtype)
        if configuration.teacher
        else None
    )
    method = methods.get(configuration.method)
    questions = training_questions(pair, settings, seed)
    for step in range(settings.steps):
        asked = questions[step * settings.prompts : (step + 1) * settings.prompts]
        rolled = rollout(pair, model, asked, settings.group, seed)
        if settings.group > 1 and hasattr(method, "group"):
            method = replace(method, group=settings.group)
        for part in rolled.parts(pair.at_once and pair.at_once * settings.group):
            student = logits_of(pair, model, part)
            teacher_NV = (
                None if teacher is None else teacher_log_probs(pair, teacher, configuration, part)
            )
            batch = node_batch(part, student, teacher_NV, settings.group)
            student.push(method.ascent(batch, configuration.estimator))  # type: ignore[arg-type]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        watch(step + 1, model)
    return model.requires_grad_(False)


@torch.no_grad()
def measure(pair: Pair, model: torch.nn.Module, settings: TrainSettings, seed: int) -> Gain:
    """Compare a trained model with the untrained student on held-out questions."""
    held_out = pair.questions(settings.eval_prompts, EVAL_DRAW, True)
    responses = settings.eval_responses
    before = success_before(pair.name, settings.eval_prompts, responses, EVAL_SEED + seed)
    return Gain(before, success(pair, model, held_out, responses, EVAL_SEED + seed))
