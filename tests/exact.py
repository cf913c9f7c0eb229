"""Exact success probabilities of a small model, by expanding the tree of its continuations.

The independent truth for everything that gradalign estimates by sampling: no random numbers,
no shared code. Axes: _B prefixes of one batch, _V vocabulary, _K children that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from gradalign.demo.addition import verify

Floats = npt.NDArray[np.float64]
Reward = Callable[[Sequence[int]], float]
"""Token ids of a whole response, stop token included, to its reward in [0, 1]."""

MIN_MASS = 1e-5


@dataclass(frozen=True)
class ExactValue:
    """The expected reward after one prefix.

    Attributes:
        value: sum of probability times reward over the completions that were expanded; the
            true value lies in [value, value + lost].
        lost: probability, given the prefix, of what was not expanded.
        num_prefixes: prefixes that the model was run on.
        num_leaves: completions that ended with a stop token.
        num_truncated: completions that reached the length limit (reward 0).
    """

    value: float
    lost: float
    num_prefixes: int
    num_leaves: int
    num_truncated: int


@dataclass(frozen=True)
class ExactBranches:
    """Expected rewards after many (position, candidate) branches of one spine.

    Attributes:
        values: per position an array over its candidates; see `ExactValue.value`.
        lost: the same for `ExactValue.lost`.
        num_prefixes, num_leaves, num_truncated: of all branches together, each prefix once.
    """

    values: list[Floats]
    lost: list[Floats]
    num_prefixes: int
    num_leaves: int
    num_truncated: int


def exact_value(
    model: PreTrainedModel,
    prompt_ids: Sequence[int],
    prefix_ids: Sequence[int] = (),
    *,
    reward: Reward,
    stop_ids: Sequence[int],
    max_tokens: int,
    min_mass: float = MIN_MASS,
) -> ExactValue:
    """Return the expected reward of continuing `prefix_ids` after `prompt_ids`.

    Args:
        model: a causal language model of the transformers library; sampled at temperature 1.
        prompt_ids: the prompt, special tokens included.
        prefix_ids: the response so far, without a stop token.
        reward: called with the whole response, `prefix_ids` included.
        stop_ids: tokens that end a response.
        max_tokens: of the whole response, `prefix_ids` and stop token included; a longer one
            has reward 0.
        min_mass: a continuation less probable than this, given the prefix, is not expanded.
    """
    tree = _Tree(model, prompt_ids, prefix_ids, {}, reward, stop_ids, max_tokens, min_mass)
    tree.grow(start_mass=1.0)
    values, lost = tree.back_up()
    return ExactValue(values[0], lost[0], tree.num_prefixes, tree.num_leaves, tree.num_truncated)


def exact_values(
    model: PreTrainedModel,
    prompt_ids: Sequence[int],
    spine_ids: Sequence[int],
    positions: Sequence[int],
    candidates_per_position: Sequence[Sequence[int]],
    *,
    reward: Reward,
    stop_ids: Sequence[int],
    max_tokens: int,
    min_mass: float = MIN_MASS,
) -> ExactBranches:
    """Return V for every candidate forced at every position of a spine.

    All branches share one tree, in which each prefix is there once: a prefix is expanded if it
    has at least `min_mass` given ANY of the branches it belongs to. The other arguments are
    those of `exact_value`; position t forces a candidate in place of `spine_ids[t]`.
    """
    forced = {
        int(position): [int(token) for token in candidates]
        for position, candidates in zip(positions, candidates_per_position, strict=True)
    }
    if len(forced) != len(positions):
        raise ValueError(f"positions must differ, got {list(positions)}")
    if forced and not 0 <= min(forced) <= max(forced) < min(len(spine_ids), max_tokens):
        raise ValueError(f"positions must lie on the spine of {len(spine_ids)}, got {positions}")
    spine = spine_ids[: max(forced, default=0)]
    tree = _Tree(model, prompt_ids, (), forced, reward, stop_ids, max_tokens, min_mass, spine)
    if forced:
        tree.grow(start_mass=0.0)
    values, lost = tree.back_up()
    where = [[tree.branch[t, c] for c in forced[int(t)]] for t in positions]
    return ExactBranches(
        values=[values[index] for index in where],
        lost=[lost[index] for index in where],
        num_prefixes=tree.num_prefixes,
        num_leaves=tree.num_leaves,
        num_truncated=tree.num_truncated,
    )


@torch.inference_mode()
def exact_policy_tables(
    model: PreTrainedModel,
    prompt_ids: Sequence[int],
    spine_ids: Sequence[int],
    positions: Sequence[int],
) -> Floats:
    """Return the next-token probabilities at the given positions, [positions, vocab]."""
    ids_BT = torch.tensor([[*prompt_ids, *spine_ids]])
    logits_TV = model(input_ids=ids_BT).logits[0]
    rows = torch.tensor([len(prompt_ids) - 1 + int(t) for t in positions])
    return logits_TV[rows].double().softmax(dim=-1).numpy()


def addition_reward(tokenizer: PreTrainedTokenizerBase, answer: str) -> Reward:
    """Return the demo task's verifier as a function of token ids."""
    special = set(tokenizer.all_special_ids)
    text = [
        "" if token in special else tokenizer.decode([token]) for token in range(len(tokenizer))
    ]
    return lambda token_ids: verify("".join([text[token] for token in token_ids]), answer)


@dataclass
class _Chunk:
    """Prefixes of equal length, not yet expanded.

    `nodes_B` numbers them in the tree; `mass_B` is the largest probability given any branch;
    `spine_row` says which prefix lies on the spine (-1: none); `cache` holds the keys and values
    of all but each prefix's last token.
    """

    nodes_B: npt.NDArray[np.int64]
    ids_BT: npt.NDArray[np.int32]
    mass_B: Floats
    spine_row: int
    cache: DynamicCache | None


@dataclass
class _Tree:
    model: PreTrainedModel
    prompt_ids: Sequence[int]
    prefix_ids: Sequence[int]
    forced: dict[int, list[int]]
    reward: Reward
    stop_ids: Sequence[int]
    max_tokens: int
    min_mass: float
    spine: Sequence[int] = ()
    chunk_size: int = 1024

    branch: dict[tuple[int, int], int] = field(default_factory=dict)
    num_nodes: int = 1
    num_prefixes: int = 0
    num_leaves: int = 0
    num_truncated: int = 0
    # One entry per expansion: ids of the parents, of the children, their probabilities, and
    # per parent the probability of what was dropped. In order, so that parents come first.
    _parents: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _children: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _probs: list[Floats] = field(default_factory=list)
    _dropped: list[tuple[npt.NDArray[np.int64], Floats]] = field(default_factory=list)
    _rewards: list[tuple[npt.NDArray[np.int64], Floats]] = field(default_factory=list)

    @torch.inference_mode()
    def grow(self, start_mass: float) -> None:
        """Expand everything that has enough mass."""
        start = np.asarray([self.prefix_ids], dtype=np.int32).reshape(1, -1)
        stack = [_Chunk(np.zeros(1, dtype=np.int64), start, np.array([start_mass]), 0, None)]
        while stack:
            stack.extend(self._expand(stack.pop()))

    def back_up(self) -> tuple[Floats, Floats]:
        """Return the value and the lost mass of every node, from the leaves to the root."""
        values = np.zeros(self.num_nodes)
        lost = np.zeros(self.num_nodes)
        for nodes, rewards in self._rewards:
            values[nodes] = rewards
        for nodes, dropped in self._dropped:
            lost[nodes] = dropped
        for parents, children, probs in zip(
            reversed(self._parents), reversed(self._children), reversed(self._probs), strict=True
        ):
            np.add.at(values, parents, probs * values[children])
            np.add.at(lost, parents, probs * lost[children])
        return values, lost

    def _expand(self, chunk: _Chunk) -> list[_Chunk]:
        depth = chunk.ids_BT.shape[1]
        probs_BV, cache = self._next_token(chunk)
        mass_BV = chunk.mass_B[:, None] * probs_BV
        keep_BV = mass_BV >= self.min_mass
        follow = -1
        if chunk.spine_row >= 0:
            for token in self.forced.get(depth, []):
                mass_BV[chunk.spine_row, token] = 1.0
                keep_BV[chunk.spine_row, token] = True
            if depth < len(self.spine):
                follow = int(self.spine[depth])
                keep_BV[chunk.spine_row, follow] = True
        rows_K, tokens_K = np.nonzero(keep_BV)
        nodes_K = np.arange(self.num_nodes, self.num_nodes + len(rows_K))
        self.num_nodes += len(rows_K)
        self._parents.append(chunk.nodes_B[rows_K])
        self._children.append(nodes_K)
        self._probs.append(probs_BV[rows_K, tokens_K])
        self._dropped.append((chunk.nodes_B, np.where(keep_BV, 0.0, probs_BV).sum(axis=1)))
        if chunk.spine_row >= 0:
            for node, row, token in zip(nodes_K, rows_K, tokens_K, strict=True):
                if row == chunk.spine_row:
                    self.branch[depth, int(token)] = int(node)
        ids_KT = np.concatenate([chunk.ids_BT[rows_K], tokens_K[:, None].astype(np.int32)], axis=1)
        stopped_K = np.isin(tokens_K, self.stop_ids)
        self._score(nodes_K[stopped_K], ids_KT[stopped_K])
        open_K = np.flatnonzero(~stopped_K)
        if depth + 1 >= self.max_tokens:
            self.num_truncated += len(open_K)
            return []
        return self._children_chunks(
            cache, rows_K[open_K], tokens_K[open_K], nodes_K[open_K], ids_KT[open_K],
            mass_BV[rows_K[open_K], tokens_K[open_K]], (chunk.spine_row, follow),
        )  # fmt: skip

    def _children_chunks(
        self,
        cache: DynamicCache,
        rows_K: npt.NDArray[np.int64],
        tokens_K: npt.NDArray[np.int64],
        nodes_K: npt.NDArray[np.int64],
        ids_KT: npt.NDArray[np.int32],
        mass_K: Floats,
        spine: tuple[int, int],
    ) -> list[_Chunk]:
        chunks: list[_Chunk] = []
        on_spine_K = (rows_K == spine[0]) & (tokens_K == spine[1])
        for begin in range(0, len(rows_K), self.chunk_size):
            part = slice(begin, begin + self.chunk_size)
            hit = np.flatnonzero(on_spine_K[part])
            chunks.append(
                _Chunk(
                    nodes_K[part],
                    ids_KT[part],
                    mass_K[part],
                    int(hit[0]) if len(hit) else -1,
                    _select(cache, rows_K[part]),
                )
            )
        return chunks

    def _next_token(self, chunk: _Chunk) -> tuple[Floats, DynamicCache]:
        self.num_prefixes += len(chunk.ids_BT)
        if chunk.cache is None:
            ids_BT = np.concatenate([[self.prompt_ids], chunk.ids_BT], axis=1)
            cache = DynamicCache()
        else:
            ids_BT, cache = chunk.ids_BT[:, -1:], chunk.cache
        output = self.model(
            input_ids=torch.as_tensor(ids_BT, dtype=torch.long),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].double().softmax(dim=-1).numpy(), output.past_key_values

    def _score(self, nodes_K: npt.NDArray[np.int64], ids_KT: npt.NDArray[np.int32]) -> None:
        rewards = np.array([self.reward(ids) for ids in ids_KT.tolist()], dtype=np.float64)
        self._rewards.append((nodes_K, rewards))
        self.num_leaves += len(nodes_K)


def _select(cache: DynamicCache, rows: npt.NDArray[np.int64]) -> DynamicCache:
    """Return a new cache with these rows of the old one, in this order."""
    index = torch.as_tensor(rows)
    chosen = DynamicCache()
    for number, layer in enumerate(cache.layers):
        chosen.update(layer.keys[index], layer.values[index], number)
    return chosen
