"""A small random language whose success probabilities are sums that can be written out.

Every prefix has its own next-token distribution, and every whole response its own reward, so
that nothing about it is smooth or flat by construction. Used as the truth by the tests of the
targeted rollouts; it shares no code with what it tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gradalign.branching import BranchRequest, NodePlan, QuestionBranching

STOP = 0
Prefix = tuple[int, ...]


@dataclass(eq=False)
class Language:
    """Responses over `vocab` tokens, token 0 ends one, at most `depth` tokens.

    Attributes:
        seed: of everything that is drawn to define the language.
        vocab: number of tokens.
        depth: longest response.
        peak: Dirichlet concentration of the next-token distributions; small is peaked.
        drift: how much the success probability moves with each token, in logits.
    """

    seed: int
    vocab: int = 4
    depth: int = 7
    peak: float = 0.6
    drift: float = 1.0
    prob: dict[Prefix, npt.NDArray[np.float64]] = field(default_factory=dict)
    teacher: dict[Prefix, npt.NDArray[np.float64]] = field(default_factory=dict)
    value: dict[Prefix, float] = field(default_factory=dict)
    leaves: dict[Prefix, tuple[list[Prefix], npt.NDArray[np.float64]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self._grow((), rng.normal(0.0, 1.0), rng)

    def _grow(self, prefix: Prefix, logit: float, rng: np.random.Generator) -> float:
        if len(prefix) == self.depth or prefix[-1:] == (STOP,):
            # A response that was cut off fails.
            success = prefix[-1] == STOP and rng.random() < 1 / (1 + np.exp(-logit))
            self.value[prefix] = float(success)
            self.leaves[prefix] = ([prefix], np.ones(1))
            return self.value[prefix]
        weights = rng.dirichlet(np.full(self.vocab, self.peak)) + 0.01
        weights[STOP] *= 0.1 + 2.0 * len(prefix) / self.depth
        p = weights / weights.sum()
        tilt = rng.normal(0.0, 0.7, size=self.vocab)
        self.prob[prefix] = p
        below = [
            self._grow((*prefix, token), logit + rng.normal(0.0, self.drift), rng)
            for token in range(self.vocab)
        ]
        self.value[prefix] = float(p @ below)
        teacher = p * np.exp(tilt + 1.5 * (np.asarray(below) - self.value[prefix]))
        self.teacher[prefix] = teacher / teacher.sum()
        parts = [self.leaves[(*prefix, token)] for token in range(self.vocab)]
        self.leaves[prefix] = (
            [leaf for leaves, _ in parts for leaf in leaves],
            np.concatenate([p[token] * probs for token, (_, probs) in enumerate(parts)]),
        )
        return self.value[prefix]

    def sample(self, prefix: Prefix, count: int, rng: np.random.Generator) -> list[Prefix]:
        """Draw whole responses that start with `prefix`."""
        leaves, probs = self.leaves[prefix]
        return [leaves[i] for i in rng.choice(len(leaves), size=count, p=probs / probs.sum())]

    def candidates(self, prefix: Prefix, limit: int) -> npt.NDArray[np.int64]:
        """The most probable tokens, in order of id."""
        return np.sort(np.argsort(-self.prob[prefix])[:limit]).astype(np.int64)

    def plan(self, spine: int, prefix: Prefix, limit: int, inclusion_prob: float = 1.0) -> NodePlan:
        """The node after a prefix of a spine."""
        tokens = self.candidates(prefix, limit)
        return NodePlan(spine, len(prefix), inclusion_prob, tokens, self.prob[prefix][tokens])

    def exact_values(
        self, prefix: Prefix, tokens: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """V of each token."""
        return np.array([self.value[(*prefix, token)] for token in tokens.tolist()])


Answer = Callable[[BranchRequest, Prefix], float]


def drive(
    branching: QuestionBranching, language: Language, rng: np.random.Generator
) -> QuestionBranching:
    """Make every continuation that is asked for, until it is done."""
    while not branching.done:
        groups: dict[Prefix, list[BranchRequest]] = {}
        for request in branching.next_requests():
            groups.setdefault(tuple(branching.prefix(request).tolist()), []).append(request)
        for prefix, requests in groups.items():
            for request, response in zip(
                requests, language.sample(prefix, len(requests), rng), strict=True
            ):
                branching.observe(request, response[len(prefix) :], language.value[response])
    return branching
