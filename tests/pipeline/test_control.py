"""The control that a run scores beside its teachers: the student, told something false."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from runs import SMALL, TINY

import gradalign
from gradalign.config import ScoreConfig
from gradalign.contexts import CONTROL, controls_beside
from gradalign.errors import UsageError
from gradalign.report.arms import best_arm, shown_arm
from gradalign.report.gate import check, check_ahead
from gradalign.stages.preparation.start import check_only

WITH = {**SMALL, "control": True}


@pytest.fixture(scope="module")
def run(finished_runs):
    return finished_runs.get(**WITH)


def own(report, table):
    """Return a table's rows without the control's."""
    frame = report.table(table)
    return frame[frame["teacher"].astype(str) != CONTROL].reset_index(drop=True)


def settings(tmp_path, **changed):
    values = {**TINY, "control": True, "output_dir": str(tmp_path / "run"), **changed}
    return ScoreConfig.build(values)


def test_a_run_has_one_unless_told_otherwise():
    code = "from gradalign.config import ScoreConfig; print(ScoreConfig.model_fields['control'])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "default=True" in printed


def test_numbers_of_named_teachers_are_those_of_a_run_without_it(run, small_run):
    assert set(run.summary["teacher"]) == {*small_run.summary["teacher"], CONTROL}
    for table in ("nodes", "branches", "continuations", "spines", "positions"):
        assert run.table(table).equals(small_run.table(table)), table
    for table in ("alignment", "branch_teachers", "directions", "distributions", "tokens"):
        assert own(run, table).equals(own(small_run, table)), table


def test_it_is_named_among_the_rest_of_the_verdict(finished_runs):
    enough = {"methods": ["gkd"], "limit": 8, "nodes": 8, "diagnose": ["none"]}
    result = finished_runs.get(**{**WITH, **enough}).recommend()
    assert [pair.second for pair in result.controls] == [CONTROL]
    assert result.controls[0].first == result.teachers[0].teacher
    assert all(place.teacher != CONTROL for place in result.teachers)
    assert not result.headline.startswith("Leading, no control")


def test_it_is_left_out_with_a_warning_where_a_question_has_no_answer(tmp_path, monkeypatch):
    (tmp_path / "short_answers.py").write_text("def short(text, question): return len(text) < 9\n")
    monkeypatch.syspath_prepend(tmp_path)
    rows = [{"id": "a", "prompt": "12+34=", "answer": "46"}, {"id": "b", "prompt": "1+2="}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = settings(tmp_path, task=str(file), verifier="short_answers:short", limit=2)
    resolved = check_only(config).resolved
    assert resolved.controls == []
    assert [line for line in resolved.warnings if CONTROL in line and "left out" in line]


def test_it_is_left_out_where_no_answer_can_be_made_false(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"id": "a", "prompt": "12+34=", "answer": "a word"}) + "\n")
    resolved = check_only(settings(tmp_path, task=str(file), verifier="exact")).resolved
    assert resolved.controls == []
    assert [line for line in resolved.warnings if "can be made false" in line]


def test_a_length_that_was_asked_for_is_kept(tmp_path):
    plain = check_only(settings(tmp_path, control=False)).resolved
    default = check_only(settings(tmp_path)).resolved
    assert default.controls == [CONTROL]
    assert default.max_tokens <= plain.max_tokens
    asked = check_only(settings(tmp_path, max_tokens=plain.max_tokens)).resolved
    assert asked.max_tokens == plain.max_tokens
    shrinks = default.max_tokens < plain.max_tokens
    assert asked.controls == ([] if shrinks else [CONTROL])
    assert any("leaves room for" in line for line in asked.warnings) is shrinks


def test_a_named_one_takes_its_place(tmp_path):
    named = settings(tmp_path, teachers=["demo:strong", "demo:weak+wrong-answer"])
    assert check_only(named).resolved.controls == []


def test_rescoring_counts_it_as_scored(finished_runs, tmp_path):
    report = finished_runs.copy(tmp_path / "copy", **{**TINY, "control": True})
    with pytest.raises(UsageError, match="nothing new"):
        gradalign.rescore(report.path, teachers=[CONTROL])
    after = gradalign.rescore(report.path, teachers=["demo:weak", "demo:weak+wrong-answer"])
    assert list(dict.fromkeys(after.summary["teacher"])) == [
        "demo:strong", "demo:weak", "demo:weak+wrong-answer", CONTROL
    ]  # fmt: skip


def test_more_questions_get_it_too(finished_runs, tmp_path):
    asked = {**TINY, "control": True, "max_tokens": 64}
    report = finished_runs.copy(tmp_path / "copy", **asked)
    more = gradalign.score(**{**asked, "limit": 2}, output_dir=report.path)
    shown = more.table("tokens")
    spines = shown[shown["teacher"].astype(str) == CONTROL]["spine_id"].nunique()
    assert spines == len(more.spines) == 2


def test_a_gate_is_about_it_only_by_its_name(run):
    everything = check(run, ["pooled[gkd@*]>=-1"])
    assert {outcome.name.partition(",")[0] for outcome in everything} == {
        "gkd@demo:strong",
        "gkd@self+answer",
    }
    assert len(check(run, [f"pooled[gkd@{CONTROL}]>=-1"])) == 1
    check_ahead([f"pooled[gkd@{CONTROL}]<=1"], run.config)
    with pytest.raises(UsageError, match="matches no teacher"):
        check_ahead([f"pooled[gkd@{CONTROL}]<=1"], run.config.model_copy(update={"control": False}))


def test_weights_and_figures_are_not_the_controls_by_default(run):
    """Even where the control has the highest pooled alignment."""
    summary = run.summary.copy()
    summary.loc[summary["teacher"] == CONTROL, "pooled"] = 0.999
    assert shown_arm(summary).teacher != CONTROL
    summary.loc[summary["teacher"] == "demo:strong", "pooled"] = 0.1
    assert best_arm(summary).teacher == "demo:strong"
    names = [trace.name for trace in run.plot.methods().data]
    assert f"{CONTROL} (control)" in names
    assert sum("(control)" in name for name in names) == 1


ALL = [CONTROL, "self+other-answer", "self+reference-free"]


def test_all_controls_are_those_that_the_teachers_call_for():
    def beside(*teachers, control=True, controls=True):
        return controls_beside(teachers, control=control, controls=controls)

    assert beside("demo:strong", "self+answer") == ALL
    assert beside("demo:strong", "self+answer", control=False) == ALL
    assert beside("demo:strong", "self+answer", controls=False) == [CONTROL]
    assert beside("demo:strong", control=False, controls=False) == []
    # A teacher that is told nothing of a question is its own words without it.
    assert beside("demo:strong", "self+system:be brief") == ALL[:2]
    # Once for a model, whatever it is told; and nothing that was named.
    told = ("self+answer", "self+solution", "m+answer", "self+other-answer", "m+wrong-answer")
    assert beside(*told) == ["self+reference-free", "m+reference-free"]
    assert beside("self+answer", "self+reference-free") == ALL[:2]


def test_all_controls_are_scored_and_judged(finished_runs, small_run, tmp_path):
    report = finished_runs.copy(tmp_path / "copy", **SMALL, controls=True)
    assert report.metadata["resolved"]["controls"] == ALL
    assert set(report.summary["teacher"]) == {*small_run.summary["teacher"], *ALL}
    for table in ("nodes", "branches", "continuations", "spines"):
        assert report.table(table).equals(small_run.table(table)), table
    result = report.recommend()
    roles = {item.teacher: item.role for item in result.ranking}
    assert [roles[name] for name in ALL] == ["control", "control", "candidate"]
    enough = {"methods": ["gkd"], "limit": 24, "nodes": 6, "shard_size": 12, "diagnose": ["none"]}
    larger = finished_runs.get(**SMALL | enough, controls=True).recommend()
    assert [pair.second for pair in larger.controls] == ALL[:2]
    told = {(pair.first, pair.second) for pair in larger.information}
    assert told == {("self+answer", "self+reference-free")}
    # A condition on every teacher is not about them; and the run goes on as it was.
    everything = check(report, ["pooled[gkd@*]>=-1"])
    assert {outcome.name.partition(",")[0] for outcome in everything} == {
        "gkd@demo:strong",
        "gkd@self+answer",
    }
    check_ahead([f"pooled[gkd@{ALL[2]}]<=1"], report.config)
    before = report.summary
    again = gradalign.score(**SMALL, controls=True, output_dir=report.path)
    assert again.summary.equals(before)
    more = gradalign.rescore(report.path, methods=["opsd"])
    assert set(more.summary.query("method == 'opsd'")["teacher"]) >= set(ALL)


def test_what_cannot_be_made_is_left_out_with_a_warning(tmp_path):
    """With one question there is no other one's answer."""
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"id": "a", "prompt": "12+34=", "answer": "46"}) + "\n")
    asked = {"task": str(file), "verifier": "exact", "teachers": ["self+answer"]}
    resolved = check_only(settings(tmp_path, **asked, controls=True)).resolved
    assert resolved.controls == [CONTROL, "self+reference-free"]
    assert [line for line in resolved.warnings if "self+other-answer is left out" in line]


def test_a_run_of_an_older_version_has_its_control(finished_runs, tmp_path):
    report = finished_runs.copy(tmp_path / "copy", **{**TINY, "control": True})
    file = tmp_path / "copy" / "run.json"
    data = json.loads(file.read_text())
    assert data["resolved"].pop("controls") == [CONTROL]
    data["resolved"]["control"] = CONTROL
    file.write_text(json.dumps(data))
    assert not check(gradalign.read_report(report.path), ["pooled[gkd@*]>=-1"])[1:]
    after = gradalign.rescore(report.path, methods=["opd"])
    assert CONTROL in set(after.summary.query("method == 'opd'")["teacher"])
