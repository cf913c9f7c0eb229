"""The six identities that every direction in the catalogue is made of.

All give the ascent direction -dLoss/dz on the student's logits z, [N, S]; the directions sum to
zero over the vocabulary, so that what is missing from the sum over the support is the tail's.
P and Q are student and teacher, r = log(Q/P), S a set of tokens.

Sums over P are taken relative to the most probable token (its f is subtracted first), and that
token's own component is minus the sum of the others: a node where the student is nearly
certain keeps its relative precision instead of drowning in rounding errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradalign.methods.distributions import Bools, Distributions, Floats, Ints, log_normalise


def centred(
    p_NS: Floats, f_NS: Floats, anchor_N: Ints, tail_p_N: Floats, tail_f_N: Floats
) -> Floats:
    """L1: P_j (f_j - fbar) with fbar = sum of P f, the gradient of any function of P.

    f is minus the derivative of the loss by P_j, with what is detached held fixed.

    Args:
        p_NS: probabilities, which sum to 1 with the tail, [N, S].
        f_NS: f of the tokens, [N, S].
        anchor_N: slot of the most probable token, [N].
        tail_p_N: mass of the tail, [N].
        tail_f_N: f of the tail's tokens, [N].
    """
    rows = np.arange(p_NS.shape[0])
    with np.errstate(invalid="ignore", over="ignore"):
        level_N = f_NS[rows, anchor_N]
        gap_NS = f_NS - level_N[:, None]
        gap_NS[p_NS == 0.0] = 0.0
        mean_N = np.vecdot(p_NS, gap_NS)
        mean_N += np.where(tail_p_N > 0.0, tail_p_N * (tail_f_N - level_N), 0.0)
        gap_NS -= mean_N[:, None]
        gap_NS *= p_NS
    return np.asarray(gap_NS)


def pulled(
    a_NS: Floats, p_NS: Floats, anchor_N: Ints, tail_p_N: Floats, tail_a_N: Floats
) -> Floats:
    """L2: a_j - P_j sum(a), the sum of a_y (e_y - P) over tokens y with detached weights a.

    With a_y = P_y f_y it is L1; one weight alone is the single-sample direction.

    Args:
        a_NS: weight of each token, [N, S].
        p_NS: as for `centred`, [N, S].
        anchor_N: as for `centred`, [N].
        tail_p_N: as for `centred`, [N].
        tail_a_N: total weight of the tail, [N].
    """
    rows = np.arange(p_NS.shape[0])
    with np.errstate(invalid="ignore", over="ignore"):
        total_N = a_NS.sum(axis=1) + tail_a_N
        result_NS = p_NS * -total_N[:, None]
        result_NS += a_NS
        result_NS[rows, anchor_N] = 0.0
        tail_N = tail_a_N - tail_p_N * total_N
        result_NS[rows, anchor_N] = -(result_NS.sum(axis=1) + tail_N)
    return np.asarray(result_NS)


def divergence(nodes: Distributions, beta: float) -> Floats:
    """L5: descent of beta KL(Q||M) + (1 - beta) KL(P||M), M = beta Q + (1 - beta) P.

    The convention of TRL's GKD: beta = 0 is the forward KL(Q||P) and beta = 1 the reverse
    KL(P||Q) (Agarwal et al., arXiv 2306.13649, whose equation has the roles the other way).
    """
    if beta == 0.0:
        return _difference(nodes.q_NS, nodes.p_NS, nodes.anchor_N, nodes.tail_q_N - nodes.tail_p_N)
    return centred(
        nodes.p_NS,
        gain(nodes.r_NS, beta),
        nodes.anchor_N,
        nodes.tail_p_N,
        gain(nodes.tail_r_N, beta),
    )


def gain(r: Floats, beta: float) -> Floats:
    """The f of the divergence of L5, as a function of the log ratio r; beta in (0, 1]."""
    if beta == 1.0:
        return r
    # log(M/P). Beyond r = 700 the student's probability is below 1e-304 and f is irrelevant.
    return np.asarray((1.0 - beta) * np.log1p(beta * np.expm1(np.minimum(r, 700.0))))


@dataclass(frozen=True, eq=False)
class OnSet:
    """Both models renormalised on a set S, closed up to as many slots as S has tokens.

    Attributes:
        nodes: the distributions, [N, K]; NaN where either model has no mass on S.
        inside_NS: the set.
    """

    nodes: Distributions
    inside_NS: Bools

    def spread(self, value_NK: Floats) -> Floats:
        """Put values back into the support's slots, 0 outside the set, [N, S]."""
        value_NS = np.zeros(self.inside_NS.shape)
        value_NS[self.inside_NS] = value_NK[self.nodes.mask_NS]
        return value_NS


def within(nodes: Distributions, inside_NS: Bools) -> OnSet:
    """Renormalise on a set, in logs, so that a mass of 1e-300 is as good as any."""
    size_N = inside_NS.view(np.uint8).sum(axis=1, dtype=np.int64)
    taken_NK = np.arange(max(int(size_N.max(initial=0)), 1)) < size_N[:, None]
    sides = []
    for log_NS in (nodes.log_p_NS, nodes.log_q_NS):
        kept_NK = np.full(taken_NK.shape, -np.inf)
        kept_NK[taken_NK] = log_NS[inside_NS]
        with np.errstate(invalid="ignore"):
            kept_NK -= kept_NK.max(axis=1)[:, None]
            sides.append(log_normalise(kept_NK)[0])
    none_N = np.full(size_N.shape, -np.inf)
    return OnSet(
        Distributions(
            log_p_NS=sides[0],
            log_q_NS=sides[1],
            mask_NS=taken_NK,
            log_tail_p_N=none_N,
            log_tail_q_N=none_N,
            num_tail_N=np.zeros(size_N.shape, dtype=np.int64),
            top_limit=nodes.top_limit,
            temperature=nodes.temperature,
        ),
        inside_NS,
    )


def renormalised(nodes: Distributions, inside_NS: Bools, beta: float) -> tuple[Floats, Floats]:
    """L3: the divergence between P and Q both renormalised on S; zero where |S| < 2.

    Returns:
        The direction [N, S], NaN where either model has no mass at all on S, and its unit
        [N] (see `Ascent.unit_N`).
    """
    own = within(nodes, inside_NS)
    return own.spread(divergence(own.nodes, beta)), own.nodes.unit_N


def clipped(nodes: Distributions, beta: float, limit: float) -> Floats:
    """L6: the divergence of L5 whose summands are clipped at a limit before they are summed.

    The summand of token v is e_v = beta Q log(Q/M) + (1 - beta) P log(P/M). Where it exceeds the
    limit it is a constant; with U the other tokens, the direction is 1_U Q_j - Q(U) P_j at
    beta = 0 and P_j (1_U f_j - mean) otherwise, f of L5 less 1 at beta = 1: that term of the
    derivative cancels only where no summand is clipped. A tail counts as evenly spread.
    """
    count_N = np.maximum(nodes.num_tail_N, 1)
    if beta == 0.0:
        kept_NS = _small(nodes.q_NS, nodes.p_NS, nodes.r_NS, limit)
        kept_N = _small(nodes.tail_q_N, nodes.tail_p_N, nodes.tail_r_N, limit * count_N)
        a_NS, tail_a_N = nodes.q_NS * kept_NS, nodes.tail_q_N * kept_N
        return pulled(a_NS, nodes.p_NS, nodes.anchor_N, nodes.tail_p_N, tail_a_N)
    own = 1.0 if beta == 1.0 else 0.0
    f_NS, tail_f_N = gain(nodes.r_NS, beta), gain(nodes.tail_r_N, beta)
    summand_NS = _summand(nodes.p_NS, nodes.q_NS, nodes.r_NS, f_NS, beta)
    summand_N = _summand(nodes.tail_p_N, nodes.tail_q_N, nodes.tail_r_N, tail_f_N, beta)
    f_NS = np.where(summand_NS > limit, 0.0, f_NS - own)
    tail_f_N = np.where(summand_N > limit * count_N, 0.0, tail_f_N - own)
    return centred(nodes.p_NS, f_NS, nodes.anchor_N, nodes.tail_p_N, tail_f_N)


def _small(q: Floats, p: Floats, r: Floats, limit: float | Floats) -> Bools:
    """Whether Q log(Q/P) is at most a limit; it is infinite where P alone is 0."""
    with np.errstate(invalid="ignore"):
        kept = ~(q * r > limit)
    kept &= (p > 0.0) | (q == 0.0)
    return np.asarray(kept)


def _summand(p: Floats, q: Floats, r: Floats, f: Floats, beta: float) -> Floats:
    """What each token adds to the divergence of L5, from the f of its `gain`."""
    with np.errstate(invalid="ignore"):
        if beta == 1.0:
            return np.asarray(-p * r)
        value = beta * q * (r - f / (1.0 - beta)) - p * f
    return np.asarray(np.where(q == 0.0, -p * f, value))


def bucketed(
    nodes: Distributions, inside_NS: Bools, beta: float, least_tail: float = 0.0
) -> Floats:
    """L4: the divergence over the tokens of S and one bucket for everything else.

    Args:
        nodes: both distributions.
        inside_NS: the set S, [N, S].
        beta: as in L5.
        least_tail: the bucket's probability is clamped from below at this value, as TRL does
            with 1e-7. Where the student's is clamped no gradient flows through it, and the
            rest is a divergence that is not normalised.
    """
    out_p_N = np.where(inside_NS, 0.0, nodes.p_NS).sum(axis=1) + nodes.tail_p_N
    out_q_N = np.where(inside_NS, 0.0, nodes.q_NS).sum(axis=1) + nodes.tail_q_N
    clamped_N = out_p_N < least_tail
    with np.errstate(divide="ignore", invalid="ignore"):
        out_r_N = np.log(np.maximum(out_q_N, least_tail)) - np.log(out_p_N)
    out_r_N[out_p_N == 0.0] = 0.0
    if beta == 0.0:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio_N = np.where(out_p_N > 0.0, np.maximum(out_q_N, least_tail) / out_p_N, 0.0)
        ratio_N[clamped_N] = 0.0
        a_NS = np.where(inside_NS, nodes.q_NS, nodes.p_NS * ratio_N[:, None])
        return pulled(a_NS, nodes.p_NS, nodes.anchor_N, nodes.tail_p_N, nodes.tail_p_N * ratio_N)
    out_f_N = gain(out_r_N, beta)
    f_NS = np.where(inside_NS, gain(nodes.r_NS, beta), out_f_N[:, None])
    if clamped_N.any():
        # d(P log P/Q)/dP = 1 - r: the 1 cancels only in a normalised reverse KL.
        own = 1.0 if beta == 1.0 else 0.0
        out_f_N[clamped_N] = 0.0
        f_NS[clamped_N] = np.where(inside_NS[clamped_N], f_NS[clamped_N] - own, 0.0)
    return centred(nodes.p_NS, f_NS, nodes.anchor_N, nodes.tail_p_N, out_f_N)


def _difference(q_NS: Floats, p_NS: Floats, anchor_N: Ints, tail_N: Floats) -> Floats:
    rows = np.arange(p_NS.shape[0])
    result_NS = q_NS - p_NS
    result_NS[rows, anchor_N] = 0.0
    result_NS[rows, anchor_N] = -(result_NS.sum(axis=1) + tail_N)
    return np.asarray(result_NS)


def _on_set(log_NS: Floats, inside_NS: Bools) -> tuple[Floats, Floats]:
    """Renormalise on a set, in logs, so that a mass of 1e-300 is as good as any."""
    kept_NS = np.where(inside_NS, log_NS, -np.inf)
    largest_N = kept_NS.max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight_NS = np.exp(kept_NS - largest_N[:, None])
        mass_N = weight_NS.sum(axis=1)
        weight_NS /= mass_N[:, None]
        return weight_NS, np.asarray(largest_N + np.log(mass_N))


def restrict(ascent_NS: Floats, log_p_NS: Floats, candidates_NS: Bools) -> Floats:
    """Turn a direction into that of the policy conditioned on a set of candidates C.

    m^C_j = (m_j - p~_j sum over C of m) / P(C), with p~ the student renormalised on C. For
    m_j = P_j (f_j - fbar) this is p~_j (f_j - sum over C of p~ f).

    Args:
        ascent_NS: a method's direction on the support, [N, S].
        log_p_NS: the student's log-probabilities, -inf at padding, [N, S].
        candidates_NS: True at the candidates, [N, S].

    Returns:
        The direction on C, 0 outside it, [N, S]. A row is NaN where the direction is NaN,
        where C has fewer than two tokens, or where the result is zero up to rounding.

    Raises:
        ValueError: the shapes differ.
    """
    if not ascent_NS.shape == log_p_NS.shape == candidates_NS.shape:
        raise ValueError(
            "ascent, log_p and candidates must all be [nodes, support], got "
            f"{ascent_NS.shape}, {log_p_NS.shape} and {candidates_NS.shape}"
        )
    rows = np.arange(ascent_NS.shape[0])
    share_NS, log_mass_N = _on_set(log_p_NS, candidates_NS)
    kept_NS = np.where(candidates_NS, ascent_NS, 0.0)
    anchor_N = np.where(candidates_NS, log_p_NS, -np.inf).argmax(axis=1)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        result_NS = kept_NS - share_NS * kept_NS.sum(axis=1)[:, None]
        result_NS[rows, anchor_N] = 0.0
        result_NS[rows, anchor_N] = -result_NS.sum(axis=1)
        largest_N = np.abs(result_NS).max(axis=1)
        noise_N = 1e-13 * np.abs(kept_NS).max(axis=1)
        result_NS /= np.exp(log_mass_N)[:, None]
    few_N = np.count_nonzero(candidates_NS, axis=1) < 2
    lost_N = few_N | ~(largest_N > noise_N) | ~np.isfinite(result_NS).all(axis=1)
    lost_N |= np.isnan(ascent_NS).any(axis=1)
    result_NS[lost_N] = np.nan
    return np.asarray(result_NS)
