"""What export and compare make of alignment in the weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import gradalign
from gradalign.alignment.weights import UpdateGrams, update_estimate
from gradalign.analysis.weights import weight_grams
from gradalign.errors import RunError
from gradalign_cli.main import app
from tests.stages.test_weights_level import opened

SETTINGS = {
    "student": "demo:student",
    "teachers": ["demo:strong"],
    "task": "demo:addition",
    "methods": ["opd"],
    "limit": 8,
    "num_rollouts": 2,
    "nodes": 6,
    "continuations": 4,
    "bootstrap_resamples": 200,
    "diagnose": ["none"],
    "engine": "transformers",
    "device": "cpu",
}
ARM = {"teacher": "demo:strong", "method": "opd"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on the same questions, with other responses."""
    folder = tmp_path_factory.mktemp("reading")
    return [
        gradalign.score(
            **SETTINGS, alignment="weights", seed=seed, output_dir=str(folder / str(seed))
        )
        for seed in (0, 1)
    ]


def test_tokens_are_weighted_by_what_others_gain(runs, tmp_path):
    path = tmp_path / "weights.parquet"
    runs[0].export(str(path), **ARM, rule="scale", score="weights", elsewhere=0.0)
    frame = pd.read_parquet(path).set_index("spine_id")
    own = runs[0].alignment
    mean = np.average(own["weights_dot"].abs(), weights=own["weight"])
    seen = 0
    for row in own.itertuples():
        score = frame.loc[row.spine_id, "scores"][row.position]
        assert score == pytest.approx(row.weights_dot / mean, rel=1e-5)
        weight = frame.loc[row.spine_id, "weights"][row.position]
        assert weight == pytest.approx(np.clip(score, 0, 1), rel=1e-5)
        seen += 0 < weight < 1
    assert seen > 3
    assert (own["weights_dot"] < 0).any()


def test_kept_responses_are_those_that_others_gain_by(runs, tmp_path):
    path = tmp_path / "weights.parquet"
    runs[0].export(str(path), **ARM, rule="drop", score="weights", spines="aligned")
    frame = pd.read_parquet(path).set_index("spine_id")
    own = runs[0].alignment
    gained = (own["weight"] * own["weights_dot"]).groupby(own["spine_id"].astype(str)).sum()
    for name, total in gained.items():
        assert frame.loc[name, "spine_kept"] == (total > 0)
        assert np.sign(frame.loc[name, "spine_score"]) == np.sign(total)


def test_a_run_without_it_says_how_to_add_it(small_run, tmp_path):
    with pytest.raises(RunError, match="no alignment in the weights") as error:
        small_run.export(str(tmp_path / "out.parquet"), score="weights")
    assert "--alignment weights" in error.value.hint


def gain(grams: UpdateGrams, kept) -> float:
    at = np.ix_(kept, kept)
    some = UpdateGrams(
        grams.cross_QQ[at], grams.ideal_QQ[at], grams.method_QQ[at], grams.own_Q[kept]
    )
    return update_estimate(some, step=1).gain.value


def test_gains_of_two_runs_differ_by_what_leaving_out_questions_says(runs):
    """The interval is near the delete-one jackknife of the difference itself."""
    (row,) = [item for item in gradalign.compare(*runs) if item.number == "weights_gain_one"]
    grams = [next(iter(weight_grams(opened(report))))[1] for report in runs]
    count = SETTINGS["limit"]
    whole = [gain(own, np.arange(count)) for own in grams]
    assert row.pairing == "questions"
    assert (row.first, row.second) == pytest.approx(whole)
    assert row.difference.value == pytest.approx(whole[1] - whole[0])
    left = np.array(
        [
            gain(grams[1], kept) - gain(grams[0], kept)
            for kept in (np.delete(np.arange(count), q) for q in range(count))
        ]
    )
    se = np.sqrt((count - 1) / count * ((left - left.mean()) ** 2).sum())
    assert row.difference.se == pytest.approx(se, rel=0.35)
    assert row.difference.low < row.difference.value < row.difference.high
    assert 0 < row.difference.p_value <= row.difference.adjusted_p <= 1


def test_the_command_shows_gains_too(runs):
    said = CliRunner().invoke(app, ["compare", runs[0].path, runs[1].path])
    assert said.exit_code == 0, said.output
    assert "Pooled alignment, second minus first" in said.output
    assert "Gain per step of the weights" in said.output


def test_other_spaces_have_no_common_unit(runs, tmp_path):
    lora = gradalign.score(
        **{**SETTINGS, "limit": 3},
        alignment="weights",
        weights_space="lora:rank=2",
        output_dir=str(tmp_path / "run"),
    )
    assert {item.number for item in gradalign.compare(runs[0], lora)} == {"pooled"}
    numbers = {item.number for item in gradalign.compare(*runs)}
    assert numbers == {"pooled", "weights_gain", "weights_gain_one"}
