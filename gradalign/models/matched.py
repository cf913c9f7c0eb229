"""What a model in memory says of the student's tokens where its own are other pieces of text.

A response is read once, cut by the model's own tokenizer. At each node the sums of
`gradalign.tokenization.masses` ask for what comes behind further tokens: those of the response are
known already, and all others, of all nodes, are read together from copies of its keys and values.

Axes: _V the model's vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gradalign.errors import ContextOverflowError
from gradalign.models.checkpoints.loading import context_length
from gradalign.models.continuations import Offshoot, Trunk
from gradalign.tokenization.masses import Masses, NodeMasses, likely
from gradalign.tokenization.matching import ByteMatching
from gradalign.tokenization.response import ByteResponse, Place

if TYPE_CHECKING:
    import torch

Int32s = npt.NDArray[np.int32]

ROUNDS = 3
"""How often further tokens are read at the nodes of a response, at most."""

READS = 16
"""Distributions that a node asks for in a round, at most."""


@dataclass
class _Node:
    place: Place
    sums: NodeMasses


def matched_masses(
    model: torch.nn.Module,
    prompt_ids: Sequence[int],
    response: ByteResponse,
    matching: ByteMatching,
    positions: Sequence[int],
    candidates: Sequence[Sequence[int]],
    *,
    num_top: int,
    batch_tokens: int = 16384,
) -> list[Masses | None]:
    """Return what a model says of the student's tokens at nodes of a response.

    Args:
        model: the teacher.
        prompt_ids: its prompt.
        response: the response in both tokenizers.
        matching: both tokenizers.
        positions: the nodes: how many of the student's tokens come before each.
        candidates: per node, the student's tokens that are asked for.
        num_top: how many of the teacher's most probable ones are added.
        batch_tokens: tokens per forward pass at most.

    Returns:
        Per node the masses; None behind a token that the teacher has none for.

    Raises:
        ContextOverflowError: the response does not fit into the model's context.
        NotNumbersError: a position has no distribution.
    """
    ids = response.teacher_ids
    limit = context_length(model.config)
    if limit is not None and len(prompt_ids) + len(ids) > limit:
        raise ContextOverflowError(
            f"a response has {len(ids)} tokens of the teacher behind a prompt of "
            f"{len(prompt_ids)}, and its context is {limit}.",
            "Use a shorter context or a smaller --max-tokens.",
        )
    trunk = Trunk(model, [*prompt_ids, *ids], len(ids) + 1)
    nodes: list[_Node | None] = []
    for position, asked in zip(positions, candidates, strict=True):
        place = response.at(position)
        if place is None:
            nodes.append(None)
            continue
        top = likely(matching, place.before, place.begun, _numbers(trunk, place.index), num_top)
        sums = NodeMasses(
            matching.student,
            matching.teacher,
            before=place.before,
            begun=place.begun,
            candidates=list(dict.fromkeys([*asked, *top])),
            ends=matching.ends,
        )
        nodes.append(_Node(place, sums))
    read = [node for node in nodes if node is not None]
    for _ in range(ROUNDS):
        if not _round(trunk, len(prompt_ids), ids, read, batch_tokens):
            break
    return [None if node is None else node.sums.masses() for node in nodes]


def _numbers(trunk: Trunk, index: int) -> npt.NDArray[np.float64]:
    return trunk.log_probs_LV[index].double().cpu().numpy()


def _round(
    trunk: Trunk, num_prompt: int, ids: Sequence[int], nodes: Iterable[_Node], batch_tokens: int
) -> int:
    """Give every node what it wants once; return how much was read for that."""
    owners: list[tuple[_Node, tuple[int, ...]]] = []
    for node in nodes:
        index, given = node.place.index, True
        while given:  # what lies on the response is known
            given = False
            wanted = node.sums.wanted(READS)
            for sequence in wanted:
                if tuple(ids[index : index + len(sequence)]) == sequence:
                    node.sums.give(sequence, _numbers(trunk, index + len(sequence)))
                    given = True
        owners += [(node, sequence) for sequence in wanted]
    offshoots = [Offshoot(num_prompt + node.place.index, sequence) for node, sequence in owners]
    for i, log_prob_V in trunk.behind(offshoots, batch_tokens):
        owners[i][0].sums.give(owners[i][1], log_prob_V)
    return len(offshoots)
