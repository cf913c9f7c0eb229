"""The commands that read a finished run."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from runs import SMALL, flags

from gradalign.errors import UsageError
from gradalign.report.gate import parse_condition
from gradalign.report.terminal.question import colour
from gradalign_cli.main import main


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def share_above_0(report, teacher, method):
    rows = report.summary.set_index(["teacher", "method", "split"])
    return float(rows.at[(teacher, method, "all"), "positive_share"])


@pytest.mark.parametrize(
    ("text", "method", "teacher", "split", "comparison", "threshold"),
    [
        ("pooled[gkd@demo:strong,incorrect]>=0.1", "gkd", "demo:strong", "incorrect", ">=", 0.1),
        ("pooled_low[opd:top_k=16,norm=tail@a/B]>-1e-2", "opd:top_k=16,norm=tail", "a/B", "all",
         ">", -0.01),
        ("mean_cosine [random] <= 0.2", "random", "", "all", "<=", 0.2),
        ("pooled[gkd@Qwen3-8B,entropy:high]=0.1", "gkd", "Qwen3-8B", "entropy:high", ">=", 0.1),
    ],
)  # fmt: skip
def test_conditions_are_read(text, method, teacher, split, comparison, threshold):
    found = parse_condition(text)
    assert (found.method, found.teacher, found.split) == (method, teacher, split)
    assert (found.comparison, found.threshold) == (comparison, threshold)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pooled>0.1", "not a condition"),
        ("poled[gkd]>0.1", "no column 'poled'"),
        ("pooled[gkd]>much", "not a number"),
        ("pooled[gkd]>nan", "not a number"),
        ("pooled[@x]>0", "names no method"),
    ],
)
def test_conditions_that_cannot_be_read(text, message):
    with pytest.raises(UsageError, match=message):
        parse_condition(text)


def test_check_passes_and_fails(capsys, small_run):
    value = share_above_0(small_run, "demo:strong", "gkd")
    good = f"positive_share[gkd@demo:strong]>={value - 0.01}"
    bad = f"positive_share[gkd@demo:strong]>={value + 0.01}"
    status, out, err = run(capsys, "check", small_run.path, "--fail-under", good)
    assert status == 0
    assert err.count("\n") == 1  # a point value is warned of
    assert "ok" in out
    status, out, err = run(
        capsys, "check", small_run.path, "--fail-under", good, "--fail-under", bad
    )
    assert status == 3
    assert out.index("FAILED") < out.index("ok")
    assert "1 of 2 conditions failed" in err
    assert f"{value:.4g}" in err


def test_a_value_that_is_not_there_fails(capsys, small_run):
    condition = f"pooled_low[gkd@demo:strong,question:{small_run.question_ids[0]}]>=-5"
    status, out, _ = run(capsys, "check", small_run.path, "--fail-under", condition, "--json")
    assert status == 3
    assert json.loads(out)[0]["value"] is None


def test_patterns_try_every_match(capsys, small_run):
    status, out, _ = run(
        capsys, "check", small_run.path, "--fail-under", "pooled[*@*]<=1.5", "--json"
    )
    names = {record["name"] for record in json.loads(out)}
    arms = small_run.summary.query("split == 'all' and teacher != ''")
    assert names >= {f"{row.method}@{row.teacher},all" for row in arms.itertuples()}
    assert status in {0, 3}


def test_an_arm_that_is_not_there(capsys, small_run):
    status, _, err = run(capsys, "check", small_run.path, "--fail-under", "pooled[gkd@nobody]>0")
    assert status == 2
    assert "gkd@demo:strong" in err
    status, _, err = run(
        capsys, "check", small_run.path, "--fail-under", "pooled[gkd@*,entropy:odd]>0"
    )
    assert status == 2
    assert "entropy:high" in err


def test_github_annotations_and_junit(capsys, small_run, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    file = tmp_path / "out.xml"
    status, out, err = run(
        capsys, "check", small_run.path, "--fail-under", "pooled[gkd@demo:strong]>=2",
        "--fail-under", "pooled[gkd@demo:strong]<=2", "--junit", str(file), "--json",
    )  # fmt: skip
    assert status == 3
    assert [line for line in err.splitlines() if line.startswith("::error title=gradalign::")]
    assert len(json.loads(out)) == 2
    suite = ElementTree.parse(file).getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert len(suite.findall("testcase/failure")) == 1


def test_score_fails_under_a_threshold(capsys, small_copy, small_run):
    command = ["score", *flags(SMALL), "--output-dir", small_copy.path, "--json"]
    status, out, err = run(capsys, *command, "--fail-under", "pooled[gkd@demo:strong]>=2")
    assert status == 3
    assert len(json.loads(out)) == len(small_run.summary)
    assert "FAILED" in err
    status, _, err = run(capsys, *command, "--fail-under", "pooled[gkd")
    assert status == 2
    assert "not a condition" in err


def test_recommend_prints_what_python_gives(capsys, small_run):
    result = small_run.recommend()
    status, out, _ = run(capsys, "recommend", small_run.path)
    assert status == 0
    assert result.headline.split(":")[0] in " ".join(out.split())
    status, out, _ = run(capsys, "recommend", small_run.path, "--json")
    data = json.loads(out)
    assert data["headline"] == result.headline
    assert [row["method"] for row in data["ranking"]] == [row.method for row in result.ranking]


def test_show_lists_and_shows(capsys, small_run):
    status, out, _ = run(capsys, "show", small_run.path, "--questions")
    assert status == 0
    assert all(question in out for question in small_run.question_ids)
    question = small_run.question_ids[0]
    node = small_run.table("nodes", question_id=question).iloc[0]
    position = int(node["position"])
    status, out, _ = run(
        capsys, "show", small_run.path, "--question", question, "--position", str(position)
    )
    assert status == 0
    text = small_run.table("spines", question_id=question)["text"].iloc[0]
    assert text in out
    assert "Q demo:strong" in out
    assert "\x1b" not in out
    status, _, err = run(capsys, "show", small_run.path, "--question", "nothing")
    assert status == 2
    assert question in err


TORN = ("alignment", "nodes", "tokens", "branches", "spines", "questions", "directions")


@pytest.mark.parametrize("table", [*TORN, "diagnostics_summary"])
def test_a_torn_file_is_named_by_every_command_and_the_rest_is_there(
    capsys, small_run, tmp_path, table
):
    folder, question = tmp_path / "run", small_run.question_ids[0]
    shutil.copytree(small_run.path, folder)
    torn = sorted((folder / table).glob("*.parquet"))[0]
    torn.write_bytes(torn.read_bytes()[:-9])
    page, weights = tmp_path / "page.html", tmp_path / "weights.parquet"
    bound = ["--score", "bound"]
    commands = {
        "recommend": [],
        "report": ["-o", str(page)],
        "show": ["--question", question, "--position", "3"],
        "export": ["-o", str(weights), "--teacher", "demo:strong", "--method", "opd", *bound],
        "compare": [small_run.path],
    }
    named = []
    for command, arguments in commands.items():
        status, out, err = run(capsys, command, str(folder), *arguments)
        assert (status, bool(out)) == (0, True), command
        assert "Traceback" not in err
        warnings = [line for line in err.splitlines() if line.startswith("gradalign: warning:")]
        assert len(warnings) == len(set(warnings))
        if any(str(torn) in line for line in warnings):
            named.append(command)
        assert "torn" in err if command in named else "torn" not in err
    assert named
    assert "report" in named
    assert page.read_text().count("<section") == 10
    kept = pd.read_parquet(weights)
    lost = 1 if table in {"spines", "questions"} else 0
    assert kept["question_id"].nunique() == len(small_run.question_ids) - lost


def test_a_terminal_shows_colours(small_run):
    """In a real terminal: every node's token on the colour of its alignment."""
    question = small_run.question_ids[0]
    command = f"gradalign show {shlex.quote(small_run.path)} --question {question}"
    command += " --teacher demo:strong --method gkd"
    pty_env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "120"}
    parent, child = pty.openpty()
    # The same program as the installed command.
    program = [sys.executable, "-m", "gradalign_cli.main", *shlex.split(command)[1:]]
    process = subprocess.Popen(program, stdout=child, stderr=child, stdin=child, env=pty_env)
    os.close(child)
    written = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # the terminal is gone when the program ends
            break
        if not part:
            break
        written += part
    os.close(parent)
    assert process.wait() == 0
    text = written.decode()
    frame = small_run.table("alignment", question_id=question)
    own = frame[(frame["teacher"] == "demo:strong") & (frame["method"] == "gkd")]
    known = own[own["cosine"].notna()]
    assert len(known) > 0
    for cosine in known["cosine"]:
        shade = ";".join(str(int(colour(cosine)[i : i + 2], 16)) for i in (1, 3, 5))
        assert f"48;2;{shade}" in text


def test_report_and_export_write_files(capsys, small_run, tmp_path):
    page = tmp_path / "page.html"
    status, out, _ = run(capsys, "report", small_run.path, "--output", str(page))
    assert (status, out.strip()) == (0, str(page))
    assert page.read_text().startswith("<!doctype html>")
    file = tmp_path / "weights.jsonl"
    status, out, _ = run(
        capsys, "export", small_run.path, "-o", str(file), "--format", "jsonl", "--rule", "drop",
        "--teacher", "demo:strong", "--method", "gkd",
    )  # fmt: skip
    assert (status, out.strip()) == (0, str(file))
    assert len(file.read_text().splitlines()) == len(small_run.spines)
    status, _, err = run(capsys, "report", small_run.path, "-o", str(tmp_path / "no" / "page.html"))
    assert status == 2
    assert "cannot write" in err


def test_compare_prints_every_shared_arm(capsys, small_run):
    status, out, _ = run(capsys, "compare", small_run.path, small_run.path, "--json")
    assert status == 0
    rows = json.loads(out)
    assert {row["pairing"] for row in rows} == {"nodes"}
    status, out, _ = run(capsys, "compare", small_run.path, small_run.path)
    assert status == 0
    assert all(row["method"] in out for row in rows)


@pytest.mark.parametrize(
    "command", [["recommend"], ["check", "--fail-under", "pooled[gkd]>0"], ["report"], ["show"]]
)
def test_a_folder_without_a_run(capsys, tmp_path, command):
    status, _, err = run(capsys, command[0], str(tmp_path), *command[1:])
    assert status == 2
    assert "run.json" in err
    assert not list(Path(tmp_path).iterdir())
