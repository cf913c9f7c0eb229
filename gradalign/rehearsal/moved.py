"""The student with moved weights, read along stored responses.

Axes: _B rows of a pass, _K kept columns, _L tokens of a response, _T tokens of all responses of a
pass, _N nodes, _M nodes that a teacher was shown, _C candidates, _S support, _V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from gradalign.analysis.align import NO_TEACHER
from gradalign.analysis.node_views import NodeView, ShardViews
from gradalign.methods import NodeBatch
from gradalign.models.distributions import (
    ForcedSequence,
    forced_log_probs,
    response_distribution,
)
from gradalign.models.event_space import Cut
from gradalign.models.gradients import ForcedResponses
from gradalign.runtime import model_pass
from gradalign.stages.base import Run
from gradalign.store.shard import StoredSpine, read_shard

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@contextmanager
def moved(
    parameters: Sequence[torch.nn.Parameter], displacement: Sequence[torch.Tensor] | None
) -> Iterator[None]:
    """Move weights while the block lasts; they are what they were afterwards, bit for bit.

    Args:
        parameters: the space.
        displacement: a tensor per parameter; None for none.
    """
    import torch

    if displacement is None:
        yield
        return
    kept = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, part in zip(parameters, displacement, strict=True):
            parameter.add_(part)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(parameters, kept, strict=True):
                parameter.copy_(old)


class StoredResponses:
    """A shard's responses and nodes.

    Args:
        run: the run.
        shard: name of the shard.

    Attributes:
        spines: responses that have a token.
        questions: ids of the questions of all responses, those without a token included.
        begin_of: where each one's tokens begin in `SpineView.log_ratio_T`.
        nodes_of: rows of the shard's nodes that lie on each, in order of their positions.
        position_N, weight_N, special_N: of every node: its position in the response, one over its
            inclusion probability, whether a special token was drawn there.
    """

    def __init__(self, run: Run, shard: str) -> None:
        self.run, self.views = run, ShardViews(run, shard)
        spines = read_shard(run.folder, shard).spines
        self.questions = [item.question_id for item in spines]
        self.spines = [item for item in spines if len(item.token_ids)]
        ends = np.cumsum([len(item.token_ids) for item in spines])
        self.begin_of = [
            int(end) - len(item.token_ids)
            for end, item in zip(ends, spines, strict=True)
            if len(item.token_ids)
        ]
        nodes = self.views.nodes
        self.position_N = nodes.column("position").astype(np.int64)
        self.weight_N = 1.0 / nodes.column("inclusion_prob")
        self.special_N = nodes.column("special").astype(np.bool_)
        rows: dict[str, list[int]] = {}
        for row, spine in enumerate(nodes.ids("spine_id")):
            rows.setdefault(spine, []).append(row)
        self.nodes_of = [
            np.array(sorted(rows.get(item.spine_id, []), key=self.position_N.__getitem__), np.int64)
            for item in self.spines
        ]

    def view(self, label: str) -> NodeView:
        """Return a teacher's view of the nodes, or the student's."""
        return self.views.student if label == NO_TEACHER else self.views.teacher(label)


class NodePush(NamedTuple):
    """A direction on the logits of some nodes of a pass.

    Attributes:
        place_M: which of the pass's nodes.
        ids_MT: tokens, -1 at padding.
        values_MT: the direction on these, times the nodes' weights.
    """

    place_M: Ints
    ids_MT: Ints
    values_MT: Floats


@dataclass(frozen=True, eq=False)
class Passed:
    """One pass over some responses.

    Attributes:
        stored: the shard.
        numbers: of the responses, in `StoredResponses.spines`.
        logprobs: of each one's own tokens.
        node_N: rows of their nodes.
        logp_NC: of the candidates there; minus infinity at padding.
    """

    stored: StoredResponses
    numbers: list[int]
    logprobs: list[Floats]
    node_N: Ints
    logp_NC: Floats
    _log_probs_NV: torch.Tensor
    _logits_BKV: torch.Tensor
    _at_N: tuple[torch.Tensor, torch.Tensor]

    @property
    def num_tokens(self) -> int:
        """Tokens of the vocabulary."""
        return int(self._log_probs_NV.shape[1])

    def moved_batch(
        self, label: str, old: Sequence[Floats], taught: Taught | None = None
    ) -> tuple[NodeBatch, Ints]:
        """Return a teacher's nodes with the student of this pass, and their places in `node_N`.

        The values of continuations stay what they are.

        Args:
            label: the teacher, or `NO_TEACHER`.
            old: log-probabilities of the responses' tokens by the student of the run.
            taught: what the teacher says now; None for one that stays what it is.
        """
        stored = self.stored
        view = stored.view(label)
        place = np.full(len(stored.position_N), -1, dtype=np.int64)
        place[self.node_N] = np.arange(len(self.node_N))
        keep_M = np.flatnonzero(place[view.rows] >= 0)
        place_M = place[view.rows[keep_M]]
        batch = view.batch.take(keep_M)
        log_probs_MV = self._log_probs_NV[place_M]
        if label != NO_TEACHER and stored.run.lacks_tokens(label):
            cut = Cut(stored.run.common_tokens(label))
            log_probs_MV = cut(log_probs_MV).log_softmax(-1)
        p = on_support(log_probs_MV, batch.ids_NS, batch.mask_NS, tuple(batch.tail_powers))
        log_q_NS, log_tail_q_N = batch.log_q_NS, batch.log_tail_q_N
        powers = {t: (p.powers[t], batch.tail_powers[t][1]) for t in batch.tail_powers}
        if taught is not None:
            rows = taught.log_probs_NV[place_M]
            q = on_support(rows, batch.ids_NS, batch.mask_NS, tuple(powers))
            log_q_NS, log_tail_q_N = q.log_p_NS, q.log_tail_N
            powers = {t: (p.powers[t], q.powers[t]) for t in powers}
        spines = batch.spines
        if spines is not None:
            log_ratio_T = spines.log_ratio_T.copy()
            for i, (number, new) in enumerate(zip(self.numbers, self.logprobs, strict=True)):
                at = slice(stored.begin_of[number], stored.begin_of[number] + len(new))
                log_ratio_T[at] += old[number] - new
                if taught is not None and len(taught.logprobs[i]):
                    log_ratio_T[at] = taught.logprobs[i] - new
            spines = replace(spines, log_ratio_T=log_ratio_T)
        changed = replace(
            batch,
            log_p_NS=p.log_p_NS,
            log_q_NS=log_q_NS,
            log_tail_p_N=p.log_tail_N,
            log_tail_q_N=log_tail_q_N,
            tail_powers=powers,
            spines=spines,
        )
        return changed, place_M

    def gradient(
        self, parameters: Sequence[torch.Tensor], pushes: Iterable[NodePush]
    ) -> list[torch.Tensor | None]:
        """Return the gradient along a sum of directions on the logits of nodes.

        Args:
            parameters: the space.
            pushes: the directions.
        """
        import torch

        push_BKV = torch.zeros_like(self._logits_BKV)
        device = push_BKV.device
        place_N, column_N = self._at_N
        for push in pushes:
            row, slot = np.nonzero((push.ids_MT >= 0) & (push.values_MT != 0.0))
            nodes = torch.from_numpy(push.place_M[row]).to(device)
            tokens = torch.from_numpy(push.ids_MT[row, slot]).to(device)
            values = torch.from_numpy(push.values_MT[row, slot]).to(push_BKV)
            push_BKV.index_put_((place_N[nodes], column_N[nodes], tokens), values, accumulate=True)
        with model_pass(device):
            found: tuple[torch.Tensor | None, ...] = torch.autograd.grad(
                self._logits_BKV, list(parameters), push_BKV, allow_unused=True
            )
        return list(found)


def passes(
    stored: StoredResponses,
    model: torch.nn.Module,
    numbers: Sequence[int],
    *,
    with_gradient: bool = False,
) -> Iterator[Passed]:
    """Read some responses of a shard, a few at a time.

    Args:
        stored: the shard.
        model: the student.
        numbers: which of `stored.spines`.
        with_gradient: keep the way back into the network.
    """
    import torch

    run = stored.run
    order = sorted(numbers, key=lambda i: _length(stored.spines[i]))
    spines = [stored.spines[i] for i in order]
    responses = ForcedResponses(
        model,
        [ForcedSequence(item.prompt_ids, item.token_ids) for item in spines],
        [range(len(item.token_ids)) for item in spines],
        batch_tokens=run.config.batch_tokens,
    )
    candidate_NC = stored.views.nodes.token_NC
    for batch in responses.batches:
        with torch.set_grad_enabled(with_gradient):
            logits_BKV, columns = responses.logits(batch)
        device = logits_BKV.device
        lengths = [len(spines[row].token_ids) for row in batch]
        begins = np.cumsum([0, *lengths])
        place_T = torch.from_numpy(np.repeat(np.arange(len(batch)), lengths)).to(device)
        column_T = torch.tensor(
            [columns[row, t] for row, n in zip(batch, lengths, strict=True) for t in range(n)],
            device=device,
        )
        token_T = np.concatenate([spines[row].token_ids for row in batch]).astype(np.int64)
        logits_TV = logits_BKV.detach()[place_T, column_T].float()
        log_probs_TV = response_distribution(logits_TV, run.sampling)
        own_T = log_probs_TV.gather(1, torch.from_numpy(token_T).to(device)[:, None])[:, 0]
        own = own_T.double().cpu().numpy()
        node_N = np.concatenate([stored.nodes_of[order[row]] for row in batch])
        at_N = np.concatenate(
            [
                begin + stored.position_N[stored.nodes_of[order[row]]]
                for begin, row in zip(begins[:-1], batch, strict=True)
            ]
        ).astype(np.int64)
        where = torch.from_numpy(at_N).to(device)
        log_probs_NV = log_probs_TV[where]
        ids_NC = candidate_NC[node_N]
        found = log_probs_NV.gather(1, torch.from_numpy(np.maximum(ids_NC, 0)).to(device))
        logp_NC = np.where(ids_NC >= 0, found.double().cpu().numpy(), -np.inf)
        yield Passed(
            stored=stored,
            numbers=[order[row] for row in batch],
            logprobs=[own[begin:end] for begin, end in itertools.pairwise(begins)],
            node_N=node_N,
            logp_NC=logp_NC,
            _log_probs_NV=log_probs_NV,
            _logits_BKV=logits_BKV,
            _at_N=(place_T[where], column_T[where]),
        )


@dataclass(frozen=True, eq=False)
class Taught:
    """What a teacher that is the moved student says along the responses of a pass.

    Attributes:
        log_probs_NV: at the pass's nodes, in their order; undefined where it is shown nothing.
        logprobs: of every response's own tokens; empty where it is shown nothing.
    """

    log_probs_NV: torch.Tensor
    logprobs: list[Floats]


def taught_by_itself(
    read: Passed, model: torch.nn.Module, prompts: Mapping[str, Sequence[int] | None]
) -> Taught:
    """Read the responses of a pass again, as the same model says them after other prompts.

    Args:
        read: the pass.
        model: the student as it is now.
        prompts: by the ids of responses; None where there is nothing to show.
    """
    import torch

    stored = read.stored
    spines = [stored.spines[number] for number in read.numbers]
    shown = [place for place, item in enumerate(spines) if prompts[item.spine_id] is not None]
    sequences = [
        ForcedSequence(prompts[spines[place].spine_id] or (), spines[place].token_ids)
        for place in shown
    ]
    logprobs: list[Floats] = [np.zeros(0)] * len(spines)
    rows: list[torch.Tensor | None] = [None] * len(spines)
    for i, log_probs_LV in forced_log_probs(
        model, sequences, batch_tokens=stored.run.config.batch_tokens
    ):
        place = shown[i]
        own = torch.from_numpy(spines[place].token_ids.astype(np.int64)).to(log_probs_LV.device)
        logprobs[place] = log_probs_LV.gather(1, own[:, None])[:, 0].double().cpu().numpy()
        at = stored.position_N[stored.nodes_of[read.numbers[place]]]
        rows[place] = log_probs_LV[torch.from_numpy(at).to(log_probs_LV.device)]
    width = read.num_tokens
    blank = [
        torch.zeros((len(stored.nodes_of[number]), width)) if part is None else part
        for number, part in zip(read.numbers, rows, strict=True)
    ]
    device = next((part.device for part in rows if part is not None), torch.device("cpu"))
    return Taught(torch.cat([part.to(device) for part in blank]), logprobs)


@dataclass(frozen=True, eq=False)
class OnSupport:
    """A distribution on a support.

    Attributes:
        log_p_NS: minus infinity at padding.
        log_tail_N: of all other tokens.
        powers: per temperature T, log of the sum over these of p^(1/T).
    """

    log_p_NS: Floats
    log_tail_N: Floats
    powers: dict[float, Floats]


def on_support(
    log_probs_NV: torch.Tensor,
    ids_NS: Ints,
    mask_NS: npt.NDArray[np.bool_],
    temperatures: Sequence[float],
) -> OnSupport:
    """Read distributions on given tokens, and sum up the rest."""
    import torch

    ids = torch.from_numpy(np.where(mask_NS, ids_NS, 0)).to(log_probs_NV.device)
    asked = log_probs_NV.gather(1, ids).double().cpu().numpy()
    there = torch.zeros_like(log_probs_NV, dtype=torch.bool)
    row, slot = np.nonzero(mask_NS)
    there[torch.from_numpy(row), torch.from_numpy(ids_NS[row, slot])] = True
    rest_NV = log_probs_NV.double().masked_fill(there, -torch.inf)

    def log_sum(values_NV: torch.Tensor) -> Floats:
        if not values_NV.shape[0]:
            return np.zeros(0)
        return np.asarray(values_NV.logsumexp(dim=1).cpu().numpy())

    return OnSupport(
        log_p_NS=np.where(mask_NS, asked, -np.inf),
        log_tail_N=log_sum(rest_NV),
        powers={t: log_sum(rest_NV / t) for t in temperatures},
    )


def _length(spine: StoredSpine) -> int:
    return len(spine.prompt_ids) + len(spine.token_ids)
