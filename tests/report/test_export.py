"""Exported weights: joined by token ids, and what the settings say."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from gradalign.alignment.ideal import covariance
from gradalign.errors import UsageError
from gradalign.estimates import Arm
from gradalign.report.export import ExportSettings, choose_arm, export
from gradalign.report.node_scores import directions

ARM = {"teacher": "demo:strong", "method": "gkd"}


def exported(report, tmp_path, **settings):
    path = tmp_path / "weights.parquet"
    counts = export(report, str(path), settings=ExportSettings(**settings), **ARM)
    frame = pd.read_parquet(path).set_index("spine_id")
    assert counts["responses"] == len(frame)
    return frame


def cosines(report):
    frame = report.alignment
    own = frame[(frame["teacher"] == ARM["teacher"]) & (frame["method"] == ARM["method"])]
    return own[["spine_id", "position", "cosine", "weight"]]


def test_rows_join_the_responses_by_token_ids(small_run, tmp_path):
    frame = exported(small_run, tmp_path)
    spines = small_run.spines.set_index("spine_id")
    prompts = small_run.questions.set_index("question_id")["prompt_ids"]
    assert set(frame.index) == set(spines.index)
    for name, row in frame.iterrows():
        np.testing.assert_array_equal(row["token_ids"], spines.loc[name, "token_ids"])
        np.testing.assert_array_equal(row["prompt_ids"], prompts[row["question_id"]])
        assert len(row["weights"]) == len(row["token_ids"]) == len(row["scores"])


def test_keep_and_drop_differ_where_nothing_is_known(small_run, tmp_path):
    keep = exported(small_run, tmp_path)["weights"]
    drop = exported(small_run, tmp_path, rule="drop")["weights"]
    seen = 0
    scored = {(str(r.spine_id), r.position): r.cosine for r in cosines(small_run).itertuples()}
    for name in keep.index:
        for position, (kept, dropped) in enumerate(zip(keep[name], drop[name], strict=True)):
            score = scored.get((name, position), np.nan)
            expected = (0.0, 1.0) if np.isnan(score) else (float(score > 0), float(score >= 0))
            assert (kept, dropped) == expected
            seen += np.isfinite(score)
    assert seen > 0


def test_scale_takes_the_mean_elsewhere(small_run, tmp_path):
    frame = exported(small_run, tmp_path, rule="scale")
    own = cosines(small_run).dropna()
    mean = np.average(own["cosine"].clip(0, 1), weights=own["weight"])
    for _, row in frame.iterrows():
        empty = np.isnan(np.array(row["scores"], dtype=float))
        np.testing.assert_allclose(np.asarray(row["weights"])[empty], mean, rtol=1e-6)
        expected = np.clip(np.array(row["scores"], dtype=float)[~empty], 0, 1)
        np.testing.assert_allclose(np.asarray(row["weights"])[~empty], expected, rtol=1e-6)


def test_the_bound_is_the_delta_of_the_value_noise(small_run):
    """The standard error of g . m is sqrt(m' Cov(g) m), Cov from the independent formula."""
    shard = small_run.folder.files("alignment")[0]
    branches = small_run.branches
    checked = 0
    for found in directions(small_run, shard, [Arm("demo:strong", "opd")]):
        for n, node in enumerate(found.node_ids):
            rows = branches[(branches["node_id"] == node)]
            mask = np.isfinite(rows["value"].to_numpy()) & np.isfinite(rows["value_var"].to_numpy())
            if not mask.any():
                continue
            noise = covariance(
                rows["student_prob"].to_numpy(), rows["value_var"].clip(lower=0).to_numpy(), mask
            )
            m = found.ascent_NC[n, : len(rows)]
            assert found.dot_se_N[n] == pytest.approx(np.sqrt(max(m @ noise @ m, 0)), abs=1e-12)
            checked += 1
    assert checked > 0


def test_bounds_are_careful(small_run, tmp_path):
    flat = lambda frame: np.concatenate([np.array(row, dtype=float) for row in frame["scores"]])  # noqa: E731
    plain = flat(exported(small_run, tmp_path))
    low = flat(exported(small_run, tmp_path, score="bound"))
    high = flat(exported(small_run, tmp_path, rule="drop", score="bound"))
    there = np.isfinite(plain)
    np.testing.assert_array_equal(there, np.isfinite(low))
    assert (low[there] <= plain[there] + 1e-6).all()
    assert (high[there] >= plain[there] - 1e-6).all()
    assert (low[there] < plain[there] - 1e-3).any()
    assert norm.ppf(0.95) > 1.6


@pytest.mark.parametrize("which", ["correct", "incorrect", "aligned"])
def test_spine_masks(small_run, tmp_path, which):
    frame = exported(small_run, tmp_path, rule="drop", spines=which)
    expected = {
        "correct": frame["correct"],
        "incorrect": ~frame["correct"],
        "aligned": frame["spine_score"] > 0,
    }[which]
    assert (frame["spine_kept"] == expected).all()
    for _, row in frame.iterrows():
        assert row["spine_kept"] or not np.any(row["weights"])


def test_jsonl_holds_the_same(small_run, tmp_path):
    path = tmp_path / "weights.jsonl"
    export(small_run, str(path), file_format="jsonl", **ARM)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    frame = exported(small_run, tmp_path)
    for row in rows:
        np.testing.assert_allclose(row["weights"], frame.loc[row["spine_id"], "weights"])
        assert row["token_ids"] == list(frame.loc[row["spine_id"], "token_ids"])


def test_unknown_arms_and_settings(small_run):
    with pytest.raises(UsageError, match=r"no gkd@nobody.*gkd@demo:strong"):
        choose_arm(small_run, "nobody", "gkd")
    with pytest.raises(UsageError, match="--threshold"):
        ExportSettings(threshold=2)
    with pytest.raises(UsageError, match="--elsewhere"):
        ExportSettings(elsewhere=-1)
    assert choose_arm(small_run, "demo:strong", None).teacher == "demo:strong"
