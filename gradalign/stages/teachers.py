"""A teacher along the student's responses: by forward passes, or from its servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradalign.models import loaded_model
from gradalign.models.continuations import Offshoot, offshoot_logprobs
from gradalign.models.distributions import (
    ForcedSequence,
    PositionView,
    SupportView,
    TokenIds,
    at_tokens,
    forced_log_probs,
    position_view,
    top_tokens,
)
from gradalign.models.event_space import EventSpace, only
from gradalign.models.matched import matched_masses
from gradalign.models.numbers import at_index
from gradalign.models.sampling import SamplingSettings
from gradalign.stages.base import Run
from gradalign.stages.matching import bytes_of, ids_of, teacher_tokens
from gradalign.stages.servers import open_served_teacher, teacher_servers
from gradalign.store.shard import TOP_K, SpinePositions
from gradalign.tokenization.masses import Masses
from gradalign.tokenization.matching import ByteMatching, Ints
from gradalign.tokenization.response import ByteResponse

if TYPE_CHECKING:
    import torch

    from gradalign.engines.server.engine import ServerEngine

Int32s = npt.NDArray[np.int32]


class Reading(NamedTuple):
    """What a teacher says of a response.

    Attributes:
        view: every position.
        unions: per node the tokens that are kept.
        at: the teacher on them.
        masses: of a teacher that is matched by bytes, per node what it says; None where it cannot
            read so far.
    """

    view: PositionView
    unions: list[Int32s]
    at: SupportView
    masses: Sequence[Masses | None] = ()


class LocalReader:
    """A model in memory, read by forward passes: exact, on all tokens that it is compared on.

    Args:
        run: the run.
        model: the teacher.
        tokens: those of the student that it has.
        ids: its id of each of the student's tokens, where they are not the same.
    """

    def __init__(
        self, run: Run, model: torch.nn.Module, tokens: EventSpace, ids: Ints | None = None
    ) -> None:
        self._run = run
        self._model = model
        self._ids = ids
        self._num_top = min(run.config.support_size, tokens.size)

    def readings(
        self,
        sequences: Sequence[ForcedSequence],
        students: Sequence[SpinePositions],
        temperatures: Sequence[float],
    ) -> Iterator[tuple[int, Reading]]:
        """Yield (index, what the teacher says of that response), in any order."""
        own = [ForcedSequence(item.prompt_ids, self._own(item.response_ids)) for item in sequences]
        for i, log_probs_LV in forced_log_probs(
            self._model, own, batch_tokens=self._run.config.batch_tokens
        ):
            log_probs_LV = self._of_student(log_probs_LV)
            student, ids = students[i], np.asarray(sequences[i].response_ids, dtype=np.int32)
            view = position_view(log_probs_LV, ids, student.top_ids_LW.shape[1])
            if not len(student.chosen):
                yield i, Reading(view, [], _nothing())
                continue
            own_ids_NW, _ = top_tokens(log_probs_LV, student.chosen, self._num_top)
            unions = [
                np.unique(np.concatenate([top, own, ids[position : position + 1]]))
                for position, top, own in zip(
                    student.chosen, student.node_top_ids, own_ids_NW, strict=True
                )
            ]
            at = at_tokens(log_probs_LV, student.chosen, unions, temperatures)
            yield i, Reading(view, unions, at)

    def _own(self, token_ids: TokenIds) -> TokenIds:
        """Return the teacher's ids of some tokens of the student."""
        if self._ids is None:
            return token_ids
        return self._ids[np.asarray(token_ids, dtype=np.int64)].astype(np.int32)

    def _of_student(self, log_probs_LV: torch.Tensor) -> torch.Tensor:
        """Put a distribution in the order of the student's ids."""
        import torch

        if self._ids is None:
            return log_probs_LV
        place_V = torch.from_numpy(np.maximum(self._ids, 0)).to(log_probs_LV.device)
        missing = np.flatnonzero((self._ids < 0) | (self._ids >= log_probs_LV.shape[1]))
        place_V[missing] = 0
        found_LV = log_probs_LV[:, place_V]
        found_LV[:, missing] = -np.inf
        return found_LV

    def offshoot_logprobs(
        self,
        prompt_ids: Sequence[int],
        response_ids: Sequence[int],
        offshoots: Sequence[Offshoot],
        sampling: SamplingSettings | None,
    ) -> list[npt.NDArray[np.float32]]:
        """Return log-probabilities of every token after each forced candidate.

        Args:
            prompt_ids: in the teacher's own ids.
            response_ids: in the student's.
            offshoots: in the student's; each starts at a position of the response.
            sampling: temperature and truncation to apply, None for the plain distribution.
        """
        return offshoot_logprobs(
            self._model,
            [*prompt_ids, *self._own(response_ids)],
            [
                Offshoot(len(prompt_ids) + item.start, list(self._own(item.token_ids)))
                for item in offshoots
            ],
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
            yield i, Reading(reading.view, reading.unions, reading.at)

    def offshoot_logprobs(
        self,
        prompt_ids: Sequence[int],
        response_ids: Sequence[int],
        offshoots: Sequence[Offshoot],
        sampling: SamplingSettings | None,
    ) -> list[npt.NDArray[np.float32]]:
        """Return log-probabilities of every token after each forced candidate."""
        from gradalign.engines.server.distributions import served_offshoot_logprobs

        assert sampling is None, "servers score at temperature 1, and only teachers are asked"
        shifted = [Offshoot(len(prompt_ids) + item.start, item.token_ids) for item in offshoots]
        return served_offshoot_logprobs(self._engine, [*prompt_ids, *response_ids], shifted)


class ByteReader:
    """A model in memory whose tokens are other pieces of text than the student's.

    It is read at the nodes alone, on the tokens that are matched there.
    """

    def __init__(self, run: Run, model: torch.nn.Module, matching: ByteMatching) -> None:
        self._run, self._model, self._matching = run, model, matching
        self._num_top = min(run.config.matched_candidates, run.config.support_size)

    def readings(
        self,
        sequences: Sequence[ForcedSequence],
        students: Sequence[SpinePositions],
        temperatures: Sequence[float],
    ) -> Iterator[tuple[int, Reading]]:
        """Yield (index, what the teacher says of that response), in order."""
        for i, (sequence, student) in enumerate(zip(sequences, students, strict=True)):
            ids = [int(token) for token in sequence.response_ids]
            asked = [
                [*top[: self._num_top].tolist(), ids[position]]
                for position, top in zip(student.chosen, student.node_top_ids, strict=True)
            ]
            matching = self._matching
            with at_index(i):
                masses = matched_masses(
                    self._model,
                    [int(token) for token in sequence.prompt_ids],
                    ByteResponse(matching.student, matching.teacher, ids, matching.roles),
                    matching,
                    student.chosen.tolist(),
                    [list(filter(matching.known, tokens)) for tokens in asked],
                    num_top=self._num_top,
                    batch_tokens=self._run.config.batch_tokens,
                )
            yield i, _matched_reading(student, ids, asked, masses, temperatures)


def _matched_reading(
    student: SpinePositions,
    ids: Sequence[int],
    asked: Sequence[Sequence[int]],
    masses: Sequence[Masses | None],
    temperatures: Sequence[float],
) -> Reading:
    """Put what a teacher says at the nodes in the form of a reading; all else is NaN."""
    unions: list[Int32s] = []
    logprobs: list[npt.NDArray[np.float32]] = []
    tails: list[float] = []
    logprob_L = np.full(len(ids), np.nan, dtype=np.float32)
    for position, tokens, found in zip(student.chosen.tolist(), asked, masses, strict=True):
        known = () if found is None else found.token_C
        union = np.unique([*tokens, *known]).astype(np.int32)
        values = np.full(len(union), np.nan, dtype=np.float32)
        if found is not None:
            with np.errstate(divide="ignore"):
                values[np.searchsorted(union, found.token_C)] = np.log(found.q_C)
                tails.append(float(np.log(found.tail)))
        else:
            tails.append(0.0)
        logprob_L[position] = values[np.searchsorted(union, ids[position])]
        unions.append(union)
        logprobs.append(values)
    nowhere_LW = np.full(student.top_ids_LW.shape, np.nan, dtype=np.float32)
    view = PositionView(
        logprob_L, np.full(len(ids), np.nan, dtype=np.float32), student.top_ids_LW, nowhere_LW
    )
    powers = {t: np.full(len(unions), np.nan) for t in temperatures}
    return Reading(view, unions, SupportView(logprobs, np.array(tails), powers), masses)


@contextmanager
def open_teacher(run: Run, model: str) -> Iterator[LocalReader | ServedReader | ByteReader]:
    """Open a teacher checkpoint where it is: on its servers if it has some, else in memory."""
    urls = teacher_servers(run.config).get(model)
    options: dict[str, Any] = run.model_options(model)
    if urls:
        tokens = run.common_tokens(model)
        with open_served_teacher(model, urls, options, tokens=tokens) as engine:
            yield ServedReader(run, engine)
        return
    matching, ids, tokens = bytes_of(run, model), ids_of(run, model), run.common_tokens(model)
    with loaded_model(model, **options) as loaded:
        if matching is not None:
            with only(loaded, teacher_tokens(run, model)):
                yield ByteReader(run, loaded, matching)
        else:
            own = tokens if ids is None else EventSpace.of(ids[tokens.ids()].tolist())
            with only(loaded, own):
                yield LocalReader(run, loaded, tokens, ids)


@contextmanager
def open_student_model(run: Run, tokens: EventSpace | None = None) -> Iterator[torch.nn.Module]:
    """Hold the student in memory, its logits cut to given tokens, by default all of its own."""
    student = run.config.student
    options = run.model_options(student)
    with loaded_model(student, **options) as model, only(model, tokens or run.tokens):
        yield model


def _nothing() -> SupportView:
    return SupportView(logprobs=[], log_tail_N=np.zeros(0), tail_powers={})
