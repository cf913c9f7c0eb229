"""negative-loss: the clipped sum at every node, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign.lint.nodes import made_up
from tests.lint.linted import by_rule, linted


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_share_and_least(tmp_path, beta):
    text = f"python opsd_train.py --beta {beta} --jsd_token_clip 0.02 --temperature 1.0\n"
    found = by_rule(linted(tmp_path, text))["negative-loss"].finding.numbers
    p, q = made_up().batch.p_NS, made_up().batch.q_NS
    summand = q * np.log(q / p) if beta == 0.0 else p * np.log(p / q)
    loss_N = np.minimum(summand, 0.02).sum(axis=1)
    assert found["negative"] == pytest.approx(float((loss_N < 0).mean()))
    assert found["least"] == pytest.approx(float(loss_N.min()))


@pytest.mark.parametrize("flags", ["--beta 0 --jsd_token_clip 0", "--beta 0.5"])
def test_a_sum_of_parts_above_zero_is_not(tmp_path, flags):
    """No part of the symmetric divergence is negative, clipped or not."""
    found = by_rule(linted(tmp_path, f"python opsd_train.py {flags} --fixed_teacher\n"))
    assert "negative-loss" not in found
