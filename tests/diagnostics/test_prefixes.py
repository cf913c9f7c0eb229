"""Changes of outcome against counting pairs, and where a spine is cut."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign.diagnostics import NAMES, chosen
from gradalign.diagnostics.prefix import transitions
from gradalign.stages.prefix import DEPTHS, SAMPLES, cut, num_continuations, num_tokens


def test_transitions_against_counting_pairs():
    rng = np.random.default_rng(0)
    scratch, continued = rng.integers(0, 2, size=(2, 20, 5))
    found = transitions(scratch.mean(1), continued.mean(1))
    for n in range(20):
        pairs = [(a, b) for a in scratch[n] for b in continued[n]]
        assert found.right_to_wrong[n] == pytest.approx(
            sum(a > b for a, b in pairs) / len(pairs), abs=1e-9
        )
        assert found.wrong_to_right[n] == pytest.approx(
            sum(a < b for a, b in pairs) / len(pairs), abs=1e-9
        )
    drop = scratch.mean(1) - continued.mean(1)
    np.testing.assert_allclose(found.right_to_wrong - found.wrong_to_right, drop, atol=1e-12)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="one shape"):
        transitions(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize(
    ("length", "depth", "wanted"), [(20, 0.25, 5), (3, 0.5, 1), (1, 0.75, 0), (0, 0.5, 0)]
)
def test_a_prefix_leaves_something_to_say(length, depth, wanted):
    assert cut(length, depth) == wanted


def test_the_cost():
    per_spine = SAMPLES * (len(DEPTHS) + 3 * (len(DEPTHS) + 1))
    assert num_continuations(10, 3) == 10 * per_spine
    assert num_continuations(1, 1) == 6 + 8  # as the command's help says
    # Of a spine of 100 tokens 75, 50 and 25 are left; a teacher also starts from scratch.
    assert num_tokens(100, 3) == pytest.approx(2 * (150 + 3 * 250))


def test_names():
    assert chosen([]) == (
        "overlap", "topk", "contexts", "horizon", "gram", "predictors", "rivals",
    )  # fmt: skip
    assert chosen(["all"]) == NAMES
    assert chosen(["none"]) == ()
    assert chosen(["prefix", "topk"]) == ("topk", "prefix")
    with pytest.raises(ValueError, match="known: all, none, overlap"):
        chosen(["topp"])
    with pytest.raises(ValueError, match="none excludes"):
        chosen(["none", "topk"])
