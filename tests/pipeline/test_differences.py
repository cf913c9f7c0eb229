"""Differences of teachers: against full softmaxes, on tails, refused, resumed and rescored."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import SMALL, assert_same_tables
from transformers import AutoModelForCausalLM

import gradalign
from gradalign.config import ScoreConfig
from gradalign.errors import UsageError
from gradalign.models import resolve_model
from gradalign.models.event_space import EventSpace
from gradalign.stages.base import Resolved, Run, teacher_file
from gradalign.stages.deltas import DeltaTables, difference
from gradalign.stages.preparation.difference_checks import check_made, delta_warnings

TOLD = "delta:self+answer,self+wrong-answer"
HALF = "delta:demo:strong,self,a=0.5"
NONE = "delta:self,self"
DOUBLE, MINUS = "delta:demo:strong,self,a=2", "delta:self,demo:strong,a=2"

READ = ["demo:strong", "self", "self+answer"]
SETTINGS = {
    **SMALL,
    "control": True,
    "limit": 2,
    "methods": ["gkd", "opd", "opsd", "minillm", "dr_grpo"],
    "support_size": 512,
}
WITH = {**SETTINGS, "teachers": [*READ, TOLD, HALF, NONE]}
FLOAT32 = 2e-5
"""What float32 passes and float32 tables leave of a log-probability, nats."""


@pytest.fixture(scope="module")
def whole(finished_runs):
    """Differences with the whole vocabulary of the toys in every support."""
    return finished_runs.get(**WITH)


@pytest.fixture(scope="module")
def small(finished_runs):
    """The same with few tokens in every support, and two differences of twice the strength."""
    teachers = [*WITH["teachers"], DOUBLE, MINUS]
    return finished_runs.get(**{**WITH, "teachers": teachers, "support_size": 16})


def run_of(report) -> Run:
    config = report.config.model_copy(update={"output_dir": str(report.path)})
    return Run(config, Resolved(**report.metadata["resolved"]))


def dense(report, teacher: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return log P and log Q over the whole vocabulary by node, from tables that have it all."""
    found = {}
    table = report.table("distributions")
    for row in table[table["teacher"] == teacher].to_dict("records"):
        assert row["num_tail"] == 0
        assert np.isneginf([row["student_log_tail"], row["teacher_log_tail"]]).all()
        log_p, log_q = np.full((2, 259), -np.inf)
        log_p[row["token_ids"]] = row["student_logprobs"]
        log_q[row["token_ids"]] = row["teacher_logprobs"]
        found[str(row["node_id"])] = (log_p, log_q)
    return found


def direct(p: np.ndarray, a: np.ndarray, b: np.ndarray, strength: float) -> np.ndarray:
    """Return Q from probabilities, as the definition has it."""
    q = p * (a / b) ** strength
    return q / q.sum()


@pytest.mark.parametrize("strength", [0.25, 1.0, 3.0])
def test_the_formula_in_float64(strength):
    rng = np.random.default_rng(3)
    p, a, b = rng.dirichlet(np.ones(259), size=3)
    found = difference(np.log(p), np.log(a), np.log(b), strength)
    np.testing.assert_allclose(np.exp(found), direct(p, a, b, strength), rtol=1e-9)


def test_no_mass_and_no_ratio():
    """Without mass under P or A there is none; without mass under B alone Q follows P."""
    p, a, b = np.array([[0.0, 0.5, 0.25, 0.25], [0.3, 0.0, 0.3, 0.4], [0.2, 0.4, 0.4, 0.0]])
    with np.errstate(divide="ignore"):
        found = difference(np.log(p), np.log(a), np.log(b), 1.0)
    weights = np.array([0.0, 0.0, 0.25 * 0.3 / 0.4, 0.25])
    np.testing.assert_allclose(np.exp(found), weights / weights.sum())


def test_it_is_what_full_softmaxes_give(whole):
    """Both models in float64 on every response, against tables of float32 passes."""
    student, strong = (
        AutoModelForCausalLM.from_pretrained(resolve_model(name)).double().eval()
        for name in ("demo:student", "demo:strong")
    )
    run, found = run_of(whole), dense(whole, HALF)
    checked = 0
    for question in whole.table("questions").to_dict("records"):
        spines = whole.table("spines", question_id=question["question_id"])
        for spine in spines.to_dict("records"):
            ids = [*question["prompt_ids"], *spine["token_ids"]]
            with torch.no_grad():
                p_LV, a_LV = (
                    model(torch.tensor([ids])).logits[0][:, run.tokens.mask(np.arange(259))]
                    .softmax(-1).numpy()
                    for model in (student, strong)
                )  # fmt: skip
            for position in range(len(spine["token_ids"])):
                name = f"{spine['spine_id']}/{position}"
                if name in found:
                    at = len(question["prompt_ids"]) + position - 1
                    expected = direct(p_LV[at], a_LV[at], p_LV[at], 0.5)
                    log_p, log_q = found[name]
                    np.testing.assert_allclose(log_p, np.log(p_LV[at]), atol=FLOAT32, rtol=FLOAT32)
                    np.testing.assert_allclose(log_q, np.log(expected), atol=FLOAT32, rtol=FLOAT32)
                    checked += 1
    assert checked == len(found) > 5


def test_reverse_kl_is_the_difference_of_both(whole):
    """Log Q - log P is log A - log B and a constant, so that `opd` is linear in it."""
    table = whole.table("directions")
    opd = table[table["method"] == "opd"]
    by = {
        teacher: own.set_index("node_id")["direction"]
        for teacher, own in opd.groupby("teacher", observed=True)
    }
    size = 0.0
    for node, direction in by[TOLD].items():
        true, false = by["self+answer"][node], by["self+wrong-answer"][node]
        np.testing.assert_allclose(direction, true - false, atol=1e-6)
        size = max(size, float(np.abs(direction).max()))
        np.testing.assert_allclose(
            by[HALF][node], 0.5 * (by["demo:strong"][node] - by["self"][node]), atol=1e-6
        )
    assert size > 0.01


def test_a_teacher_minus_itself_has_no_direction(whole):
    for log_p, log_q in dense(whole, NONE).values():
        np.testing.assert_allclose(log_q, log_p, atol=1e-6)
    aligned = whole.alignment[whole.alignment["teacher"] == NONE]
    assert set(aligned["method"]) == {"gkd", "opd"}
    assert aligned["cosine"].isna().all()
    reasons = Counter(reason.partition(":")[0] for reason in aligned["reason"])
    assert set(reasons) <= {"zero_method", "flat"}
    assert reasons["zero_method"] > 0
    assert any(f"{NONE} is a teacher minus itself" in line for line in warnings_of(whole))


def warnings_of(report) -> list[str]:
    return report.metadata["resolved"]["warnings"]


def test_a_teacher_minus_the_student_is_that_teacher():
    """Q is P A / P where the student draws at temperature 1: it is said, and so is A minus A."""
    teachers = ["demo:strong", "self", "demo:student+answer", "self+answer"]

    def said(delta: str, **more) -> str:
        settings = {**SETTINGS, "teachers": [*teachers, delta], "output_dir": "run", **more}
        return " ".join(delta_warnings(ScoreConfig.build(settings), 259))

    assert "is demo:strong: what is taken away" in said("delta:demo:strong,self")
    assert "what is taken away" not in said("delta:demo:strong,self", temperature=0.7)
    assert "what is taken away" not in said(HALF)
    assert "what is taken away" not in said("delta:self,demo:strong")
    assert "minus itself" in said("delta:self+answer,demo:student+answer")
    assert "minus itself" not in said("delta:self+answer,self")
    strong = "delta:self+answer,self,a=2"
    assert "--support-size 128 is of 259" in said(strong, support_size=128)
    assert "--support-size" not in said(strong)
    assert "--support-size" not in said(HALF, support_size=128)


def test_methods_that_need_more_are_left_out_for_it_alone(whole):
    methods = {
        teacher: set(own["method"])
        for teacher, own in whole.summary.groupby("teacher", observed=True)
    }
    for label in (TOLD, HALF, NONE):
        assert methods[label] == {"gkd", "opd"}
    assert methods["demo:strong"] == {"gkd", "opd", "opsd", "minillm"}
    said = " ".join(warnings_of(whole))
    assert "minillm is left out for delta:" in said
    assert "opsd is left out for delta:" in said


def test_the_rest_is_one_token(whole, small):
    """With few tokens kept, all three masses of the rest make the mass of Q's."""
    parts = {
        HALF: ("demo:strong", "self", 0.5),
        TOLD: ("self+answer", "self+wrong-answer", 1.0),
    }
    table = small.table("distributions")
    rests = []
    for label, (first, second, strength) in parts.items():
        from_a, from_b = dense(whole, first), dense(whole, second)
        rows = table[table["teacher"] == label].to_dict("records")
        assert len(rows) == len(dense(whole, label))
        for row in rows:
            log_p, log_a = from_a[row["node_id"]]
            log_b = from_b[row["node_id"]][1]
            ids = row["token_ids"]
            assert set(np.argsort(-log_p)[:16]) <= set(ids)
            assert len(ids) + row["num_tail"] == 259
            outside = np.delete(np.arange(259), ids)
            p, a, b = (
                np.exp(np.r_[values[ids], np.logaddexp.reduce(values[outside])])
                for values in (log_p, log_a, log_b)
            )
            expected = direct(p, a, b, strength)
            found = np.r_[row["teacher_logprobs"], row["teacher_log_tail"]]
            np.testing.assert_allclose(np.exp(found), expected, rtol=1e-4, atol=1e-7)
            assert row["teacher_log_tail"] == pytest.approx(np.log(expected[-1]), abs=1e-3)
            assert np.exp(row["student_log_tail"]) == pytest.approx(p[-1], rel=1e-4)
            rests.append(expected[-1])
    assert sum(rest > 1e-6 for rest in rests) > 3
    nodes = small.alignment[small.alignment["teacher"] == TOLD]
    assert (nodes["norm_on_support"].dropna() < 1.0).any()


def test_against_the_plain_student_all_tokens_of_the_other_are_known(whole, small):
    """P is known on them: a strength above 1 is nearer to the whole than on shared tokens."""
    table = small.table("distributions")
    ids = {
        label: own.set_index("node_id")["token_ids"]
        for label, own in table.groupby("teacher", observed=True)
    }
    strong = dense(whole, "demo:strong")
    nearer = 0
    for label in (DOUBLE, MINUS):
        for row in table[table["teacher"] == label].to_dict("records"):
            name = row["node_id"]
            log_p, other = strong[name]
            log_a, log_b = (other, log_p) if label == DOUBLE else (log_p, other)
            raw = log_p + 2.0 * (log_a - log_b)
            q = np.exp(raw - np.logaddexp.reduce(raw))

            def on(some, log_p=log_p, log_a=log_a, log_b=log_b):
                """Return Q where all tokens but some are one, in float64."""
                rest = np.delete(np.arange(259), some)
                parts = [
                    np.r_[x[some], np.logaddexp.reduce(x[rest])] for x in (log_p, log_a, log_b)
                ]
                return direct(*map(np.exp, parts), 2.0)

            assert set(row["token_ids"]) == set(ids["demo:strong"][name])
            found = np.exp(np.r_[row["teacher_logprobs"], row["teacher_log_tail"]])
            np.testing.assert_allclose(found, on(row["token_ids"]), rtol=1e-3, atol=1e-6)
            shared = np.intersect1d(ids["demo:strong"][name], ids["self"][name])
            errors = [
                np.abs(on(some)[:-1] - q[some]).sum() + abs(on(some)[-1] - np.delete(q, some).sum())
                for some in (row["token_ids"], shared)
            ]
            assert errors[0] <= errors[1] + 1e-9
            nearer += errors[0] < 0.5 * errors[1]
    assert nearer > 0


def test_what_a_server_did_not_say_is_in_the_rest(whole, tmp_path):
    """A token that one teacher's table has no number for is null, and its mass in Q's tail."""
    folder = tmp_path / "run"
    shutil.copytree(whole.path, folder)
    report = gradalign.read_report(str(folder))
    run = run_of(report)
    shard = run.shards()[0]
    name = teacher_file(shard, "demo:strong")
    table = run.folder.read_table("distributions", name)
    rows = table.to_pylist()
    gone = 7
    tail = rows[0]["teacher_logprobs"][gone]
    rows[0]["teacher_logprobs"][gone], rows[0]["teacher_log_tail"] = None, tail
    changed = type(table).from_pylist(rows, schema=table.schema)
    run.folder.write_table("distributions", name, changed)
    own = folder / "distributions" / f"{teacher_file(shard, HALF)}.parquet"
    before = run.folder.read_table("distributions", teacher_file(shard, HALF)).to_pylist()[0]
    own.unlink()
    with DeltaTables().session(run) as work:
        work(shard, lambda *_: None)
    after = run.folder.read_table("distributions", teacher_file(shard, HALF)).to_pylist()[0]
    assert after["teacher_logprobs"][gone] is None
    assert after["teacher_log_tail"] == pytest.approx(before["teacher_logprobs"][gone], abs=1e-5)
    assert np.isneginf(after["student_log_tail"])
    assert after["num_tail"] == 0
    kept = np.delete(np.array(before["teacher_logprobs"]), gone)
    found = np.delete(np.array(after["teacher_logprobs"], dtype=float), gone)
    np.testing.assert_allclose(found, kept, atol=1e-6)


def test_no_diagnostic_asks_for_what_cannot_be_had(whole):
    """Alone it is told nothing of continuations, which another teacher's may be scored for."""
    advice = whole.table("diagnostics_summary")
    horizon = advice[(advice["mechanism"] == "horizon") & advice["teacher"].isin([TOLD, HALF])]
    assert len(horizon)
    assert not horizon["advice"].str.contains("continuations").any()


def test_positions_that_are_no_nodes_are_not_known(whole):
    tokens = whole.table("tokens")
    own = tokens[tokens["teacher"] == TOLD].set_index(["spine_id", "position"])
    read = tokens[tokens["teacher"] == "self+answer"]
    assert len(own) == len(read)
    nodes = whole.nodes.set_index(["spine_id", "position"]).index
    known = own["teacher_logprob"].notna()
    assert set(own.index[known]) == set(nodes)
    assert own["teacher_entropy"].isna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teachers": ["demo:strong", TOLD]}, "--teacher self\\+answer"),
        ({"teachers": ["self+answer", TOLD], "control": False}, "--teacher self\\+wrong-answer"),
        ({"teachers": ["self", "delta:self,demo:strong"]}, "--teacher demo:strong"),
        ({"methods": ["minillm", "opsd", "dr_grpo"]}, "--method"),
        ({"teachers": [*READ, HALF, "delta:demo:strong, self, a=0.50"]}, "the same teacher"),
        ({"teachers": [*READ, "delta:self"]}, "not the difference"),
    ],
)
def test_refused_before_any_work(change, message, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UsageError) as refused:
        gradalign.score(**{**WITH, **change}, output_dir=str(folder))
    assert re.search(message, str(refused.value))
    assert not folder.exists() or not list(folder.rglob("*.parquet"))


def test_teachers_of_other_tokens_have_no_difference(whole):
    spaces = {"demo:strong": EventSpace(((0, 259),)), "self": EventSpace(((0, 258),))}
    config = whole.config.model_copy(update={"teachers": ["demo:strong", "self", HALF]})
    with pytest.raises(UsageError, match="259 and 258"):
        check_made(config, spaces, [])


def test_it_costs_no_pass():
    plans = [gradalign.plan(**{**SETTINGS, "teachers": READ}), gradalign.plan(**WITH)]
    before, after = (plan.figures for plan in plans)
    for name in ("teacher_passes", "student_passes", "forced_tokens", "scored_tokens"):
        assert getattr(before, name) == getattr(after, name) > 0


def test_rescoring_and_resuming(whole, finished_runs, tmp_path):
    """Added to a finished run, and taken up after an interruption, it is as from the start."""
    folder = tmp_path / "later"
    plain = finished_runs.copy(folder, **{**SETTINGS, "teachers": READ})
    stages = plain.metadata["stages"]
    report = gradalign.rescore(str(folder), teachers=[TOLD, HALF, NONE])
    assert report.config.teachers == WITH["teachers"]
    assert_same_tables(folder, Path(whole.path))
    for name, stage in report.metadata["stages"].items():
        if stage["kind"] in ("sample", "branch", "continuations") or "distribute" in name:
            assert stage == stages[name], name  # nothing was read or drawn again

    lost = next((folder / "distributions").glob(f"*{teacher_file('', HALF)}.parquet"))
    kept = {path: path.stat().st_mtime_ns for path in (folder / "distributions").iterdir()}
    lost.unlink()
    gradalign.score(**WITH, output_dir=str(folder))
    assert_same_tables(folder, Path(whole.path))
    rewritten = {path for path, time in kept.items() if path.stat().st_mtime_ns != time}
    assert rewritten == {lost}


def test_alignment_in_the_weights(tmp_path):
    teachers = ["demo:strong", "self", "self+answer", TOLD, HALF]
    changed = {"teachers": teachers, "methods": ["opd"], "alignment": ["weights"], "limit": 3}
    settings = {**WITH, **changed}
    report = gradalign.score(**settings, output_dir=str(tmp_path / "run"))
    found = report.summary[report.summary["split"] == "all"].set_index(["teacher", "method"])
    assert np.isfinite(found.loc[(HALF, "opd"), "weights_gain"])
    recommended = report.recommend()
    assert {place.teacher for place in recommended.teachers} >= {TOLD, HALF}
    roles = {(item.teacher, item.role) for item in recommended.ranking}
    assert (TOLD, "candidate") in roles
