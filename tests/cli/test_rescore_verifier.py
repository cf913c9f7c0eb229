"""Stored responses and rollouts judged by another verifier, without a model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from runs import SMALL, assert_same_tables, tables

import gradalign
from gradalign.errors import RunError
from gradalign.report.report import Report
from gradalign_cli.main import main

SETTINGS = {**SMALL, "methods": ["gkd", "minillm"], "shard_size": 2}
UNIFORM = {**SETTINGS, "allocation": "uniform", "diagnose": ["none"]}


KEY = ["node_id", "candidate_id", "index"]
PLACES = ("gradalign.stages.student.open_engine", "gradalign.stages.teachers.loaded_model")


@contextmanager
def no_model() -> Iterator[None]:
    """Whatever opens a model or an engine fails."""

    def refuse(*_, **__):
        raise AssertionError("a model was opened")

    with pytest.MonkeyPatch.context() as patch:
        for place in PLACES:
            patch.setattr(place, refuse)
        yield


def judge(folder: Path, verifier: str) -> Report:
    with no_model():
        return gradalign.rescore(str(folder), verifier=verifier, display="none")


def without_verdicts(folder: Path, into: Path) -> Path:
    """Copy a run without what it keeps of former verifiers."""
    shutil.copytree(folder, into)
    shutil.rmtree(into / "verdicts")
    return into


@pytest.mark.parametrize("settings", [SETTINGS, UNIFORM], ids=["neyman", "uniform"])
def test_its_own_verifier_changes_nothing(finished_runs, tmp_path, settings):
    folder = Path(finished_runs.copy(tmp_path / "run", **settings).path)
    report = judge(folder, "demo:addition")
    assert report.metadata["status"] == "done"
    assert not report.table("nodes")["other_allocation"].any()
    before = Path(finished_runs.get(**settings).path)
    assert_same_tables(without_verdicts(folder, tmp_path / "bare"), before)


def test_another_gives_what_a_fresh_run_with_it_gives(finished_runs, tmp_path):
    folder = Path(finished_runs.copy(tmp_path / "run", **UNIFORM).path)
    with no_model(), pytest.raises(SystemExit) as stop:
        main(["rescore", str(folder), "--verifier", "lenient:near", "--display", "none"])
    assert not stop.value.code
    report = gradalign.read_report(str(folder))
    assert report.config.verifier == "lenient:near"
    before = finished_runs.get(**UNIFORM)
    changed = report.table("spines")["correct"] != before.table("spines")["correct"]
    assert changed.any()
    assert not report.table("nodes")["other_allocation"].any()

    kept = report.table("verdicts")
    assert set(kept["verifier"]) == {"demo:addition"}
    responses = kept[kept["node_id"].isna()]
    assert responses["reward"].tolist() == before.table("spines")["reward"].tolist()
    rollouts = kept[kept["node_id"].notna()]
    assert rollouts["reward"].tolist() == before.table("continuations")["reward"].tolist()


@pytest.mark.slow
def test_tables_of_another_are_those_of_a_fresh_run(finished_runs, tmp_path):
    """Also where verifications fail, which asks for further rollouts, now or then."""
    other = {**UNIFORM, "verifier": "lenient:near"}
    fails = {**UNIFORM, "verifier": "lenient:fails_at_times", "max_verifier_failures": 1.0}
    for what, begin, fresh in (
        ("other", UNIFORM, other),
        ("failing", fails, {**other, "max_verifier_failures": 1.0}),
    ):
        folder = Path(finished_runs.copy(tmp_path / what, **begin).path)
        gradalign.rescore(str(folder), verifier="lenient:near", display="none")
        judged = tables(folder)
        expected = tables(Path(finished_runs.get(**fresh).path))
        assert {n for n in judged if not n.startswith("verdicts")} == set(expected)
        spare = set()
        # `continuations` comes before the scores of those that are used no more.
        for table, frame in sorted(expected.items(), key=lambda one: "_scores" in one[0]):
            found = judged[table]
            if table.startswith("continuations"):
                unused = found["reward"].isna() & (found["verifier_error"] == "")
                assert found.loc[unused, "replaces"].all()
                spare |= set(found.loc[unused, KEY].itertuples(index=False, name=None))
                found = found[~unused].reset_index(drop=True)
            if table.startswith("continuation_scores"):
                rows = found[KEY].itertuples(index=False, name=None)
                found = found[[row not in spare for row in rows]].reset_index(drop=True)
            if table.startswith("passes"):
                frame, found = (rows.drop(columns="continuation") for rows in (frame, found))
            pd.testing.assert_frame_equal(found, frame, check_exact=True, obj=table)
        assert bool(spare) == (what == "failing")


def test_and_back_again(finished_runs, tmp_path):
    """By rewards allotted rollouts are marked, and the first verifier's numbers return."""
    folder = Path(finished_runs.copy(tmp_path / "run", **SETTINGS).path)
    there = judge(folder, "lenient:near")
    marks = there.table("nodes").groupby("question_id", observed=True)["other_allocation"]
    assert marks.nunique().max() == 1
    assert there.table("nodes")["other_allocation"].any()
    judge(folder, "demo:addition")
    kept = gradalign.read_report(str(folder)).table("verdicts")
    assert set(kept["verifier"]) == {"demo:addition", "lenient:near"}
    one, other = tables(folder), tables(Path(finished_runs.get(**SETTINGS).path))
    for name, frame in other.items():
        left, right = (
            table.drop(columns="other_allocation", errors="ignore") for table in (one[name], frame)
        )
        pd.testing.assert_frame_equal(left, right, check_exact=True, obj=name)


def test_an_interruption_is_taken_up_without_a_model(finished_runs, tmp_path, monkeypatch):
    from gradalign.stages.branch import reverify

    folder = Path(finished_runs.copy(tmp_path / "run", **UNIFORM).path)
    write, written = reverify.write_branch_tables, []

    def once(*arguments):
        if written:
            raise KeyboardInterrupt
        written.append(arguments)
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(reverify, "write_branch_tables", once)
        with pytest.raises(KeyboardInterrupt):
            judge(folder, "lenient:near")
    with no_model():
        gradalign.score(**UNIFORM, verifier="lenient:near", output_dir=str(folder), display="none")
    whole = Path(finished_runs.copy(tmp_path / "whole", **UNIFORM).path)
    judge(whole, "lenient:near")
    assert_same_tables(folder, whole)


def test_teachers_that_saw_chosen_attempts_are_named(finished_runs, tmp_path):
    settings = {**SMALL, "teachers": ["self+sibling"], "methods": ["gkd"], "diagnose": ["none"]}
    folder = Path(finished_runs.copy(tmp_path / "run", **settings).path)
    before = tables(folder)
    with pytest.raises(RunError, match=r"self\+sibling") as refused:
        gradalign.rescore(str(folder), verifier="lenient:near")
    assert "--output-dir" in refused.value.hint
    after = tables(folder)
    assert after.keys() == before.keys()
    assert gradalign.read_report(str(folder)).metadata["status"] == "done"
