"""The study of the weights' intervals: what its replicas are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
from weights_truth import ARMS, Drawn, coverage, population, replica

POOL, DRAWS, SIZE = 8, 6, 12


@pytest.fixture(scope="module")
def drawn():
    """Inner products of made updates, which differ by question and by run."""
    rng = np.random.default_rng(0)
    of_question = rng.normal(size=(2, POOL, 5)) + 1.0
    ideal, method = (
        np.tile(part, (DRAWS, 1)) + rng.normal(size=(DRAWS * POOL, 5)) for part in of_question
    )
    own = (method**2).sum(axis=1)
    count = len(ARMS)
    return Drawn([ideal @ method.T] * count, ideal @ ideal.T, [method @ method.T] * count,
                 [own] * count)  # fmt: skip


def test_a_question_that_comes_again_is_of_another_run():
    rng = np.random.default_rng(1)
    for _ in range(50):
        rows = replica(rng, POOL, DRAWS, SIZE)
        assert len(set(rows)) == len(rows) == SIZE
        assert all(0 <= row < POOL * DRAWS for row in rows)


def test_the_population_is_what_replicas_are_on_average(drawn):
    rng, off = np.random.default_rng(2), ~np.eye(SIZE, dtype=bool)
    seen = []
    for _ in range(4000):
        at = replica(rng, POOL, DRAWS, SIZE)
        block = np.ix_(at, at)
        seen.append([gram[block][off].mean() for gram in (drawn.cross[0], drawn.method[0])])
    found = population(drawn, POOL, DRAWS)[0]
    error = np.std(seen, axis=0) / np.sqrt(len(seen))
    # Too many of one question are never drawn: that moves the mean by less than its error.
    for value, mean, se in zip(
        (found["N"], found["shared"]), np.mean(seen, axis=0), error, strict=True
    ):
        assert value == pytest.approx(mean, abs=4 * se)


def test_sizes_that_the_runs_cannot_give_are_left_out(drawn):
    assert coverage(drawn, population(drawn, POOL, DRAWS), POOL, DRAWS, 2) == {}
