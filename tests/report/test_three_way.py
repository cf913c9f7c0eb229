"""Conditions: passed, failed, or left open by the questions that there are."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pyarrow as pa
import pytest

import gradalign
from gradalign.report.gate import github_annotations, junit, warnings_of
from gradalign.store.folder import RunFolder
from gradalign.store.schema import SCHEMA_VERSION, schema
from gradalign_cli.main import main

COLUMNS = {"pooled": (0.30, 0.20, 0.40), "weights": (None, -0.1, 1.0)}


@pytest.fixture
def run(tmp_path):
    """A run folder with a summary of one arm: 0.30 [0.20, 0.40] from 50 questions."""
    folder = RunFolder(str(tmp_path / "run"))
    folder.write_json(
        "run.json",
        {"schema_version": SCHEMA_VERSION, "status": "done", "config": {"seed": 0}, "totals": {}},
    )
    row = dict.fromkeys(schema("summary").names)
    row |= {"teacher": "strong", "method": "gkd", "split": "all", "num_questions": 50}
    for name, span in COLUMNS.items():
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), span, strict=True))
    row |= {"coverage": 0.9, "reason": ""}
    folder.write_summary(pa.Table.from_pylist([row], schema=schema("summary")))
    return gradalign.read_report(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("condition", "status", "questions"),
    [
        ("pooled_low[gkd@strong]>=0.2", "pass", None),
        ("pooled_low[gkd@strong]>0.2", "undecided", 50),
        ("pooled_low[gkd@strong]>=0.25", "undecided", 200),  # 4 times as many: half the width
        ("pooled[gkd@strong]>=0.25", "undecided", 200),
        ("pooled_low[gkd@strong]>=0.35", "undecided", 200),
        ("pooled_low[gkd@strong]>=0.3", "undecided", None),  # just there: no number would do
        ("pooled_low[gkd@strong]>=0.41", "fail", None),
        ("pooled_high[gkd@strong]<=0.4", "pass", None),
        ("pooled[gkd@strong]<=0.35", "undecided", 200),
        ("pooled[gkd@strong]<0.2", "fail", None),
        ("pooled_high[gkd@strong]>=0.39", "pass", None),  # the end itself is asked for
        ("weights[gkd@strong]>=0", "undecided", None),  # an interval without a value
        ("weights[gkd@strong]>=-0.2", "pass", None),
        ("coverage[gkd@strong]>=0.8", "pass", None),
        ("coverage[gkd@strong]>=0.95", "fail", None),
        ("weights_gain[gkd@strong]>=0", "fail", None),  # neither value nor interval
    ],
)
def test_the_interval_decides(run, condition, status, questions):
    (outcome,) = run.check(condition)
    assert outcome.status == status
    assert outcome.passed == (status == "pass")
    assert outcome.to_dict()["questions"] == (
        questions if questions is None else pytest.approx(questions, abs=1)
    )


@pytest.mark.parametrize(
    ("conditions", "code"),
    [
        (["pooled_low[gkd@strong]>=0.1"], 0),
        (["pooled_low[gkd@strong]>=0.1", "pooled_low[gkd@strong]>=0.25"], 5),
        (["pooled_low[gkd@strong]>=0.25", "pooled_low[gkd@strong]>=0.5"], 3),
    ],
)
def test_open_conditions_have_an_exit_status_of_their_own(run, capsys, conditions, code):
    flags = [part for text in conditions for part in ("--fail-under", text)]
    with pytest.raises(SystemExit) as stop:
        main(["check", run.path, *flags])
    out, err = capsys.readouterr()
    assert stop.value.code == code
    assert ("undecided" in out) == (len(conditions) == 2)
    assert ("about 200 questions would decide" in err) == (code == 5)
    with pytest.raises(SystemExit) as stop:
        main(["check", run.path, *flags, "--json"])
    assert stop.value.code == code
    assert [item["status"] for item in json.loads(capsys.readouterr().out)] == [
        outcome.status for outcome in run.check(conditions)
    ]


def test_continuous_integration_is_told(run):
    outcomes = run.check(["pooled_low[gkd@strong]>=0.25", "pooled_low[gkd@strong]>=0.5"])
    kinds = [line.split()[0] for line in github_annotations(outcomes)]
    assert kinds == ["::warning", "::error"]
    suite = ElementTree.fromstring(junit(outcomes, "run")).find("testsuite")
    assert suite is not None
    assert (suite.get("failures"), suite.get("errors")) == ("1", "1")


def test_point_values_are_warned_of():
    assert warnings_of(["pooled_low[gkd@strong]>=0.1", "weights_high[gkd@strong]<=0.1"]) == []
    (point,) = warnings_of(["pooled[gkd@strong]>=0.1"])
    assert "judged by its interval" in point
    (bare,) = warnings_of(["positive_share[gkd@strong]>=0.1"])
    assert "two runs disagree half" in bare
