"""Counter-based uniforms and restricted distributions against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from transformers import TemperatureLogitsWarper
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from gradalign.engines.transformers.sampler import draw, uniforms
from gradalign.errors import EngineError
from gradalign.models.sampling import SamplingSettings, probabilities


def splitmix64(state: int) -> int:
    """One output of the published generator, in plain integers."""
    mask = 2**64 - 1
    state = (state + 0x9E3779B97F4A7C15) & mask
    z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_uniforms_are_splitmix64() -> None:
    # Published first outputs for seed 1234567.
    assert splitmix64(1234567) == 6457827717110365317
    seeds = [0, 1, 2**63 - 1, 987654321]
    steps = [0, 5, 1, 100000]
    found = uniforms(np.array(seeds, np.uint64), np.array(steps)).numpy()
    for seed, step, u in zip(seeds, steps, found, strict=True):
        state = (splitmix64(seed) + step * 0x9E3779B97F4A7C15) % 2**64
        assert u == (splitmix64(state) >> 11) / 2**53


def test_uniforms_are_uniform_over_seeds_and_over_steps() -> None:
    count = 20000
    over_seeds = uniforms(np.arange(count, dtype=np.uint64), np.zeros(count, np.int64)).numpy()
    over_steps = uniforms(np.full(count, 3, np.uint64), np.arange(count)).numpy()
    for u in (over_seeds, over_steps):
        assert kstest(u, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / np.sqrt(count)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (9, 0.6), (500, 1.0)])
def test_probabilities_are_those_of_transformers(top_k: int, top_p: float) -> None:
    logits = (
        torch.randn(40, 97, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    )
    scores = TemperatureLogitsWarper(0.8)(None, logits)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    found = probabilities(logits.float(), SamplingSettings(0.8, top_p, top_k))
    torch.testing.assert_close(found, torch.softmax(scores, dim=1), atol=1e-6, rtol=0)


def test_ties_are_kept_by_token_id() -> None:
    logits = torch.zeros(1, 6)
    p_k = probabilities(logits, SamplingSettings(top_k=2))
    assert p_k[0].tolist() == [0.5, 0.5, 0, 0, 0, 0]
    p_p = probabilities(logits, SamplingSettings(top_p=0.5))
    assert p_p[0].nonzero()[:, 0].tolist() == [0, 1, 2]


def test_draw_never_takes_a_token_of_mass_zero() -> None:
    logits = torch.full((5000, 7), -torch.inf)
    logits[:, 2] = 0.0
    logits[:, 4] = 0.0
    rows, seeds = np.arange(5000), np.arange(5000, dtype=np.uint64)
    tokens = draw(logits, rows, seeds, np.zeros(5000, int), SamplingSettings())
    assert set(tokens.tolist()) == {2, 4}
    assert abs((tokens == 2).mean() - 0.5) < 0.03


def test_a_row_is_drawn_alone_as_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(20, 300, generator=torch.Generator().manual_seed(1))
    rows = np.random.default_rng(2).integers(0, 19, 50)  # some rows twice, the last not at all
    seeds, steps = np.arange(50, dtype=np.uint64) ** 3, np.arange(50)
    nucleus = SamplingSettings(top_p=0.9)
    together = draw(logits, rows, seeds, steps, nucleus)
    monkeypatch.setattr("gradalign.engines.transformers.sampler._DRAW_NUMBERS", 7 * 300)
    assert (draw(logits, rows, seeds, steps, nucleus) == together).all()
    for i in range(0, 50, 9):
        alone = logits[rows[i] : rows[i] + 1]
        one = draw(alone, np.zeros(1, int), seeds[i : i + 1], steps[i : i + 1], nucleus)
        assert one[0] == together[i]


def test_logits_that_are_not_numbers_are_an_error() -> None:
    logits = torch.zeros(2, 5)
    logits[1, 3] = torch.nan
    with pytest.raises(EngineError, match="not numbers"):
        draw(logits, np.arange(2), np.zeros(2, np.uint64), np.zeros(2, int), SamplingSettings())
