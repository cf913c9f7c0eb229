"""What a method sees: the two next-token distributions at many nodes, and what followed them.

Axes: _N nodes, _S support (the tokens kept at a node), _K continuations, _T tokens (flat).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from gradalign.methods.distributions import Bools, Distributions, Floats, Ints, log_normalise


@dataclass(frozen=True, eq=False)
class Continuations:
    """Targeted rollouts that passed the batch's nodes, in flat arrays.

    Attributes:
        node_K: which node of the batch, [K].
        slot_K: which support slot of that node the continuation took first, [K].
        reward_K: the verifier's score in [0, 1], [K].
        half_K: 0 or 1, the half that cross-fitting puts it in, [K].
        start_K, stop_K: where the tokens AFTER the forced one lie in `log_ratio_T`, [K].
        log_ratio_T: r = log(Q/P) of those tokens under this batch's teacher and the student;
            empty if the teacher has not scored the continuations.
    """

    node_K: Ints
    slot_K: Ints
    reward_K: Floats
    half_K: Ints
    start_K: Ints
    stop_K: Ints
    log_ratio_T: Floats

    def half(self, index: int) -> Continuations:
        """Keep the continuations of one half (0 or 1)."""
        keep = self.half_K == index
        return replace(
            self,
            **{
                name: getattr(self, name)[keep]
                for name in ("node_K", "slot_K", "reward_K", "half_K", "start_K", "stop_K")
            },
        )


@dataclass(frozen=True, eq=False)
class SpineView:
    """The spine that each node lies on.

    Attributes:
        begin_N, at_N, end_N: the spine's tokens are `log_ratio_T[begin:end]`, and the node's
            own sampled token is at `at`, [N].
        reward_N: the spine's reward, NaN where its verification failed, [N].
        group_mean_N: mean reward of all spines of the same question, [N].
        log_ratio_T: r = log(Q/P) of every spine token.
    """

    begin_N: Ints
    at_N: Ints
    end_N: Ints
    reward_N: Floats
    group_mean_N: Floats
    log_ratio_T: Floats


@dataclass(frozen=True, eq=False)
class NodeBatch:
    """Student (P) and teacher (Q) distributions at N nodes, sparse with one tail bucket.

    Attributes:
        log_p_NS, log_q_NS: natural-log probabilities over the whole vocabulary of the tokens in
            the support, float64 [N, S]; -inf where the probability is 0 or the slot is padding.
        mask_NS: True where the slot holds a token, [N, S].
        log_tail_p_N, log_tail_q_N: log of the mass outside the support, [N]; -inf if none.
        num_tail_N: number of vocabulary tokens outside the support, [N].
        ids_NS: token ids, -1 at padding, [N, S].
        sampled_N: the slot of the token that the spine took, -1 where unknown, [N].
        top_limit: the support is certain to hold this many of the student's and of the
            teacher's most probable tokens; top-k methods with a larger k must refuse.
        tail_powers: for a temperature T, log of sum over the tail of p^(1/T) and of q^(1/T),
            each [N]; exact tempering where given, even spreading of the tail where not.
        continuations: targeted rollouts through these nodes, if any were made.
        spines: the spines the nodes lie on, if known.
    """

    log_p_NS: Floats
    log_q_NS: Floats
    mask_NS: Bools
    log_tail_p_N: Floats
    log_tail_q_N: Floats
    num_tail_N: Ints
    ids_NS: Ints
    sampled_N: Ints
    top_limit: int
    tail_powers: Mapping[float, tuple[Floats, Floats]] = field(default_factory=dict)
    continuations: Continuations | None = None
    spines: SpineView | None = None
    _views: dict[float, Distributions] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the shapes, so that a mix-up of arrays is not broadcast into nonsense."""
        if self.log_p_NS.ndim != 2:
            raise ValueError(f"log_p_NS must be [nodes, support], got {self.log_p_NS.shape}")
        for name in ("log_q_NS", "mask_NS", "ids_NS"):
            shape = getattr(self, name).shape
            if shape != self.log_p_NS.shape:
                raise ValueError(f"{name} must be {self.log_p_NS.shape} like log_p_NS, got {shape}")
        for name in ("log_tail_p_N", "log_tail_q_N", "num_tail_N", "sampled_N"):
            shape = getattr(self, name).shape
            if shape != (self.num_nodes,):
                raise ValueError(f"{name} must be ({self.num_nodes},), got {shape}")

    @property
    def num_nodes(self) -> int:
        """How many nodes the batch holds."""
        return int(self.log_p_NS.shape[0])

    @classmethod
    def from_logits(
        cls,
        student_logits: npt.ArrayLike,
        teacher_logits: npt.ArrayLike,
        sampled: npt.ArrayLike | None = None,
        *,
        continuations: Continuations | None = None,
        spines: SpineView | None = None,
    ) -> NodeBatch:
        """Build a dense batch, without a tail, from two [nodes, vocab] arrays of logits.

        Raises:
            ValueError: the shapes differ or are not two-dimensional.
        """
        student_NV = np.asarray(student_logits, dtype=np.float64)
        teacher_NV = np.asarray(teacher_logits, dtype=np.float64)
        if student_NV.ndim != 2 or student_NV.shape != teacher_NV.shape:
            raise ValueError(
                "student_logits and teacher_logits must both be [nodes, vocab], got "
                f"{student_NV.shape} and {teacher_NV.shape}"
            )
        for name, logits_NV in (("student", student_NV), ("teacher", teacher_NV)):
            if np.isnan(logits_NV).any() or not np.isfinite(logits_NV.max(axis=1)).all():
                raise ValueError(f"{name}_logits need a finite maximum at each node and no NaN")
        num_nodes, vocab = student_NV.shape
        if sampled is None:
            sampled_N = np.full(num_nodes, -1, dtype=np.int64)
        else:
            sampled_N = np.asarray(sampled, dtype=np.int64)
            if sampled_N.shape != (num_nodes,):
                raise ValueError(f"sampled must be [{num_nodes}], got {sampled_N.shape}")
        no_tail_N = np.full(num_nodes, -np.inf)
        return cls(
            log_p_NS=log_normalise(student_NV)[0],
            log_q_NS=log_normalise(teacher_NV)[0],
            mask_NS=np.ones((num_nodes, vocab), dtype=np.bool_),
            log_tail_p_N=no_tail_N,
            log_tail_q_N=no_tail_N,
            num_tail_N=np.zeros(num_nodes, dtype=np.int64),
            ids_NS=np.broadcast_to(np.arange(vocab, dtype=np.int64), (num_nodes, vocab)),
            sampled_N=sampled_N,
            top_limit=vocab,
            continuations=continuations,
            spines=spines,
        )

    def at(self, temperature: float) -> Distributions:
        """Return both distributions at a temperature; kept, so that many methods share them.

        Tempered tails are exact where `tail_powers` has them. Otherwise the tail's mass is
        taken to lie evenly on its `num_tail_N` tokens.

        Args:
            temperature: softmax temperature of both models, > 0.
        """
        if temperature not in self._views:
            if not temperature > 0.0:
                raise ValueError(f"temperature must be positive, got {temperature}")
            if 1.0 not in self._views:
                self._views[1.0] = Distributions(
                    log_p_NS=self.log_p_NS,
                    log_q_NS=self.log_q_NS,
                    mask_NS=self.mask_NS,
                    log_tail_p_N=self.log_tail_p_N,
                    log_tail_q_N=self.log_tail_q_N,
                    num_tail_N=self.num_tail_N,
                    top_limit=self.top_limit,
                )
            if temperature != 1.0:
                self._views[temperature] = self._views[1.0].tempered(
                    temperature, self.tail_powers.get(temperature)
                )
        return self._views[temperature]

    @property
    def p_NS(self) -> Floats:
        """Student probabilities at temperature 1, 0 at padding."""
        return self.at(1.0).p_NS

    @property
    def q_NS(self) -> Floats:
        """Teacher probabilities at temperature 1, 0 at padding."""
        return self.at(1.0).q_NS

    def take(self, rows: Ints) -> NodeBatch:
        """Return some of the nodes, in the order given.

        Args:
            rows: which, each at most once, [M].
        """
        place_N = np.full(self.num_nodes, -1, dtype=np.int64)
        place_N[rows] = np.arange(len(rows))
        rolled, spines = self.continuations, self.spines
        if rolled is not None:
            keep_K = place_N[rolled.node_K] >= 0
            rolled = replace(
                rolled,
                node_K=place_N[rolled.node_K[keep_K]],
                slot_K=rolled.slot_K[keep_K],
                reward_K=rolled.reward_K[keep_K],
                half_K=rolled.half_K[keep_K],
                start_K=rolled.start_K[keep_K],
                stop_K=rolled.stop_K[keep_K],
            )
        if spines is not None:
            spines = replace(
                spines,
                begin_N=spines.begin_N[rows],
                at_N=spines.at_N[rows],
                end_N=spines.end_N[rows],
                reward_N=spines.reward_N[rows],
                group_mean_N=spines.group_mean_N[rows],
            )
        return replace(
            self,
            log_p_NS=self.log_p_NS[rows],
            log_q_NS=self.log_q_NS[rows],
            mask_NS=self.mask_NS[rows],
            log_tail_p_N=self.log_tail_p_N[rows],
            log_tail_q_N=self.log_tail_q_N[rows],
            num_tail_N=self.num_tail_N[rows],
            ids_NS=self.ids_NS[rows],
            sampled_N=self.sampled_N[rows],
            tail_powers={t: (p[rows], q[rows]) for t, (p, q) in self.tail_powers.items()},
            continuations=rolled,
            spines=spines,
        )

    def half(self, index: int) -> NodeBatch:
        """Keep one half of the continuations, for cross-fitting."""
        if self.continuations is None:
            return self
        part = replace(self, continuations=self.continuations.half(index))
        # The distributions are the same: what was computed for one half serves both.
        object.__setattr__(part, "_views", self._views)
        return part
