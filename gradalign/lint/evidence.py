"""Two directions held against each other on the made-up nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradalign.lint.nodes import KINDS, MadeUp, made_up
from gradalign.methods import Method, NodeBatch
from gradalign.methods.distributions import Floats


@dataclass(frozen=True)
class Comparison:
    """How far one direction is from another that was meant.

    Attributes:
        cosine: of both over all nodes taken as one long vector; NaN where one is zero.
        turned: share of nodes where their cosine is below 0.
        zero: share of nodes where it is zero and the other is not.
        size: length of the one over that of the other, over all nodes.
        by_kind: the cosine of each kind of nodes.
    """

    cosine: float
    turned: float
    zero: float
    size: float
    by_kind: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, None for those that are not there."""
        plain = {name: _plain(getattr(self, name)) for name in ("cosine", "turned", "zero", "size")}
        return {**plain, "by_kind": {kind: _plain(value) for kind, value in self.by_kind.items()}}


def ascent(method: Method, batch: NodeBatch | None = None) -> Floats:
    """Return a method's expected direction, 0 where there is none, [N, S]."""
    return np.nan_to_num(method.ascent(made_up().batch if batch is None else batch))


def compare(one_NS: Floats, other_NS: Floats) -> Comparison:
    """Hold a direction against the one that was meant, both on the made-up nodes, [N, S]."""
    nodes = made_up()
    dot_N = np.vecdot(one_NS, other_NS)
    one_N, other_N = np.linalg.norm(one_NS, axis=1), np.linalg.norm(other_NS, axis=1)
    there_N = other_N > 0.0
    both_N = there_N & (one_N > 0.0)
    return Comparison(
        cosine=_cosine(dot_N, one_N, other_N),
        turned=_share(both_N & (dot_N < 0.0), there_N),
        zero=_share(there_N & ~both_N, there_N),
        size=float(np.linalg.norm(one_N) / max(float(np.linalg.norm(other_N)), 1e-300)),
        by_kind={
            kind: _cosine(dot_N[here_N], one_N[here_N], other_N[here_N])
            for kind, here_N in _kinds(nodes).items()
        },
    )


def noise(method: Method) -> float:
    """Return the variance of a method's single-sample direction over its squared mean, pooled.

    NaN where two parts of a sum vary together, infinite where the mean is zero and the draw is not.
    """
    batch = made_up().batch
    spread = float(method.squared_deviation(batch).sum())
    mean = float((ascent(method) ** 2).sum())
    if mean > 1e-20 * spread:
        return spread / mean
    return float("inf") if spread > 0.0 else float("nan")


def towards_success(method: Method) -> dict[str, float]:
    """Return the pooled cosine with the ideal gradient, by what the teacher knows."""
    found_NS = ascent(method)
    return {name: compare(found_NS, ideal_NS).cosine for name, ideal_NS in made_up().ideal.items()}


def _kinds(nodes: MadeUp) -> dict[str, Any]:
    return {kind: nodes.kind_N == place for place, kind in enumerate(KINDS)}


def _cosine(dot_N: Floats, one_N: Floats, other_N: Floats) -> float:
    size = float(np.linalg.norm(one_N) * np.linalg.norm(other_N))
    return float(dot_N.sum()) / size if size > 0.0 else float("nan")


def _share(part_N: Any, whole_N: Any) -> float:
    return float(part_N.sum() / max(int(whole_N.sum()), 1))


def _plain(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
