"""Directions without a teacher. A teacher that does not beat them is not worth training on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gradalign.methods.base import option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.registry import register
from gradalign.methods.sampled import Draws, SampledToken

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class _Control(SampledToken):
    @property
    def expected_needs(self) -> frozenset[str]:
        """Nothing: no teacher, no continuations."""
        return frozenset()


@register("uniform_negative")
@dataclass(frozen=True)
class UniformNegative(_Control):
    """One fixed negative advantage on the sampled token, whatever it is.

    Its single-sample direction pushes the sampled token down; on average over the token there is
    no direction at all. It is the control of "Does on-policy distillation really distill?" (arXiv
    2608.31046), which finds that training on it can match a teacher.
    """

    formula: ClassVar[str] = "single-sample: a (e_y - P) with a < 0; on average 0"
    source: ClassVar[str] = 'control of "Does on-policy distillation really distill?", 2608.31046'
    zero_reason: ClassVar[str] = "a constant advantage averages to nothing"

    advantage: float = option(-1.0, "the advantage of every token", high=-1e-12)

    def draws(self, batch: NodeBatch) -> Draws:
        """Return the constant advantage."""
        nodes = batch.at(1.0)
        return Draws(
            nodes,
            np.full(nodes.log_p_NS.shape, self.advantage),
            np.full(batch.num_nodes, self.advantage),
        )


@register("random")
@dataclass(frozen=True)
class Random(_Control):
    """A random advantage per token; its alignment must be 0 within its interval.

    The advantages are uniform with mean 0 and variance 1, a hash of the seed, the node's
    distribution and the token's id: they do not depend on the other nodes of the batch.
    """

    formula: ClassVar[str] = "P_j (f_j - fbar), f_j uniform; single-sample f_y (e_y - P)"
    source: ClassVar[str] = "control"
    zero_reason: ClassVar[str] = "one token only"

    seed: int = option(0, "of the hash", low=0)

    def draws(self, batch: NodeBatch) -> Draws:
        """Return the random advantages; the tail's is 0, their mean."""
        nodes = batch.at(1.0)
        seed = _mix(np.full(1, self.seed, dtype=np.uint64))
        bits_NS = np.ascontiguousarray(nodes.log_p_NS).view(np.uint64)
        ids_NS = batch.ids_NS.astype(np.uint64)
        # A sum, so that the order of the slots does not matter either.
        word_NS = bits_NS * (ids_NS + ids_NS + np.uint64(1))
        word_NS *= batch.mask_NS  # padding depends on the rest of the batch
        node_N = word_NS.sum(axis=1, dtype=np.uint64)
        ids_NS *= np.uint64(0x9E3779B97F4A7C15)
        ids_NS += _mix(_mix(node_N) ^ seed)[:, None]
        word_NS = _mix(ids_NS)
        word_NS >>= np.uint64(11)
        uniform_NS = word_NS.astype(np.float64)
        uniform_NS *= 2.0**-52 * np.sqrt(3.0)
        uniform_NS -= np.sqrt(3.0)
        return Draws(nodes, uniform_NS, np.zeros(batch.num_nodes))


def _mix(word: Words) -> Words:
    """Scramble 64-bit words (the finaliser of SplitMix64)."""
    word = word + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word ^= word >> np.uint64(shift)
        word *= np.uint64(factor)
    word ^= word >> np.uint64(31)
    return word
