"""Losses that look at the sampled token only: A_y (e_y - P), and its mean and variance over y."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradalign.methods.base import Ascent, Method, Reasons, no_reasons
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Distributions, Floats, Ints
from gradalign.methods.identities import centred, pulled

NO_TOKEN = "undefined_method:the sampled token is unknown or outside the support"


@dataclass(frozen=True, eq=False)
class Draws:
    """The detached weight A_y that a loss gives to each token it may draw.

    Attributes:
        nodes: the distributions at the loss's temperature.
        mean_NS, mean_tail_N: A_y, averaged over whatever else is random, of each token and of
            each token in the tail, [N, S] and [N].
        second: computes the mean of A_y squared, [N, S] and [N], when the variance is asked
            for; None where nothing but y is random.
        drawn_N: the weight of the draw that was made, None for `mean_NS` at its slot, [N].
        draw_NS, draw_tail_N: probability with which the trainer draws y; None for P.
        extra_NS: a term of the loss that does not depend on the draw, [N, S].
        reason_N: full reasons of the nodes where the weights are not defined.
    """

    nodes: Distributions
    mean_NS: Floats
    mean_tail_N: Floats
    second: Callable[[], tuple[Floats, Floats]] | None = None
    drawn_N: Floats | None = None
    draw_NS: Floats | None = None
    draw_tail_N: Floats | None = None
    extra_NS: Floats | None = None
    reason_N: Reasons | None = None

    def mean(self) -> Floats:
        """Return the average over the draw of A_y (e_y - P), without `extra_NS`, [N, S]."""
        nodes = self.nodes
        if self.draw_NS is None or self.draw_tail_N is None:
            return centred(
                nodes.p_NS, self.mean_NS, nodes.anchor_N, nodes.tail_p_N, self.mean_tail_N
            )
        with np.errstate(invalid="ignore"):
            weight_NS = self.draw_NS * self.mean_NS
            weight_NS[self.draw_NS == 0.0] = 0.0
            tail_N = np.where(self.draw_tail_N > 0.0, self.draw_tail_N * self.mean_tail_N, 0.0)
        return pulled(weight_NS, nodes.p_NS, nodes.anchor_N, nodes.tail_p_N, tail_N)

    def single(self, slot_N: Ints) -> tuple[Floats, Reasons]:
        """Return A_y (e_y - P) for the drawn slots, without `extra_NS`, and reasons."""
        nodes = self.nodes
        reason_N = no_reasons(slot_N.size)
        reason_N[slot_N < 0] = NO_TOKEN
        slot_N = np.maximum(slot_N, 0)
        weight_N = self.mean_NS[nodes.rows, slot_N] if self.drawn_N is None else self.drawn_N
        with np.errstate(invalid="ignore"):
            result_NS = nodes.p_NS * -weight_N[:, None]
            result_NS[nodes.rows, slot_N] = weight_N * -np.expm1(nodes.log_p_NS[nodes.rows, slot_N])
        return result_NS, reason_N

    def squared_deviation(self) -> Floats:
        """Return E|A_y (e_y - P)|^2 - |mean|^2, the tail's tokens counting as equally likely."""
        nodes = self.nodes
        count_N = np.maximum(nodes.num_tail_N, 1)
        draw_NS = nodes.p_NS if self.draw_NS is None else self.draw_NS
        draw_tail_N = nodes.tail_p_N if self.draw_tail_N is None else self.draw_tail_N
        with np.errstate(invalid="ignore", over="ignore"):
            if self.second is None:
                square_NS, square_tail_N = self.mean_NS**2, self.mean_tail_N**2
            else:
                square_NS, square_tail_N = self.second()
            # |e_y - P|^2 = (1 - P_y)^2 + sum of the others' P^2
            length_NS = 1.0 - 2.0 * nodes.p_NS + nodes.sum_p2_N[:, None]
            length_NS[nodes.rows, nodes.anchor_N] = nodes.rest_p_N**2 + nodes.rest_p2_N
            second_NS = draw_NS * square_NS * length_NS
            second_NS[draw_NS == 0.0] = 0.0
            length_tail_N = 1.0 - 2.0 * nodes.tail_p_N / count_N + nodes.sum_p2_N
            tail_N = np.where(draw_tail_N > 0.0, draw_tail_N * square_tail_N * length_tail_N, 0.0)
            mean_NS = self.mean()
            mean2_N = np.vecdot(mean_NS, mean_NS) + mean_NS.sum(axis=1) ** 2 / count_N
            return np.asarray(np.maximum(second_NS.sum(axis=1) + tail_N - mean2_N, 0.0))


@dataclass(frozen=True)
class SampledToken(Method):
    """A method that is fully described by the weight it gives to the token it draws."""

    @abstractmethod
    def draws(self, batch: NodeBatch) -> Draws:
        """Return the weights A_y at every node."""

    def drawn(self, batch: NodeBatch) -> Draws:
        """Return the weight of the token that was drawn, for losses that also look elsewhere."""
        return self.draws(batch)

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the closed-form average over the drawn token."""
        draws = self.draws(batch)
        return _ascent(draws, draws.mean(), draws.reason_N)

    def sampled(self, batch: NodeBatch) -> Ascent:
        """Return A_y (e_y - P) for the token that was drawn."""
        draws = self.drawn(batch)
        result_NS, reason_N = draws.single(batch.sampled_N)
        if draws.reason_N is not None:
            known_N = draws.reason_N != ""
            reason_N[known_N] = draws.reason_N[known_N]
        return _ascent(draws, result_NS, reason_N)

    def squared_deviation(self, batch: NodeBatch) -> Floats:
        """Return the variance of A_y (e_y - P), summed over the vocabulary, [N]."""
        draws = self.draws(batch)
        return draws.squared_deviation() / draws.nodes.temperature**2


def _ascent(draws: Draws, ascent_NS: Floats, reason_N: Reasons | None) -> Ascent:
    if draws.extra_NS is not None:
        ascent_NS += draws.extra_NS
    return scaled(draws.nodes, ascent_NS, draws.nodes.unit_N, reason_N)


def scaled(
    nodes: Distributions, ascent_NS: Floats, unit_N: Floats, reason_N: Reasons | None = None
) -> Ascent:
    """Divide by the temperature: from the gradient in z / T to that in z."""
    if nodes.temperature != 1.0:
        ascent_NS = ascent_NS / nodes.temperature
        unit_N = unit_N / nodes.temperature
    return Ascent(ascent_NS, unit_N, reason_N)
