"""Runs in which a part is empty: no context to show, no signal, no teacher that differs."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report.made_run import write_run
from runs import flags

import gradalign
from gradalign.errors import UsageError
from gradalign.report.compare import compare_runs
from gradalign.report.gate import check
from gradalign.report.page import write_page
from gradalign_cli.main import main

METHODS = ["gkd", "gkd:beta=0", "minillm", "opd:top_k=4", "dr_grpo"]
TINY = {
    "student": "demo:student", "num_rollouts": 2, "nodes": 2, "continuations": 2,
    "max_tokens": 40, "bootstrap_resamples": 100, "engine": "transformers",
}  # fmt: skip


def questions(path, *pairs, names=("a", "b")):
    rows = [
        {"id": name, "prompt": prompt, "answer": answer}
        for name, (prompt, answer) in zip(names, pairs, strict=False)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run_main(capsys, *arguments):
    try:
        main(list(arguments))
        status = 0
    except SystemExit as stop:
        status = stop.code
    found = capsys.readouterr()
    assert "Traceback" not in found.err
    return status, found.out, found.err


@pytest.fixture(scope="module")
def unshown(tmp_path_factory):
    """A self-teacher that is to see another right response, where there is none."""
    folder = tmp_path_factory.mktemp("unshown")
    return gradalign.score(
        **TINY,
        task=questions(folder / "q.jsonl", ("31+42=", "none"), ("5+5=", "none")),
        verifier="exact",
        teachers=["self+sibling", "demo:strong"],
        methods=METHODS,
        shard_size=1,
        alignment="weights",
        diagnose=["overlap", "topk", "contexts", "horizon", "predictors"],
        output_dir=str(folder / "run"),
    )


def test_a_teacher_that_was_shown_nothing_ends_in_a_row_that_says_so(unshown, tmp_path):
    summary = unshown.summary.set_index(["teacher", "method", "split"])
    for method in METHODS[:4]:
        row = summary.loc[("self+sibling", method, "all")]
        assert row["num_nodes"] == 0
        assert np.isnan([row["pooled"], row["mean_cosine"], row["weights"]]).all()
        assert row["reason"] == "the teacher was shown no question (nothing to show)"
    assert summary.loc[("demo:strong", "gkd", "all")]["reason"] == "every position is flat"
    assert any("self+sibling" in line and "nothing to show" in line for line in unshown.footer())
    (outcome,) = check(unshown, ["pooled[gkd@self+sibling]<=1"])
    assert not outcome.passed
    assert "nothing to show" in outcome.message


def test_everything_that_reads_such_a_run_takes_it(unshown, tmp_path):
    assert unshown.recommend().verdict == "none"
    assert write_page(unshown, str(tmp_path / "page.html"), max_spines=4) > 0
    assert [row.to_dict()["difference"] for row in compare_runs(unshown, unshown)]
    json.dumps(unshown.recommend().to_dict(), allow_nan=False)


def test_one_outcome_in_two_is_no_signal(tmp_path, capsys):
    """Two continuations that end differently: |g|^2 is its noise, to the last digit or not."""
    folder = tmp_path / "run"
    task = questions(tmp_path / "q.jsonl", ("21+34=", "55"), names=["x"])
    command = {
        **TINY, "num_rollouts": 1, "max_tokens": 60, "task": task, "methods": ["gkd"],
        "teachers": ["demo:strong"], "verifier": r"regex:(?:^|,)(\d+)$", "diagnose": "none",
        "output_dir": str(folder),
    }  # fmt: skip
    status, out, _ = run_main(capsys, "score", *flags(command))
    assert status == 0
    assert "the ideal gradient is not above its noise" in " ".join(out.split())
    nodes = gradalign.read_report(str(folder)).nodes
    assert set(nodes["ideal_norm2"]) == {0.0}
    assert not nodes["flat"].all()
    text = "pooled[gkd@demo:strong]>=0.5"
    status, out, err = run_main(capsys, "check", str(folder), "--fail-under", text)
    assert status == 3
    assert "not above its noise" in err


def test_the_student_as_its_own_teacher_points_nowhere(tmp_path):
    report = gradalign.score(
        **TINY,
        limit=2,
        task="demo:addition",
        teachers=["self", "demo:student"],
        methods=METHODS,
        diagnose=["topk", "horizon"],
        output_dir=str(tmp_path / "run"),
    )
    of_teachers = report.alignment[report.alignment["teacher"] != ""]
    assert of_teachers["cosine"].isna().all()
    assert (of_teachers["method_norm2"] == 0).all()
    whole = report.summary[(report.summary["split"] == "all") & (report.summary["teacher"] != "")]
    assert whole["pooled"].isna().all()
    assert (whole["reason"] != "").all()


def test_conditions_are_held_against_the_settings_before_the_run(tmp_path, capsys):
    base = {
        **TINY, "task": "demo:addition", "limit": 1, "teachers": ["demo:strong"],
        "methods": ["gkd"], "output_dir": str(tmp_path / "run"),
    }  # fmt: skip
    cases = [
        (["--fail-under", "pooled[opd@demo:strong]>=0"], "matches no teacher and method"),
        (["--fail-under", "pooled[gkd@demo:strong,position:first]>=0"], "no run has a split"),
        (["--junit", str(tmp_path / "out.xml")], "no conditions"),
        (["--fail-under", "pooled[gkd@*]>=0", "--junit", str(tmp_path / "no" / "x")], "written"),
        (["--seed", "-1"], "--seed"),
    ]
    for more, words in cases:
        status, _, err = run_main(capsys, "score", *flags(base), *more)
        assert status == 2, more
        assert words in err
    assert not (tmp_path / "run").exists()


def test_a_confidence_that_no_interval_has(unshown):
    for level in (1.0, 0.0, float("nan")):
        with pytest.raises(UsageError, match="confidence"):
            unshown.recommend(level=level)
        with pytest.raises(UsageError, match="confidence"):
            compare_runs(unshown, unshown, level=level)


def test_a_comparison_of_runs_whose_positions_are_all_left_out(tmp_path):
    for name in ("one", "other"):
        write_run(tmp_path / name, {("t", "gkd"): 0.5}, questions=4, nodes=3)
    for path in (tmp_path / "other" / "alignment").glob("*.parquet"):
        table = pq.read_table(path)
        dot = pa.array(np.full(len(table), np.nan))
        pq.write_table(table.set_column(table.schema.get_field_index("dot"), "dot", dot), path)
    runs = [gradalign.read_report(str(tmp_path / name)) for name in ("one", "other")]
    (row,) = compare_runs(*runs)
    assert np.isnan([*row.difference.span, row.difference.p_value]).all()


def test_it_is_said_where_no_other_teacher_was_shown_anything_either(tmp_path):
    report = gradalign.score(
        **TINY,
        task=questions(tmp_path / "q.jsonl", ("31+42=", "none"), ("5+5=", "none")),
        verifier="exact",
        teachers=["self+sibling"],
        methods=["gkd"],
        diagnose=["none"],
        output_dir=str(tmp_path / "run"),
    )
    (row,) = report.summary.to_dict("records")
    assert row["reason"] == "the teacher was shown no question (nothing to show)"
