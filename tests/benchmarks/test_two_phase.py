"""The two-phase choice of nodes that a benchmark tries against the default."""

from __future__ import annotations

import numpy as np
from two_phase import second_phase


def test_second_phase_finds_the_large_nodes_and_keeps_sums_unbiased():
    rng = np.random.default_rng(4)
    norm2 = np.array([0.0, 0.04, -0.01, 0.09, 0.0, 0.01, 0.0, 0.16])
    y, totals, counts = rng.normal(size=8) + 2, [], np.zeros(8)
    for _ in range(20_000):
        chosen, prob = second_phase(norm2, 3, rng)
        assert len(chosen) == 3
        counts[chosen] += 1
        totals.append((y[chosen] / prob).sum())
    assert counts[[1, 3, 7]].min() > 3 * counts[[0, 2, 4, 6]].max()
    assert abs(np.mean(totals) - y.sum()) < 4 * np.std(totals) / np.sqrt(len(totals))
    flat, prob = second_phase(np.zeros(6), 2, rng)
    assert len(flat) == 2
    np.testing.assert_allclose(prob, 1 / 3)
