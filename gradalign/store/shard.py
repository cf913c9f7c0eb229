"""Reading back what earlier stages wrote, as objects and arrays.

Axes: _L positions of a response, _N chosen nodes, _W top tokens.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gradalign.questions import Attempt, Question
from gradalign.store.folder import RunFolder

TOP_K = 16
"""Most probable tokens that are kept of every position, for the overlap of two models."""


@dataclass(frozen=True)
class StoredQuestion:
    """A question with the student's prompt as token ids."""

    question: Question
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True)
class StoredSpine:
    """A sampled response, with its question and the student's prompt as token ids."""

    question: Question
    prompt_ids: tuple[int, ...]
    spine_id: str
    token_ids: npt.NDArray[np.int32]
    text: str
    reward: float  # NaN where the verification failed, and
    correct: bool | None  # None

    @property
    def question_id(self) -> str:
        """The id of its question."""
        return self.question.id

    @property
    def attempt(self) -> Attempt:
        """The spine as contexts see it."""
        return Attempt(self.spine_id, self.text, self.reward)


@dataclass(frozen=True)
class Shard:
    """What a shard's questions and sampled responses are.

    Attributes:
        questions: in order.
        spines: all of them, in order of their questions and then of their numbers.
    """

    questions: list[StoredQuestion]
    spines: list[StoredSpine]

    def by_question(self) -> Iterator[tuple[StoredQuestion, list[StoredSpine]]]:
        """Yield every question with its spines, which may be none."""
        groups: dict[str, list[StoredSpine]] = {}
        for spine in self.spines:
            groups.setdefault(spine.question_id, []).append(spine)
        for item in self.questions:
            yield item, groups.get(item.question.id, [])


def question_to_json(question: Question) -> str:
    """Write a question as one JSON object; metadata that JSON has no type for becomes text."""
    return json.dumps(question.to_record(), ensure_ascii=False, default=str)


def read_questions(folder: RunFolder, shard: str) -> list[StoredQuestion]:
    """Read a shard's questions."""
    table = folder.read_table("questions", shard)
    return [
        StoredQuestion(Question.from_record(json.loads(record)), tuple(ids))
        for record, ids in zip(
            table["record"].to_pylist(), table["prompt_ids"].to_pylist(), strict=True
        )
    ]


class StoredQuestions(Sequence[Question]):
    """All questions of a run, read shard by shard when they are looked at."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._shards = folder.files("questions")
        lengths = [len(folder.read_table("questions", shard)) for shard in self._shards]
        self._ends = list(itertools.accumulate(lengths))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Question]:
        for shard in self._shards:
            for stored in read_questions(self._folder, shard):
                yield stored.question

    @overload
    def __getitem__(self, index: int) -> Question: ...

    @overload
    def __getitem__(self, index: slice) -> list[Question]: ...

    def __getitem__(self, index: int | slice) -> Question | list[Question]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        shard = bisect.bisect_right(self._ends, place)
        before = self._ends[shard - 1] if shard else 0
        return read_questions(self._folder, self._shards[shard])[place - before].question


def read_shard(folder: RunFolder, shard: str) -> Shard:
    """Read a shard's questions and spines."""
    questions = read_questions(folder, shard)
    asked = {item.question.id: item for item in questions}
    spines = [
        StoredSpine(
            question=asked[row["question_id"]].question,
            prompt_ids=asked[row["question_id"]].prompt_ids,
            spine_id=row["spine_id"],
            token_ids=np.asarray(row["token_ids"], dtype=np.int32),
            text=row["text"],
            reward=math.nan if row["reward"] is None else row["reward"],
            correct=row["correct"],
        )
        for row in folder.read_table("spines", shard).to_pylist()
    ]
    return Shard(questions, spines)


@dataclass(frozen=True)
class SpinePositions:
    """The student along one spine. Axes: _L positions, _N chosen nodes, _W top tokens.

    Attributes:
        logprob_L, entropy_L: of the drawn token, and of the whole distribution (nats).
        top_ids_LW, top_logprobs_LW: the k tokens that overlap is measured on.
        chosen: positions of the nodes, rising, [N].
        inclusion_N: their inclusion probabilities.
        node_top_ids, node_top_logprobs: per node, the student's `support_size` top tokens.
    """

    logprob_L: npt.NDArray[np.float32]
    entropy_L: npt.NDArray[np.float32]
    top_ids_LW: npt.NDArray[np.int32]
    top_logprobs_LW: npt.NDArray[np.float32]
    chosen: npt.NDArray[np.int64]
    inclusion_N: npt.NDArray[np.float64]
    node_top_ids: list[npt.NDArray[np.int32]]
    node_top_logprobs: list[npt.NDArray[np.float32]]


def read_positions(
    folder: RunFolder, shard: str, table_name: str = "positions"
) -> dict[str, SpinePositions]:
    """Read a shard's positions by spine id; `table_name` is a table of the same columns."""
    table = folder.read_table(table_name, shard)
    spine_ids = np.asarray(table["spine_id"].to_pylist(), dtype=object)
    logprob = table["student_logprob"].to_numpy()
    entropy = table["student_entropy"].to_numpy()
    inclusion = table["inclusion_prob"].to_numpy()
    top_ids = table["top_ids"].combine_chunks()
    top_logprobs = table["top_logprobs"].combine_chunks()
    edges = np.flatnonzero(np.r_[True, spine_ids[1:] != spine_ids[:-1]]).tolist()
    starts: list[int] = edges if len(table) else []
    ends = [*starts[1:], len(table)][: len(starts)]
    spines: dict[str, SpinePositions] = {}
    for start, end in zip(starts, ends, strict=True):
        ids = [top_ids[i].values.to_numpy() for i in range(start, end)]
        logprobs = [top_logprobs[i].values.to_numpy() for i in range(start, end)]
        chosen = np.flatnonzero(~np.isnan(inclusion[start:end]))
        spines[str(spine_ids[start])] = SpinePositions(
            logprob_L=logprob[start:end],
            entropy_L=entropy[start:end],
            top_ids_LW=np.stack([row[:TOP_K] for row in ids]),
            top_logprobs_LW=np.stack([row[:TOP_K] for row in logprobs]),
            chosen=chosen,
            inclusion_N=inclusion[start:end][chosen],
            node_top_ids=[ids[n] for n in chosen],
            node_top_logprobs=[logprobs[n] for n in chosen],
        )
    return spines


def read_hidden(folder: RunFolder, shard: str) -> dict[str, npt.NDArray[np.float32]] | None:
    """Read what the student's output layer read at each node, [D] by node id.

    None if it was not kept, because that layer alone does not make the model's logits of it.
    """
    table = folder.read_table("hidden", shard)
    column = table["hidden"].combine_chunks()
    if column.null_count:
        return None
    ids = table["node_id"].to_pylist()
    return {str(node): row.values.to_numpy() for node, row in zip(ids, column, strict=True)}


def padded(
    column: pa.ChunkedArray, fill: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Turn a list column into [N, widest] and a mask of what is there; at least one wide."""
    lists = column.combine_chunks()
    offsets = np.asarray(lists.offsets.to_numpy(), dtype=np.int64)
    lengths = np.diff(offsets)
    values = lists.flatten().to_numpy(zero_copy_only=False)  # nulls become NaN
    mask = np.arange(int(lengths.max(initial=1)))[None, :] < lengths[:, None]
    out = np.full(mask.shape, fill, dtype=np.float64)
    out[mask] = values
    return out, mask
