"""The public functions and the methods of a report do what the commands do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import gradalign
from gradalign.errors import RunError, UnknownNameError, UsageError
from gradalign_cli.main import main


def printed(capsys, *arguments):
    with pytest.raises(SystemExit):
        main(list(arguments))
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def copied(small_run, tmp_path_factory):
    """A run that may be changed."""
    folder = tmp_path_factory.mktemp("surface") / "run"
    shutil.copytree(small_run.path, folder)
    return folder


COMMANDS = ("score", "plan", "diagnose", "rescore", "compare", "read_report")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_function_also_beside_imported_modules(name):
    import gradalign.rescoring  # a module of this name would hide the function

    assert name in gradalign.__all__
    assert callable(getattr(gradalign, name))
    assert getattr(gradalign, name).__name__ == name


def test_public_functions_are_at_hand_without_a_model_library():
    code = (
        "import sys, gradalign\n"
        f"for name in {COMMANDS}: getattr(gradalign, name)\n"
        "print(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "vllm", "scipy.stats"} & set(done.stdout.split())


def test_rescore_adds_a_method(copied):
    report = gradalign.rescore(gradalign.read_report(str(copied)), methods="trl/gkd")
    assert "trl/gkd" in set(report.summary["method"])
    assert report.config.methods[-1] == "trl/gkd"
    with pytest.raises(UsageError, match="nothing new"):
        gradalign.rescore(str(copied), methods=["trl/gkd"])


def test_diagnose_computes_what_is_asked(copied):
    shutil.rmtree(copied / "diagnostics", ignore_errors=True)
    report = gradalign.diagnose(copied, "overlap")
    assert set(report.diagnostics_summary["mechanism"].astype(str)) >= {"overlap"}
    assert len(report.diagnostics)
    with pytest.raises(UsageError, match="unknown 'overlaps'"):
        gradalign.diagnose(copied, ["overlaps"])


@pytest.mark.parametrize("command", [gradalign.diagnose, gradalign.rescore])
def test_a_folder_without_a_run_is_left_as_it_is(command, tmp_path):
    with pytest.raises(RunError, match=r"run\.json"):
        command(tmp_path)
    assert not list(tmp_path.iterdir())


def test_compare_takes_reports_and_folders(small_run, capsys):
    rows = gradalign.compare(small_run, Path(small_run.path), level=0.9)
    assert [row.to_dict() for row in rows] == printed(
        capsys, "compare", small_run.path, small_run.path, "--level", "0.9", "--json"
    )
    assert {row.difference.value for row in rows} == {0.0}
    with pytest.raises(UsageError, match="level"):
        gradalign.compare(small_run, small_run, level=1.5)


def test_check_is_the_command(small_run, capsys):
    conditions = ["pooled[gkd@demo:strong]<=2", "pooled[*@*,correct]>=1.5"]
    outcomes = small_run.check(conditions)
    flags = [part for text in conditions for part in ("--fail-under", text)]
    assert [outcome.to_dict() for outcome in outcomes] == printed(
        capsys, "check", small_run.path, *flags, "--json"
    )
    assert {outcome.passed for outcome in outcomes} == {True, False}
    (first,) = small_run.check(conditions[0])
    assert first.to_dict() == outcomes[0].to_dict()
    with pytest.raises(UsageError, match="nothing to check"):
        small_run.check([])


def test_export_is_the_command(small_run, tmp_path):
    ours, theirs = tmp_path / "ours.parquet", tmp_path / "theirs.parquet"
    counts = small_run.export(
        str(ours), teacher="demo:strong", method="gkd", rule="drop", score="bound", threshold=0.1,
        elsewhere=0.5, spines="aligned", confidence=0.8,
    )  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main(
            f"export {small_run.path} -o {theirs} --teacher demo:strong --method gkd --rule drop "
            "--score bound --threshold 0.1 --elsewhere 0.5 --spines aligned --confidence 0.8"
            .split()
        )  # fmt: skip
    assert stop.value.code == 0
    frame = pd.read_parquet(ours)
    pd.testing.assert_frame_equal(frame, pd.read_parquet(theirs))
    assert counts["responses"] == len(frame)


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"rule": "kept"}, "--rule 'kept'"),
        ({"score": "upper"}, "--score 'upper'"),
        ({"spines": "right"}, "--spines 'right'"),
        ({"file_format": "csv"}, "--format 'csv'"),
    ],
)
def test_export_refuses_a_choice_that_it_does_not_have(small_run, tmp_path, setting, flag):
    with pytest.raises(UsageError, match=flag):
        small_run.export(str(tmp_path / "weights"), **setting)
    assert not list(tmp_path.iterdir())


def test_to_html_writes_the_page(copied, tmp_path):
    report = gradalign.read_report(copied)
    assert report.to_html() == str(copied / "report.html")
    assert (copied / "report.html").read_text().startswith("<!doctype html>")
    place = str(tmp_path / "page.html")
    assert report.to_html(place, max_spines=1) == place
    assert Path(place).stat().st_size < (copied / "report.html").stat().st_size
    with pytest.raises(UsageError, match="max_spines 0"):
        report.to_html(place, max_spines=0)


def test_an_unknown_method_is_named(copied):
    with pytest.raises(UnknownNameError, match="gdk"):
        gradalign.rescore(copied, methods=["gdk"])
