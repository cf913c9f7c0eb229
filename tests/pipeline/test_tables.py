"""What a run writes: schemas, keys that join, and numbers that follow from other numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from runs import SMALL

from gradalign import methods
from gradalign.alignment import balanced, pooled
from gradalign.alignment.ideal import ideal_gradient
from gradalign.store.schema import schema, table_names

# Tables of diagnostics are there when asked for or possible: see tests/diagnostics; those of
# alignment of updates when asked for: see tests/stages/test_weights_level.py; those of rehearsals:
# see tests/rehearsal; those of teachers that lack tokens of the student: see
# tests/models/test_event_space.py; those of responses that are verified anew: see
# tests/stages/test_gate.py and tests/cli/test_rescore_verifier.py; teachers' own answers: see
# tests/diagnostics/test_rivals.py; teachers with another tokenizer:
# tests/tokenization/test_matched_runs.py.
ASKED_FOR = {"summary", "common_positions", "sampled", "verdicts", "teacher_answers", "matches"}
IN_WEIGHTS = {"gradients", "ideal_updates", "derivatives", "steps", "answer_gradients"}
REHEARSED = {"rehearsal_trials", "rehearsals"}
ALWAYS = [
    name
    for name in table_names()
    if name not in ASKED_FOR | IN_WEIGHTS | REHEARSED and not name.startswith("diagnostics_")
]


@pytest.mark.parametrize("table", ALWAYS)
def test_every_table_has_its_schema_and_rows(small_run, table):
    files = sorted((Path(small_run.path) / table).glob("*.parquet"))
    assert files
    for file in files:
        found = pq.read_schema(file)
        assert found.names == schema(table).names
        assert found.metadata[b"gradalign.table"] == table.encode()
    assert len(pd.read_parquet(Path(small_run.path) / table)) > 0


def test_counts(small_run):
    assert len(small_run.questions) == 3
    assert len(small_run.spines) == 6
    assert small_run.nodes.groupby("spine_id", observed=True).size().max() <= 4
    assert small_run.metadata["status"] == "done"
    assert small_run.metadata["totals"]["spines"] == 6
    expected = len(small_run.nodes) * (2 * 3 + 2)  # teachers x methods with one, and two without
    assert len(small_run.alignment) == expected


def test_the_time_inside_models_is_part_of_every_stage(small_run):
    stages = small_run.metadata["stages"]
    for name, stage in stages.items():
        inside = stage["model_seconds"] + stage["opening_seconds"]
        assert 0 <= inside <= stage["seconds"] + 0.003, name
    with_models = {name for name, stage in stages.items() if stage["model_seconds"] > 0}
    assert {"sample", "distribute student", "distribute demo:strong", "branch"} <= with_models
    assert "align" not in with_models
    # The engine is opened for the first stage and kept, where memory allows, for the other.
    assert max(stages[name]["opening_seconds"] for name in ("sample", "branch")) > 0.01


def test_rewards_are_the_tasks(small_run):
    from gradalign.demo import addition

    questions = small_run.questions.set_index("question_id")
    for row in small_run.spines.itertuples():
        answer = questions.loc[row.question_id, "answer"]
        wanted = addition.verify(row.text, answer) if row.finish_reason == "stop" else 0.0
        assert row.reward == wanted


def test_student_probabilities_agree_across_tables(small_run):
    dist = small_run.distributions
    for row in dist.iloc[:40].itertuples():
        p = np.exp(np.asarray(row.student_logprobs, dtype=np.float64))
        assert p.sum() + np.exp(row.student_log_tail) == pytest.approx(1.0, abs=1e-5)
        q = np.exp(np.asarray(row.teacher_logprobs, dtype=np.float64))
        assert q.sum() + np.exp(row.teacher_log_tail) == pytest.approx(1.0, abs=1e-5)
        own = small_run.branches[small_run.branches["node_id"] == row.node_id]
        by_token = dict(zip(row.token_ids, p, strict=True))
        for branch in own.itertuples():
            assert branch.student_prob == pytest.approx(by_token[branch.token_id], rel=1e-5)


def test_ideal_gradient_follows_from_the_branches(small_run):
    for _, group in small_run.branches.groupby("node_id", observed=True):
        wanted = ideal_gradient(group["student_prob"].to_numpy(), group["value"].to_numpy())
        if len(group) > 1:
            np.testing.assert_allclose(group["ideal"].to_numpy(), wanted, atol=1e-12)
        else:
            assert np.nan_to_num(group["ideal"].to_numpy()) == 0


def test_pooled_alignment_follows_from_the_alignment_table(small_run):
    summary = small_run.summary[small_run.summary["split"] == "all"]
    for row in summary.itertuples():
        part = small_run.alignment[
            (small_run.alignment["teacher"] == row.teacher)
            & (small_run.alignment["method"] == row.method)
        ]
        wanted = pooled(part["dot"], part["ideal_norm2"], part["method_norm2"], part["weight"])
        if np.isnan(row.pooled):  # three questions: what is too noisy is not said
            assert row.reason in ("too few questions", "the ideal gradient is not above its noise")
            assert -1 <= row.pooled_low <= row.pooled_high <= 1
        else:
            assert row.pooled == pytest.approx(wanted)
        if methods.get(row.method).uses_continuations:
            assert np.isnan(row.balanced)
        else:
            columns = (part[name] for name in ("dot", "ideal_norm2", "method_norm2", "weight"))
            assert np.isnan(row.balanced) or row.balanced == pytest.approx(balanced(*columns))
        assert row.num_flat == (part["reason"] == "flat").sum()
        mean = part["cosine"].mean()
        assert np.isnan(row.mean_cosine) or row.mean_cosine == pytest.approx(mean)
        whole = small_run.table("question_sums")
        own = whole[(whole["teacher"] == row.teacher) & (whole["method"] == row.method)]
        assert own["dot"].sum() == pytest.approx((part["weight"] * part["dot"]).sum())


def test_splits_partition_the_nodes(small_run):
    counts = small_run.summary.pivot_table(
        index=["teacher", "method"], columns="split", values="num_nodes", fill_value=0
    )
    for prefix in ("position:", "entropy:", "question:"):
        parts = [name for name in counts.columns if name.startswith(prefix)]
        assert (counts[parts].sum(axis=1) == counts["all"]).all()
    both = [name for name in ("correct", "incorrect") if name in counts.columns]
    assert (counts[both].sum(axis=1) == counts["all"]).all()


def test_cosines_are_recomputed_from_the_tables(small_run):
    """One method by hand: full reverse KL from the stored distributions."""
    alignment = small_run.alignment
    rows = alignment[(alignment["method"] == "opd") & (alignment["teacher"] == "demo:strong")]
    dist = small_run.distributions
    dist = dist[dist["teacher"] == "demo:strong"].set_index("node_id")
    checked = 0
    for row in rows.itertuples():
        node = dist.loc[row.node_id]
        log_p = np.asarray(node.student_logprobs, dtype=np.float64)
        log_q = np.asarray(node.teacher_logprobs, dtype=np.float64)
        own = small_run.branches[small_run.branches["node_id"] == row.node_id]
        where = np.searchsorted(node.token_ids, own["token_id"].to_numpy())
        tail_p, tail_ratio = np.exp(node.student_log_tail), 0.0
        if tail_p > 0:  # the rest of the vocabulary counts as one token
            tail_ratio = node.teacher_log_tail - node.student_log_tail
        p, ratio = np.exp(log_p), log_q - log_p
        whole = p * (ratio - (p * ratio).sum() - tail_p * tail_ratio)
        direction = whole[where]
        length = np.sqrt(whole @ whole + whole.sum() ** 2 / max(node.num_tail, 1))
        ideal = np.nan_to_num(own["ideal"].to_numpy())  # nodes without a choice have none
        ideal *= own["student_prob"].sum()
        if np.isfinite(row.cosine):
            wanted = direction @ ideal / length / np.linalg.norm(ideal)
            assert row.cosine == pytest.approx(wanted, abs=1e-5)
            checked += 1
        assert row.dot == pytest.approx(direction @ ideal, abs=1e-6)
        assert np.isclose(row.method_norm2, length**2, atol=1e-6)
    assert checked > 3


def test_reasons_stand_where_cosines_do_not(small_run):
    alignment = small_run.alignment
    assert (alignment["cosine"].isna() == (alignment["reason"].astype(str) != "")).all()


def test_methods_without_a_teacher_stand_alone(small_run):
    alone = set(small_run.alignment.loc[small_run.alignment["teacher"] == "", "method"])
    assert alone == {
        methods.get(spec).spec
        for spec in SMALL["methods"]
        if "teacher" not in methods.get(spec).needs
    }
