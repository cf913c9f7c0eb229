"""Each mechanism, provoked on the bundled pair, is seen: its direction, and beyond the interval.

The unprovoked case is the same figure of a teacher, a loss or a context without the fault.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from gradalign.alignment import pooled
from gradalign.alignment.fieller import pooled_set
from gradalign.diagnostics import NAMES
from gradalign.estimates import Arm, Estimate
from gradalign.report.node_scores import read_scores
from gradalign.report.verdict.bases import Pooled, own_sums
from gradalign.report.verdict.families import compare_together
from gradalign.rounding import pass_error
from gradalign.stages.prefix import num_continuations, num_tokens
from gradalign.store.schema import schema

pytestmark = pytest.mark.slow


def figure(report, mechanism, teacher, diagnostic, variant="", split="all") -> Estimate:
    frame = report.table("diagnostics_summary")
    wanted = (mechanism, teacher, diagnostic, variant, split)
    names = ("mechanism", "teacher", "diagnostic", "variant", "split")
    for name, value in zip(names, wanted, strict=True):
        frame = frame[frame[name].astype(str) == value]
    assert len(frame) == 1, wanted
    row = frame.iloc[0]
    return Estimate(row["value"], row["low"], row["high"])


LATE = "position:75-100%"


# 1. Overlap: a teacher that is shown a false answer


@pytest.mark.parametrize(
    ("mechanism", "diagnostic", "side"),
    [
        ("overlap", "overlap_advantage", -1),
        ("overlap", "overlap_advantage_verl", 1),
        ("horizon", "log_prob_gap", -1),
    ],
)
def test_a_false_answer_pulls_the_teacher_away(informed_run, mechanism, diagnostic, side):
    false = figure(informed_run, mechanism, "self+wrong-answer", diagnostic)
    true = figure(informed_run, mechanism, "self+answer", diagnostic)
    assert false.value > true.high if side > 0 else false.value < true.low


@pytest.mark.parametrize("method", ["opd", "minillm"])
def test_a_false_answer_costs_the_alignment_itself(answers_run, method):
    """The intervals are apart, and paired on the same nodes the two differ surely."""
    summary = answers_run.summary
    rows = summary[(summary["method"] == method) & (summary["split"] == "all")]
    rows = rows.set_index("teacher")[["pooled", "pooled_low", "pooled_high"]]
    true, false = (Estimate(*rows.loc[f"self+{name}"]) for name in ("answer", "wrong-answer"))
    assert true.low > 0
    assert false.high < true.low
    arms = [(Arm(f"self+{name}", method),) for name in ("answer", "wrong-answer")]
    contrast = Pooled(read_scores(answers_run)).contrast(*arms)
    (pair,) = compare_together([contrast], [("answer", "wrong-answer")], 0.95)
    assert pair.low > 0
    assert pair.p_value < 0.001
    assert pair.value == pytest.approx(true.value - false.value, abs=1e-9)


def test_a_false_answer_points_away_from_success_on_wrong_responses(answers_run):
    """What follows the token included: the sequence-level direction."""
    scores = read_scores(answers_run)
    false, true = (
        pooled_set(own_sums(scores, Arm(f"self+{name}", "minillm"), scores.splits()["incorrect"]))
        for name in ("wrong-answer", "answer")
    )
    assert false.high < 0 < true.low


@pytest.mark.parametrize("gamma", [0, 1])
def test_a_false_answer_points_the_wrong_way_late_in_the_response(answers_run, gamma):
    """The teacher's reliability by depth: the answer stands at the end."""
    true, false = (
        figure(answers_run, "horizon", f"self+{name}", "alignment", f"gamma={gamma}", LATE)
        for name in ("answer", "wrong-answer")
    )
    assert false.value < true.low
    assert false.value < 0 < true.value


def test_overlap_is_the_mean_over_every_position(informed_run):
    tokens = informed_run.tokens
    part = tokens[tokens["teacher"] == "demo:strong"]
    for name in ("overlap_ratio", "overlap_mass_student", "overlap_advantage"):
        found = figure(informed_run, "overlap", "demo:strong", name)
        assert found.value == pytest.approx(part[name].astype(np.float64).mean(), abs=1e-9)
    gap = np.abs(part["teacher_entropy"] - part["student_entropy"]).astype(np.float64)
    found = figure(informed_run, "overlap", "demo:strong", "entropy_gap")
    assert found.value == pytest.approx(gap.mean(), abs=1e-9)
    spines = informed_run.spines.set_index("spine_id")["correct"]
    right = part[part["spine_id"].map(spines).to_numpy(dtype=bool)]
    found = figure(informed_run, "overlap", "demo:strong", "overlap_ratio", split="correct")
    assert found.value == pytest.approx(right["overlap_ratio"].astype(np.float64).mean(), abs=1e-9)


# 2. Prefix mismatch: a teacher that never saw such prefixes


def test_a_teacher_that_learned_from_correct_solutions_is_lost_after_errors(prefix_run):
    lost = figure(prefix_run, "prefix", "demo:strong", "drop", "depth=0.75", "incorrect")
    assert lost.low > 0
    right = figure(prefix_run, "prefix", "demo:strong", "drop", "depth=0.75", "correct")
    assert lost.value > right.high
    mixed = figure(prefix_run, "prefix", "demo:strong", "drop", "depth=0.75")
    at_home = figure(prefix_run, "prefix", "", "drop", "depth=0.75")
    assert mixed.value > at_home.high
    wrong = figure(prefix_run, "prefix", "demo:strong", "right_to_wrong", "depth=0.75")
    mended = figure(prefix_run, "prefix", "demo:strong", "wrong_to_right", "depth=0.75")
    assert wrong.value > mended.high


def test_the_student_is_at_home_after_its_own_prefixes(prefix_run):
    for depth in (0.25, 0.5, 0.75):
        found = figure(prefix_run, "prefix", "", "drop", f"depth={depth:g}")
        assert found.low < 0 < found.high


def test_prefix_figures_follow_from_the_table(prefix_run):
    table = prefix_run.table("diagnostics_prefix")
    assert set(table["teacher"]) == {"", "demo:strong", "self+answer"}
    part = table[table["teacher"] == "demo:strong"]
    for depth in (0.0, 0.5):
        here = part[np.isclose(part["depth"], depth)]
        found = figure(prefix_run, "prefix", "demo:strong", "success", f"depth={depth:g}")
        assert found.value == pytest.approx(here["reward"].mean(), abs=1e-9)
    spines = prefix_run.spines.set_index("spine_id")
    for row in table.itertuples():
        length = spines.loc[row.spine_id, "num_tokens"]
        assert row.prefix_tokens == int(row.depth * length)
    assert table["seed"].nunique() == len(table)
    assert table.groupby(["teacher", "spine_id", "depth"], observed=True).size().eq(2).all()
    planned = num_tokens(spines["num_tokens"].sum(), 2)
    assert table["num_tokens"].sum() == pytest.approx(planned, rel=0.15)
    assert len(table) == num_continuations(len(spines), 2)


# 3. Top-k bias: a loss over the top 1


def test_a_biased_top_1_turns_the_update_around(informed_run):
    for teacher in ("demo:strong", "self+answer"):
        full = figure(informed_run, "topk", teacher, "alignment", "full")
        biased = figure(informed_run, "topk", teacher, "alignment", "k=1,biased")
        assert biased.value < full.low
        assert biased.high < 0
        to_full = figure(informed_run, "topk", teacher, "cosine_to_full", "k=1,biased")
        assert to_full.high < 0
        gain = figure(informed_run, "topk", teacher, "alignment_gain", "k=1,biased")
        assert gain.high < 0
        detached = figure(informed_run, "topk", teacher, "cosine_to_full", "k=1,stop_gradient")
        assert detached.low > to_full.high
        whole = figure(informed_run, "topk", teacher, "cosine_to_full", "k=64,renorm")
        assert whole.value > 0.95


def of_table(report, teacher, method):
    """Pool the table `alignment`, which has a value however few the questions are."""
    rows = report.alignment
    rows = rows[(rows["teacher"] == teacher) & (rows["method"] == method)]
    return pooled(rows["dot"], rows["ideal_norm2"], rows["method_norm2"], rows["weight"])


def test_topk_figures_follow_from_the_table(informed_run):
    table = informed_run.table("diagnostics_topk")
    part = table[(table["teacher"] == "demo:strong") & (table["k"] == 4)]
    part = part[part["form"].astype(str) == "renorm"]
    wanted = pooled(part["dot"], part["ideal_norm2"], part["method_norm2"], part["weight"])
    found = figure(informed_run, "topk", "demo:strong", "alignment", "k=4,renorm")
    assert found.value == pytest.approx(wanted, abs=1e-9)
    full = figure(informed_run, "topk", "demo:strong", "alignment", "full")
    assert full.value == pytest.approx(of_table(informed_run, "demo:strong", "opd"), abs=1e-9)
    assert (part["set_mass_student"] <= 1 + 1e-6).all()
    assert part["set_size"].between(0, 4).all()


# 4. Contexts: a true and a false answer against an answer and its solution


def test_contexts_that_contradict_each_other_leave_little_to_learn(informed_run):
    of = {"diagnostic": "shared_share", "variant": "all contexts"}
    contrary = figure(informed_run, "contexts", "self", **of)
    agreeing = figure(informed_run, "contexts", "demo:student", **of)
    assert contrary.value < agreeing.low
    conflict = {
        model: figure(informed_run, "contexts", model, "conflict", "all contexts")
        for model in ("self", "demo:student")
    }
    assert conflict["self"].value > conflict["demo:student"].high


def test_context_figures_follow_from_the_table(informed_run):
    table = informed_run.table("diagnostics_contexts")
    part = table[table["teacher"] == "self"]
    assert set(part["num_contexts"]) == {2}
    assert set(part["kind"].astype(str)) == {"all"}
    np.testing.assert_allclose(part["mean_kl"], part["shared_kl"] + part["conflict"], atol=1e-5)
    # Each context's own divergence from the student, as the table `diagnostics` has it.
    own = informed_run.diagnostics
    own = own[own["teacher"].isin(["self+answer", "self+wrong-answer"])]
    means = own.groupby(own["node_id"].astype(str))["reverse_kl"].mean()
    found = part.set_index(part["node_id"].astype(str))["mean_kl"]
    np.testing.assert_allclose(found, means.loc[found.index], atol=1e-3)
    share = (part["weight"] * part["shared_kl"]).sum() / (part["weight"] * part["mean_kl"]).sum()
    assert figure(informed_run, "contexts", "self", "shared_share", "all contexts").value == (
        pytest.approx(share, abs=1e-9)
    )
    for question, rows in part.groupby(part["question_id"].astype(str)):
        wanted = (rows["weight"] * rows["conflict"]).sum() / rows["weight"].sum()
        found = figure(
            informed_run, "contexts", "self", "conflict", "all contexts", f"question:{question}"
        )
        assert found.value == pytest.approx(wanted, abs=1e-9)
        assert np.isnan(found.low)


# 5. Token level against sequence level


def test_bias_falls_and_noise_rises_with_the_horizon(informed_run):
    for teacher in ("demo:strong", "self+answer"):
        bias, noise = (
            [figure(informed_run, "horizon", teacher, name, f"gamma={g}") for g in (0, 0.9, 1)]
            for name in ("relative_bias", "noise_ratio")
        )
        assert bias[0].low > 0
        assert bias[0].value > bias[1].value > bias[2].value == 0
        assert noise[0].value < noise[2].value


def test_horizon_figures_follow_from_the_tables(informed_run):
    for teacher in ("demo:strong", "self+wrong-answer"):
        for method, gamma in (("opd", 0), ("minillm", 1)):
            wanted = of_table(informed_run, teacher, method)
            found = figure(informed_run, "horizon", teacher, "alignment", f"gamma={gamma}")
            # gamma = 1 takes the token's own log ratio from samples here, not exactly
            assert found.value == pytest.approx(wanted, abs=1e-6 if gamma == 0 else 0.05)
    tokens = informed_run.tokens
    part = tokens[tokens["teacher"] == "demo:strong"]
    gap = (part["teacher_logprob"] - part["student_logprob"]).astype(np.float64)
    found = figure(informed_run, "horizon", "demo:strong", "negative_share")
    # Where both are nearly certain the sign of the gap is that of a rounding error.
    beyond = np.abs(gap) > pass_error(part["student_logprob"].to_numpy())
    assert found.value == pytest.approx(((gap < 0) & beyond).mean(), abs=1e-9)
    ends = part["token_id"].isin(informed_run.metadata["resolved"]["stop_token_ids"])
    for variant, kept in (("special tokens", ends), ("other tokens", ~ends)):
        found = figure(informed_run, "horizon", "demo:strong", "log_prob_gap", variant)
        assert found.value == pytest.approx(gap[kept].mean(), abs=1e-9)


# 6. Predictors


def test_predictors_are_rank_correlations_of_the_cosines(informed_run):
    table = informed_run.table("diagnostics_predictors")
    assert set(table["method"]) == {"opd", "minillm"}
    alignment, diagnostics = informed_run.alignment, informed_run.diagnostics
    part = alignment[(alignment["teacher"] == "self+answer") & (alignment["method"] == "opd")]
    part = part[part["cosine"].notna()]
    own = diagnostics[diagnostics["teacher"] == "self+answer"]
    joined = part.assign(node_id=part["node_id"].astype(str)).merge(
        own.assign(node_id=own["node_id"].astype(str))[["node_id", "reverse_kl"]], on="node_id"
    )
    rows = table[(table["teacher"] == "self+answer") & (table["method"] == "opd")]
    rows = rows.set_index(rows["predictor"].astype(str))
    wanted = spearmanr(*joined[["cosine", "reverse_kl"]].round(9).to_numpy().T).statistic
    assert rows.loc["reverse_kl", "correlation"] == pytest.approx(wanted, abs=1e-9)
    assert rows.loc["reverse_kl", "num_nodes"] == len(joined)
    wanted = spearmanr(*part[["cosine", "teacher_advantage"]].round(9).to_numpy().T).statistic
    assert rows.loc["teacher_advantage", "correlation"] == pytest.approx(wanted, abs=1e-9)


def test_the_best_predictor_is_named_or_none(informed_run):
    table = informed_run.table("diagnostics_predictors")
    summary = informed_run.table("diagnostics_summary")
    named = summary[summary["diagnostic"].astype(str) == "best_predictor"]
    for (teacher, method), rows in table.groupby(["teacher", "method"], observed=True):
        usable = rows[rows["cheap"] & rows["distinct"]]
        variant = named[named["teacher"] == teacher]["variant"].astype(str)
        (found,) = [name for name in variant if name.startswith(f"{method}: ")]
        if not len(usable):
            assert found == f"{method}: none"
            assert not rows["best"].any()
            continue
        best = usable.loc[usable["correlation"].abs().idxmax(), "predictor"]
        assert found == f"{method}: {best}"
        assert list(rows[rows["best"]]["predictor"].astype(str)) == [str(best)]
        assert (usable["low"] * usable["high"] > 0).all()


# Tables, summary and advice


def test_tables_have_their_schemas(informed_run, prefix_run):
    for report, names in (
        (informed_run, ("topk", "contexts", "horizon", "predictors", "summary")),
        (prefix_run, ("prefix", "summary")),
    ):
        for name in names:
            table = report.table(f"diagnostics_{name}")
            assert list(table.columns) == schema(f"diagnostics_{name}").names
            assert len(table)


def test_every_mechanism_and_teacher_has_advice(informed_run, prefix_run):
    summary = pd.concat(
        [report.table("diagnostics_summary") for report in (informed_run, prefix_run)]
    )
    said = summary[summary["advice"] != ""]
    silent = {"rivals", "gram"}  # beside the verdict; only of teachers that contradict each other
    for mechanism in set(NAMES) - silent:
        assert (said["mechanism"].astype(str) == mechanism).any(), mechanism
    teachers = {"demo:strong", "self+answer"}
    for mechanism in set(NAMES) - silent - {"contexts"}:
        assert teachers <= set(said[said["mechanism"].astype(str) == mechanism]["teacher"])
    assert (said["split"].astype(str) == "all").all()
    keys = ["mechanism", "teacher", "diagnostic", "variant", "split"]
    one = informed_run.table("diagnostics_summary")
    assert not one.duplicated(keys).any()


def test_intervals_hold_their_values(informed_run):
    """An end that is not known is null; the other may be there all the same."""
    frame = informed_run.table("diagnostics_summary")
    low, high = frame[frame["low"].notna()], frame[frame["high"].notna()]
    assert min(len(low), len(high)) > 1000
    assert (low["low"] <= low["value"] + 1e-9).mean() > 0.99
    assert (high["high"] >= high["value"] - 1e-9).mean() > 0.99
