"""`--target-se`: more rollouts where the target asks for them, none where it does not."""

from __future__ import annotations

import numpy as np
from runs import SMALL

SETTINGS = {
    **SMALL,
    "teachers": ["demo:strong"],
    "methods": ["gkd:beta=0"],
    "limit": 4,
    "shard_size": 4,
    "continuations": 2,
    "diagnose": ["none"],
}


def rollouts(report):
    return report.metadata["totals"]["continuations"]


def test_a_tighter_target_buys_more_rollouts_up_to_the_cap(finished_runs):
    runs = {
        target: finished_runs.get(**SETTINGS, target_se=target) for target in (None, 10.0, 0.01)
    }
    assert rollouts(runs[10.0]) == rollouts(runs[None])
    assert rollouts(runs[0.01]) > 2 * rollouts(runs[None])
    made = runs[0.01].continuations
    planned = runs[None].continuations
    for question, group in made.groupby("question_id", observed=True):
        before = (planned["question_id"] == question).sum()
        assert len(group) <= 10 * before + 2 * len(runs[0.01].branches)
    # The first rounds are the same; what was added came after.
    assert made["round"].max() > planned["round"].max()
    joined = planned.merge(made, on=["node_id", "candidate_id", "index"], suffixes=("", "_more"))
    assert len(joined) == len(planned)
    np.testing.assert_array_equal(joined["reward"], joined["reward_more"])


def test_the_noise_of_values_falls_with_the_target(finished_runs):
    before, after = (finished_runs.get(**SETTINGS, target_se=target) for target in (None, 0.01))
    noise = [np.nanmean(report.branches["value_var"]) for report in (before, after)]
    assert noise[1] < 0.6 * noise[0]
