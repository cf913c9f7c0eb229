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
    steps = method / np.sqrt(own)[:, None]
    along = ideal @ steps.T
    return Drawn(
        ideal_XD=ideal,
        updates={(ARMS[0], "all"): (method, own), (ARMS[0], "correct"): (0.5 * method, 0.25 * own)},
        adamw={ARMS[0]: along},
        batches={ARMS[0]: along[:30, :30]},
    )


def test_a_question_that_comes_again_is_of_another_run():
    rng = np.random.default_rng(1)
    for _ in range(50):
        rows = replica(rng, POOL, DRAWS, SIZE)
        assert len(set(rows)) == len(rows) == SIZE
        assert all(0 <= row < POOL * DRAWS for row in rows)


def test_the_population_is_what_replicas_are_on_average(drawn):
    rng, off = np.random.default_rng(2), ~np.eye(SIZE, dtype=bool)
    grams = drawn.grams((ARMS[0], "all"))
    seen = []
    for _ in range(4000):
        at = replica(rng, POOL, DRAWS, SIZE)
        block = np.ix_(at, at)
        seen.append([gram[block][off].mean() for gram in (grams.cross_QQ, grams.method_QQ)])
    found = population(grams, POOL, DRAWS)
    error = np.std(seen, axis=0) / np.sqrt(len(seen))
    # Too many of one question are never drawn: that moves the mean by less than its error.
    for value, mean, se in zip(
        (found["N"], found["shared"]), np.mean(seen, axis=0), error, strict=True
    ):
        assert value == pytest.approx(mean, abs=4 * se)


def test_sizes_that_the_runs_cannot_give_are_left_out(drawn):
    assert coverage(drawn, POOL, DRAWS, 2).keys() == set()


def test_every_number_of_every_split_is_covered(drawn, monkeypatch):
    """Of a split that is half of everything, gains and the cosine are those of everything."""
    monkeypatch.setattr("weights_truth.SIZES", (SIZE,))
    found = coverage(drawn, POOL, DRAWS, 200)[str(SIZE)]
    assert set(found) == {"all", "correct", "adamw", "adamw batches"}
    (numbers,) = found["all"].values()
    assert set(numbers) == {"N", "gain_one", "gain", "cosine"}
    (half,) = found["correct"].values()
    for name in numbers:
        assert half[name] == numbers[name]
    for arms in found.values():
        for shares in arms[str(ARMS[0])].values():
            assert shares["covered"] == pytest.approx(100.0 - shares["above"] - shares["below"])
            assert shares["covered"] >= 85.0
