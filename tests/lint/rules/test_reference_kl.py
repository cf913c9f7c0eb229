"""reference-kl: where two pulls balance, by descent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradalign.lint.nodes import made_up
from tests.lint.linted import by_rule, example, linted


def test_the_point_of_rest_has_no_gradient(tmp_path):
    found = example(tmp_path, "reference-kl").finding
    rest = found.drawn.found_NS
    batch = made_up().batch
    z = torch.tensor(np.log(rest), requires_grad=True)
    log_p = torch.log_softmax(z, -1)
    sides = [torch.tensor(side) for side in (batch.log_q_NS, batch.log_p_NS)]
    loss = sum(0.1 * (log_p.exp() * (log_p - side)).sum() for side in sides)
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.abs().max() < 1e-10

    def divergence(p):
        return float((p * (np.log(p) - batch.log_q_NS)).sum())

    assert found.numbers["left"] == pytest.approx(divergence(rest) / divergence(batch.p_NS))
    assert found.numbers["share"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("--kl-loss-coef 0.1", None),  # without --use-kl-loss it does not count
        ("--use-kl-loss --kl-loss-coef 0.001", None),
        ("--use-kl-loss --kl-loss-coef 0.2", "note"),
        ("--use-kl-loss --kl-loss-coef 1.0", "warning"),
        ("--kl-coef 1.0", "warning"),
    ],
)
def test_how_much_is_held_back(tmp_path, flags, level):
    found = by_rule(linted(tmp_path, f"python slime/train.py --use-opd {flags}\n"))
    assert (found["reference-kl"].level if "reference-kl" in found else None) == level
