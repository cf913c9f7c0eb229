"""A teacher along the student's responses: by forward passes, or from its servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradalign.models import loaded_model
from gradalign.models.continuations import Offshoot, offshoot_logprobs
from gradalign.models.distributions import (
    ForcedSequence,
    PositionView,
    SupportView,
    at_tokens,
    forced_log_probs,
    position_view,
    top_tokens,
)
from gradalign.models.event_space import EventSpace, only
from gradalign.models.sampling import SamplingSettings
from gradalign.stages.base import Run
from gradalign.stages.servers import open_served_teacher, teacher_servers
from gradalign.store.shard import TOP_K, SpinePositions

if TYPE_CHECKING:
    import torch

    from gradalign.engines.server.engine import ServerEngine

Int32s = npt.NDArray[np.int32]

Reading = tuple[PositionView, list[Int32s], SupportView]
"""Every position of a response; per node the tokens that are kept; and the teacher on them."""


class LocalReader:
    """A model in memory, read by forward passes: exact, on all tokens that it is compared on."""

    def __init__(self, run: Run, model: torch.nn.Module, tokens: EventSpace) -> None:
        self._run = run
        self._model = model
        self._num_top = min(run.config.support_size, tokens.size)

    def readings(
        self,
        sequences: Sequence[ForcedSequence],
        students: Sequence[SpinePositions],
        temperatures: Sequence[float],
    ) -> Iterator[tuple[int, Reading]]:
        """Yield (index, what the teacher says of that response), in any order."""
        for i, log_probs_LV in forced_log_probs(
            self._model, sequences, batch_tokens=self._run.config.batch_tokens
        ):
            student, ids = students[i], np.asarray(sequences[i].response_ids, dtype=np.int32)
            view = position_view(log_probs_LV, ids, student.top_ids_LW.shape[1])
            if not len(student.chosen):
                yield i, (view, [], _nothing())
                continue
            own_ids_NW, _ = top_tokens(log_probs_LV, student.chosen, self._num_top)
            unions = [
                np.unique(np.concatenate([top, own, ids[position : position + 1]]))
                for position, top, own in zip(
                    student.chosen, student.node_top_ids, own_ids_NW, strict=True
                )
            ]
            yield i, (view, unions, at_tokens(log_probs_LV, student.chosen, unions, temperatures))

    def offshoot_logprobs(
        self, trunk_ids: list[int], offshoots: list[Offshoot], sampling: SamplingSettings | None
    ) -> list[npt.NDArray[np.float32]]:
        """Return log-probabilities of every token after each forced candidate."""
        return offshoot_logprobs(
            self._model,
            trunk_ids,
            offshoots,
            sampling=sampling,
            batch_tokens=self._run.config.batch_tokens,
        )


class ServedReader:
    """A model on vLLM servers: its top tokens, and the student's as far as servers tell."""

    def __init__(self, run: Run, engine: ServerEngine) -> None:
        self._run = run
        self._engine = engine

    def readings(
        self,
        sequences: Sequence[ForcedSequence],
        students: Sequence[SpinePositions],
        temperatures: Sequence[float],
    ) -> Iterator[tuple[int, Reading]]:
        """Yield (index, what the teacher says of that response), in any order."""
        from gradalign.engines.server.distributions import AskedSequence, served_readings

        asked = [
            AskedSequence(sequence, student.chosen, student.node_top_ids)
            for sequence, student in zip(sequences, students, strict=True)
        ]
        for i, reading in served_readings(
            self._engine,
            asked,
            num_view=TOP_K,
            num_top=self._run.config.support_size,
            temperatures=temperatures,
        ):
            yield i, (reading.view, reading.unions, reading.at)

    def offshoot_logprobs(
        self, trunk_ids: list[int], offshoots: list[Offshoot], sampling: SamplingSettings | None
    ) -> list[npt.NDArray[np.float32]]:
        """Return log-probabilities of every token after each forced candidate."""
        from gradalign.engines.server.distributions import served_offshoot_logprobs

        assert sampling is None, "servers score at temperature 1, and only teachers are asked"
        return served_offshoot_logprobs(self._engine, trunk_ids, offshoots)


@contextmanager
def open_teacher(run: Run, model: str) -> Iterator[LocalReader | ServedReader]:
    """Open a teacher checkpoint where it is: on its servers if it has some, else in memory."""
    urls = teacher_servers(run.config).get(model)
    options: dict[str, Any] = run.model_options(model)
    if urls:
        tokens = run.common_tokens(model)
        with open_served_teacher(model, urls, options, tokens=tokens) as engine:
            yield ServedReader(run, engine)
    else:
        with loaded_model(model, **options) as loaded, only(loaded, run.common_tokens(model)):
            yield LocalReader(run, loaded, run.common_tokens(model))


@contextmanager
def open_student_model(run: Run, tokens: EventSpace | None = None) -> Iterator[torch.nn.Module]:
    """Hold the student in memory, its logits cut to given tokens, by default all of its own."""
    student = run.config.student
    options = run.model_options(student)
    with loaded_model(student, **options) as model, only(model, tokens or run.tokens):
        yield model


def _nothing() -> SupportView:
    return SupportView(logprobs=[], log_tail_N=np.zeros(0), tail_powers={})
