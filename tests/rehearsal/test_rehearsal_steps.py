"""How long a step is, and what is tried to find out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradalign.errors import UsageError
from gradalign.estimates import Arm
from gradalign.models.training_step import KL_GRID, StepSpec, parse_step
from gradalign.rehearsal.trials import CURVED, EFFECTIVE, Trial, effective_share, trial_of
from gradalign.rehearsal.virtual import QuestionGain

ARM = Arm("teacher", "opd")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("kl=0.001", StepSpec("sgd", "kl", 0.001)),
        ("adamw:lr=1e-6", StepSpec("adamw", "lr", 1e-6)),
        ("sgd:length=2", StepSpec("sgd", "length", 2.0)),
    ],
)
def test_steps_are_read(text, spec):
    assert parse_step(text) == spec


def test_auto_tries_every_divergence_of_the_grid():
    assert parse_step("auto").divergences == parse_step("adamw:auto").divergences == KL_GRID
    assert parse_step("kl=0.5").divergences == (0.5,)
    assert parse_step("lr=1").divergences == ()


@pytest.mark.parametrize(
    "text",
    ["", "kl", "kl=", "kl=-1", "kl=nan", "kl=inf", "auto=1", "adam:lr=1", "lr=1e-6,x", "length=0"],
)
def test_what_is_no_step_is_refused(text):
    with pytest.raises(UsageError, match="rehearse-step"):
        parse_step(text)


def moved(curvature, slope, bend, noise=0.0, count=16):
    """Questions of a student whose divergence and gain are polynomials of the length."""
    noise_Q = noise * np.random.default_rng(0).normal(size=count)

    def gains(length):
        divergence = 9 * curvature * length**2
        gain_Q = slope * length - bend * length**2 + noise_Q * length
        return [
            QuestionGain(f"q{i}", float(g), 0.0, divergence, np.array([1.0 + length, 1.0]))
            for i, g in enumerate(gain_Q)
        ]

    return gains


def test_a_trial_finds_the_length_of_a_divergence_at_any_scale():
    for curvature in (1e-8, 1.0, 1e8):
        (trial,) = trial_of(ARM, [1e-3], moved(curvature, 1.0, 0.0))
        assert trial.length == pytest.approx(math.sqrt(1e-3 / curvature), rel=1e-6)
        assert trial.gain == pytest.approx(trial.linear, rel=1e-6)


def test_a_bent_gain_does_not_pass_and_a_noisy_one_may():
    (straight,) = trial_of(ARM, [1e-3], moved(1.0, 1.0, 0.0))
    assert straight.passed
    (bent,) = trial_of(ARM, [1e-3], moved(1.0, 1.0, 20.0))
    assert abs(bent.gain - bent.linear) > CURVED * abs(bent.linear) > bent.half
    assert not bent.passed
    few = Trial("t", "m", 1e-3, 1.0, EFFECTIVE - 0.01, 1.0, 1.0, 0.0)
    assert not few.passed


def test_the_trial_of_an_arm_that_moves_nothing_has_no_numbers():
    (trial,) = trial_of(ARM, [1e-3], moved(0.0, 0.0, 0.0))
    assert (trial.teacher, trial.method) == tuple(ARM)
    assert math.isnan(trial.length)
    assert not trial.passed


def test_the_effective_share_is_one_of_equal_ratios_and_one_over_n_of_a_single_one():
    assert effective_share(np.full(5, 3.0)) == pytest.approx(1.0)
    assert effective_share(np.array([0.0, 0.0, 7.0, 0.0])) == pytest.approx(0.25)
    assert effective_share(np.zeros(3)) == 0.0
