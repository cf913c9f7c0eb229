"""The bundled student as a table: every response it can give to a question, with its probability.

Running a transformer for every seed of a simulation would take days. The student is tiny, so that
all its likely responses can be written down once; sampling from that table is sampling from the
student, and every success probability is a sum over the table. Prefixes less probable than
`min_mass` (given the nearest branch above them) are left out and the rest is renormalised at
each prefix: the table is a language of its own, and for it all values are exact.

Axes: _B prefixes of one length, _V vocabulary, _L leaves (whole responses).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from gradalign.demo import model_path
from gradalign.demo.addition import MAX_RESPONSE_TOKENS, Problem, context_prompt, generate, verify

Floats = npt.NDArray[np.float64]
CANDIDATE_PROB = 0.002
"""A token less probable than this is no candidate at any node of the benchmark."""


@dataclass(eq=False)
class Prefix:
    """A prefix of responses: its children's tokens, their probabilities, and its value."""

    tokens: list[int] = field(default_factory=list)
    prob: Floats = field(default_factory=lambda: np.zeros(0))
    children: list[Prefix] = field(default_factory=list)
    value: float = 0.0
    depth: int = 0
    mass: float = 0.0
    first: int = 0
    last: int = 0
    edges: Floats | None = None

    def child(self, token: int) -> Prefix:
        """Return the prefix one token longer."""
        return self.children[self.tokens.index(token)]


@dataclass(frozen=True, eq=False)
class Leaves:
    """Every whole response of a table, so ordered that those of any prefix are adjacent.

    Attributes:
        responses: token ids of each.
        log_prob_L: log-probability of each from the root.
        reward_L: its reward.
    """

    responses: list[npt.NDArray[np.int32]]
    log_prob_L: Floats
    reward_L: Floats

    def sample(
        self, prefix: Prefix, count: int, rng: np.random.Generator
    ) -> list[tuple[npt.NDArray[np.int32], float]]:
        """Draw (tokens after the prefix, reward) of responses that start with `prefix`."""
        if prefix.edges is None:
            log_prob = self.log_prob_L[prefix.first : prefix.last]
            prefix.edges = np.cumsum(np.exp(log_prob - log_prob.max()))
        edges = prefix.edges
        drawn = np.searchsorted(edges, rng.random(count) * edges[-1], side="right")
        return [
            (self.responses[i][prefix.depth :], float(self.reward_L[i]))
            for i in (np.minimum(drawn, len(edges) - 1) + prefix.first).tolist()
        ]


def leaves_of(root: Prefix) -> Leaves:
    """List the leaves of a table, and note in every prefix which of them are its own."""
    responses: list[npt.NDArray[np.int32]] = []
    log_probs: list[float] = []
    rewards: list[float] = []

    def visit(prefix: Prefix, tokens: list[int], log_prob: float) -> None:
        prefix.first = len(responses)
        if not prefix.children:
            responses.append(np.asarray(tokens, dtype=np.int32))
            log_probs.append(log_prob)
            rewards.append(prefix.value)
        for token, prob, child in zip(
            prefix.tokens, np.log(prefix.prob).tolist(), prefix.children, strict=True
        ):
            visit(child, [*tokens, token], log_prob + prob)
        prefix.last = len(responses)

    visit(root, [], 0.0)
    return Leaves(responses, np.asarray(log_probs), np.asarray(rewards))


class Network:
    """A bundled model that gives next-token probabilities."""

    def __init__(self, name: str) -> None:
        torch.set_num_threads(1)
        folder = model_path(name)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of a raw prompt, with the tokenizer's own special tokens."""
        return list(self.tokenizer(prompt)["input_ids"])

    @torch.inference_mode()
    def along(self, prompt_ids: list[int], response: npt.NDArray[np.int32]) -> Floats:
        """Next-token probabilities before each token of a response, [T, V]."""
        ids = torch.tensor([[*prompt_ids, *response.tolist()]])
        logits_TV = self.model(input_ids=ids).logits[0, len(prompt_ids) - 1 : -1]
        return logits_TV.double().softmax(dim=-1).numpy()

    @torch.inference_mode()
    def step(self, ids_BT: torch.Tensor, cache: DynamicCache | None) -> tuple[Floats, DynamicCache]:
        """Next-token probabilities after each prefix, [B, V], and the cache after it."""
        output = self.model(
            input_ids=ids_BT, past_key_values=cache or DynamicCache(), use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        probs_BV = output.logits[:, -1].double().softmax(dim=-1).numpy()
        return probs_BV, output.past_key_values


def sample_spine(
    network: Network, prompt_ids: list[int], rng: np.random.Generator
) -> npt.NDArray[np.int32]:
    """Draw one response at temperature 1, stop token included."""
    tokens: list[int] = []
    ids, cache = torch.tensor([prompt_ids]), None
    while len(tokens) < MAX_RESPONSE_TOKENS:
        probs_BV, cache = network.step(ids, cache)
        tokens.append(int(rng.choice(probs_BV.shape[1], p=probs_BV[0] / probs_BV[0].sum())))
        if tokens[-1] == network.tokenizer.eos_token_id:
            break
        ids = torch.tensor([[tokens[-1]]])
    return np.asarray(tokens, dtype=np.int32)


def grow(
    network: Network,
    problem: Problem,
    spines: list[npt.NDArray[np.int32]],
    *,
    min_mass: float,
    chunk: int = 512,
) -> tuple[Prefix, int]:
    """Expand every likely response to a problem, and every branch off its spines.

    Returns:
        The root, with values backed up, and the number of prefixes that were expanded.
    """
    stop = network.tokenizer.eos_token_id
    special = set(network.tokenizer.all_special_ids)
    root = Prefix(mass=1.0)
    on_spine = _spine_prefixes(spines)
    order: list[Prefix] = []
    work: list[tuple[list[Prefix], npt.NDArray[np.int32], DynamicCache | None]] = [
        ([root], np.zeros((1, 0), dtype=np.int32), None)
    ]
    while work:
        prefixes, ids_BT, cache = work.pop()
        if cache is None:
            step_ids = torch.tensor([network.prompt_ids(problem.prompt)])
        else:
            step_ids = torch.as_tensor(ids_BT[:, -1:], dtype=torch.long)
        probs_BV, cache = network.step(step_ids, cache)
        rows, tokens, kept = [], [], []
        depth = ids_BT.shape[1]
        for row, prefix in enumerate(prefixes):
            order.append(prefix)
            here = ids_BT[row].tobytes()
            keep_V = prefix.mass * probs_BV[row] >= min_mass
            if here in on_spine:
                keep_V |= probs_BV[row] >= CANDIDATE_PROB
                keep_V[list(on_spine[here])] = True
            keep_V[probs_BV[row].argmax()] = True
            prefix.tokens = np.flatnonzero(keep_V).tolist()
            prefix.prob = probs_BV[row][keep_V] / probs_BV[row][keep_V].sum()
            for token, prob in zip(prefix.tokens, prefix.prob.tolist(), strict=True):
                mass = 1.0 if here in on_spine else prefix.mass * prob
                child = Prefix(depth=depth + 1, mass=mass)
                prefix.children.append(child)
                if token == stop:
                    text = network.tokenizer.decode([t for t in ids_BT[row] if t not in special])
                    child.value = verify(text, problem.answer)
                elif depth + 1 < MAX_RESPONSE_TOKENS:
                    rows.append(row)
                    tokens.append(token)
                    kept.append(child)
        for begin in range(0, len(rows), chunk):
            part = slice(begin, begin + chunk)
            longer = np.concatenate(
                (ids_BT[rows[part]], np.asarray(tokens[part], dtype=np.int32)[:, None]), axis=1
            )
            work.append((kept[part], longer, _select(cache, rows[part])))
    for prefix in reversed(order):
        prefix.value = float(prefix.prob @ [child.value for child in prefix.children])
    return root, len(order)


def _spine_prefixes(spines: list[npt.NDArray[np.int32]]) -> dict[bytes, set[int]]:
    found: dict[bytes, set[int]] = {}
    for spine in spines:
        for position, token in enumerate(spine.tolist()):
            found.setdefault(spine[:position].tobytes(), set()).add(token)
    return found


def _select(cache: DynamicCache, rows: list[int]) -> DynamicCache:
    index, chosen = torch.as_tensor(rows), DynamicCache()
    for number, layer in enumerate(cache.layers):
        chosen.update(layer.keys[index], layer.values[index], number)
    return chosen


def problems(count: int, seed: int) -> list[Problem]:
    """Draw held-out problems."""
    return generate(count, seed=seed)


__all__ = [
    "Leaves",
    "Network",
    "Prefix",
    "context_prompt",
    "grow",
    "leaves_of",
    "problems",
    "sample_spine",
]
