"""length-normalisation: means of responses' own means."""

from __future__ import annotations

import numpy as np
import pytest

from tests.lint.linted import by_rule, example, linted, verl


def test_the_cosine_token_by_token(tmp_path):
    numbers = example(tmp_path, "length-normalisation").finding.numbers
    weights = np.concatenate([np.full(n, 1 / n) for n in (100, 200, 500, 1000, 2000, 5000)])
    cosine = weights.sum() / np.sqrt(weights.size * (weights**2).sum())
    assert numbers["cosine"] == pytest.approx(float(cosine))
    assert numbers["weight"] == 50


@pytest.mark.parametrize(
    ("mode", "there"), [("token-mean", False), ("seq-mean-token-sum", False),
                        ("seq-mean-token-mean", True)],
)  # fmt: skip
def test_verl(tmp_path, mode, there):
    override = f"actor_rollout_ref.actor.loss_agg_mode={mode}"
    assert ("length-normalisation" in by_rule(verl(tmp_path, override, loss_mode="k2"))) == there


def test_slime_by_default(tmp_path):
    text = "python slime/train.py --use-opd {}\n"
    assert "length-normalisation" in by_rule(linted(tmp_path, text.format("")))
    assert "length-normalisation" not in by_rule(
        linted(tmp_path, text.format("--calculate-per-token-loss"))
    )
