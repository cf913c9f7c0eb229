"""Which tokens become candidates, and why."""

import numpy as np
import pytest

from gradalign.branching import choose_candidates

IDS = [7, 3, 9, 1, 5]
PROBS = [0.5, 0.25, 0.15, 0.06, 0.004]


def test_students_tokens_until_coverage_with_the_sampled_one_first():
    chosen = choose_candidates(IDS, PROBS, 9, coverage=0.7)
    assert chosen.token_ids_C.tolist() == [9, 7, 3]
    assert chosen.why_C == ("sampled", "student", "student")
    np.testing.assert_allclose(chosen.prob_C, [0.15, 0.5, 0.25])
    assert chosen.coverage == pytest.approx(0.9)


def test_reasons_are_joined():
    chosen = choose_candidates(IDS, PROBS, 7, {"big": [3, 1]}, coverage=0.7)
    assert chosen.token_ids_C.tolist() == [7, 3, 1]
    assert chosen.why_C == ("sampled+student", "student+teacher:big", "teacher:big")


def test_teachers_tokens_need_some_student_mass():
    chosen = choose_candidates(IDS, PROBS, 7, {"big": [5, 42]}, coverage=0.5, min_prob=0.01)
    assert chosen.token_ids_C.tolist() == [7]
    kept = choose_candidates(IDS, PROBS, 7, {"big": [5, 42]}, coverage=0.5, min_prob=0.001)
    assert kept.token_ids_C.tolist() == [7, 5]


def test_limit_bounds_the_students_list_and_holds_the_sampled_token():
    chosen = choose_candidates(IDS, PROBS, 5, coverage=1.0, max_candidates=3)
    assert chosen.token_ids_C.tolist() == [5, 7, 3]
    assert choose_candidates(IDS, PROBS, 5, max_candidates=1).token_ids_C.tolist() == [5]


def test_order_of_the_input_does_not_matter():
    first = choose_candidates([1, 2, 3], [0.3, 0.3, 0.4], 3, coverage=0.6)
    second = choose_candidates([3, 2, 1], [0.4, 0.3, 0.3], 3, coverage=0.6)
    assert first.token_ids_C.tolist() == second.token_ids_C.tolist() == [3, 1]


def test_sampled_token_outside_the_sparse_distribution_needs_its_probability():
    chosen = choose_candidates(IDS, PROBS, 88, sampled_prob=1e-4, coverage=0.5)
    assert chosen.token_ids_C.tolist() == [88, 7]
    assert chosen.prob_C[0] == 1e-4
    with pytest.raises(ValueError, match="sampled token 88"):
        choose_candidates(IDS, PROBS, 88)


def test_bad_limits_are_refused():
    with pytest.raises(ValueError, match="coverage"):
        choose_candidates(IDS, PROBS, 7, coverage=0.0)
    with pytest.raises(ValueError, match="both be"):
        choose_candidates(IDS, PROBS[:2], 7)
