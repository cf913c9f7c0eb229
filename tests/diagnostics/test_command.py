"""`gradalign diagnose` and `score --diagnose`: what is computed when, and nothing twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gradalign.errors import RunError, UsageError
from gradalign.pipeline import diagnose_run
from gradalign_cli.main import main


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def tables_in(report):
    return {path.name for path in Path(report.path).iterdir() if path.name.startswith("diag")}


def test_by_default_everything_that_needs_no_sampling(small_run):
    assert tables_in(small_run) == {
        "diagnostics",
        "diagnostics_topk",
        "diagnostics_contexts",
        "diagnostics_horizon",
        "diagnostics_predictors",
        "diagnostics_summary",
    }


@pytest.mark.slow
def test_only_what_was_asked_for(prefix_run):
    assert tables_in(prefix_run) == {"diagnostics_prefix", "diagnostics_summary"}
    summary = prefix_run.table("diagnostics_summary")
    assert set(summary["mechanism"].astype(str)) == {"prefix"}
    stages = prefix_run.metadata["stages"]
    assert "continue prefixes: student" in stages
    assert not any(name.startswith(("diagnose", "score continuations")) for name in stages)


@pytest.mark.slow
def test_diagnose_adds_the_rest_to_a_finished_run(prefix_run, completed_run):
    assert "diagnostics_topk" in tables_in(completed_run)
    horizon = completed_run.table("diagnostics_horizon")
    assert sorted(set(horizon["gamma"])) == [0, 0.5, 0.9, 1]
    assert horizon["sequence_norm2"].notna().any()
    stages = completed_run.metadata["stages"]
    # No more sampling than was done before.
    before = prefix_run.metadata["stages"]
    for name in ("sample", "branch", "continue prefixes: student"):
        assert stages[name] == before[name]
    assert "score continuations: student" in stages


@pytest.mark.slow
def test_what_is_there_is_not_done_again(completed_run, capsys):
    stages = json.loads((Path(completed_run.path) / "run.json").read_text())["stages"]
    status, out, _ = run(
        capsys, "diagnose", completed_run.path, "--only", "horizon", "--only", "prefix", "--json"
    )
    assert status == 0
    assert json.loads((Path(completed_run.path) / "run.json").read_text())["stages"] == stages
    records = json.loads(out)
    found = {(row["mechanism"], row["diagnostic"]) for row in records}
    assert {("prefix", "drop"), ("horizon", "relative_bias")} <= found
    assert {name for name, _ in found} == {"horizon", "prefix"}
    status, out, _ = run(capsys, "diagnose", completed_run.path, "--full", "--display", "none")
    assert status == 0
    for word in ("overlap", "k=16,renorm", "relative_bias", "(student)", "best_predictor"):
        assert word in out


@pytest.mark.slow
def test_a_later_diagnosis_equals_an_early_one(completed_run, prefix_run, finished_runs):
    """The same run with everything from the start."""
    config = prefix_run.config.model_dump(exclude={"output_dir"})
    early = finished_runs.get(**config | {"diagnose": ["all"]})
    for name in ("topk", "horizon", "prefix", "predictors", "summary"):
        one, other = (r.table(f"diagnostics_{name}") for r in (early, completed_run))
        assert len(one) == len(other)
        for column in one.select_dtypes("number"):
            np.testing.assert_array_equal(one[column], other[column], err_msg=column)


def test_diagnosing_nothing(tmp_path, capsys):
    from runs import TINY, flags

    folder = str(tmp_path / "bare")
    settings = {**TINY, "methods": ["opd"], "teachers": ["self+answer"]}
    status, _, _ = run(
        capsys,
        "score",
        *flags(settings),
        "--output-dir",
        folder,
        "--display",
        "none",
    )
    assert status == 0
    assert not [path for path in Path(folder).iterdir() if path.name.startswith("diag")]
    # Without scores of continuations a default diagnosis stays at the token level.
    report = diagnose_run(folder, ["topk"])
    assert len(report.table("diagnostics_topk"))


def test_mistakes(small_run, tmp_path, capsys):
    status, _, err = run(capsys, "diagnose", small_run.path, "--only", "topp")
    assert status == 2
    assert "topp" in err
    assert "prefix" in err
    with pytest.raises(UsageError, match="topp"):
        diagnose_run(small_run.path, ["topp"])
    with pytest.raises(RunError, match=r"run\.json"):
        diagnose_run(str(tmp_path))
    copy = tmp_path / "unfinished"
    shutil.copytree(small_run.path, copy)
    log = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**log, "status": "running"}))
    with pytest.raises(RunError, match="not finished"):
        diagnose_run(str(copy))


def test_help_states_the_cost_of_sampling(capsys):
    status, out, _ = run(capsys, "diagnose", "--help")
    assert status == 0
    assert "6 + 8 x teachers per spine" in " ".join(out.replace("│", " ").split())
