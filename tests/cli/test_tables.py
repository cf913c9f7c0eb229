"""Tables in terminals of 60 to 120 columns: whole numbers, all of them, and whose they are."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from report.made_run import write_run
from runs import SMALL

import gradalign
from gradalign.diagnostics.base import Consequence
from gradalign.report.format import interval, number
from gradalign.report.terminal.findings import findings
from gradalign.report.terminal.tables import (
    Column,
    Section,
    make_table,
    open_console,
    print_points,
    print_table,
    sectioned,
    short_names,
    wrapped,
)
from gradalign_cli.main import main

WIDTHS = (60, 80, 100, 120)
LONG = {
    "strong": "/data/checkpoints/2026-11-03/distilled-teachers/organisation-name/strong-32b-it",
    "weak": "/data/checkpoints/2026-11-03/distilled-teachers/organisation-name/weaker-8b-it",
    "hint": "some-organisation/a-model-name-of-many-words-Instruct-2507+wrong-answer",
}
NUMBER = re.compile(r"[+-]?\d+(?:,\d{3})*(?:\.\d+)?%?")
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    """What a program takes for a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


def shown(monkeypatch, width, *arguments, **environment):
    """Return what a command prints on a terminal of a width, without colours, and its status."""
    variables = {"COLUMNS": str(width), "TERM": "xterm-256color", **environment}
    terminal = Terminal()
    with monkeypatch.context() as patch:
        for name in ("NO_COLOR", "COLORTERM", "FORCE_COLOR"):
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdout", terminal)
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
    text = terminal.getvalue()
    return (ESCAPE.sub("", text) if "NO_COLOR" in environment else text), stop.value.code


def numbers(text):
    """Return the numbers of a text, in order of their value as text."""
    return sorted(NUMBER.findall(text))


@pytest.fixture(scope="module")
def copied(finished_runs, tmp_path_factory):
    """A copy of the small run: `diagnose` writes to it."""
    return finished_runs.copy(tmp_path_factory.mktemp("tables") / "run", **SMALL)


@pytest.fixture
def named(copied, monkeypatch):
    """A run by a short path, a question of it and the position of a node."""
    question = copied.question_ids[0]
    node = copied.table("nodes", question_id=question).iloc[0]
    monkeypatch.chdir(Path(copied.path).parent)
    return "run", question, int(node["position"])


def commands(named):
    run, question, position = named
    conditions = ["pooled[*@*]<=1.5", f"pooled_low[gkd@demo:strong,question:{question}]>=0.25"]
    return {
        "show": ["show", run],
        "recommend": ["recommend", run],
        "diagnose": ["diagnose", run, "--only", "horizon", "--only", "topk", "--display", "none"],
        "diagnose --full": ["diagnose", run, "--full", "--only", "horizon", "--display", "none"],
        "compare": ["compare", run, run],
        "check": ["check", run, *(part for c in conditions for part in ("--fail-under", c))],
        "show --question": ["show", run, f"--question={question}", "--position", str(position)],
        "show --questions": ["show", run, "--questions"],
        "methods": ["methods", "list"],
        "tasks": ["tasks", "list"],
        "contexts": ["contexts", "list"],
    }


@pytest.mark.parametrize(
    "name",
    ["show", "recommend", "diagnose", "diagnose --full", "compare", "check", "show --question",
     "show --questions", "methods", "tasks", "contexts"],
)  # fmt: skip
def test_every_number_is_there_at_every_width(monkeypatch, named, name):
    arguments = commands(named)[name]
    wide, status = shown(monkeypatch, 120, *arguments, NO_COLOR="1")
    assert numbers(wide) or name == "contexts"
    for width in WIDTHS:
        text, again = shown(monkeypatch, width, *arguments, NO_COLOR="1")
        assert again == status
        assert "…" not in text
        assert "nan" not in text.lower()
        # A command to be copied is one line, which the terminal itself breaks.
        lines = [line for line in text.splitlines() if " gradalign " not in line]
        assert max(map(len, lines)) <= width, width
        if name == "show --question":  # responses are broken at tokens, and are no table
            text, own = (part[part.index("position ") :] for part in (text, wide))
        else:
            text, own = (re.sub(r"\s+", " ", part) for part in (text, wide))
        assert numbers(text) == numbers(own), width


def table_rows(text):
    """Yield (section, first cell, rest) of a table's rows, by the lines that begin one."""
    section = ""
    for line in text.splitlines():
        found = re.match(r"^(\s*)(\S+) {2,}((?:-|[+-]\d).*)$", line)
        if found:
            yield section, found[2], found[3]
        elif line and not line.startswith((" ", "─", "-")):
            section = line


@pytest.mark.parametrize("width", WIDTHS)
def test_every_row_of_the_summary_names_teacher_and_method(monkeypatch, small_run, width):
    text, _ = shown(monkeypatch, width, "show", small_run.path, NO_COLOR="1")
    main_rows = small_run.summary[small_run.summary["split"] == "all"]
    expected = {(row.teacher, row.method): number(row.pooled) for row in main_rows.itertuples()}
    found = {
        ("" if section.startswith("no teacher") else section, method): rest
        for section, method, rest in table_rows(text)
    }
    assert found.keys() == expected.keys()
    for arm, value in expected.items():
        assert found[arm].startswith(value)
    for row in main_rows.itertuples():
        for end in (row.pooled_low, row.pooled_high, row.mean_low, row.mean_high):
            assert number(end) in text


@pytest.mark.parametrize("width", WIDTHS)
def test_every_row_of_the_ranking_names_teacher_and_method(monkeypatch, small_run, width):
    text, _ = shown(monkeypatch, width, "recommend", small_run.path, NO_COLOR="1")
    for item in small_run.recommend().ranking:
        rows = [line for line in text.splitlines() if line.split()[:1] == [item.name]]
        assert any(number(item.pooled.value) in line for line in rows), item.name


def test_what_is_no_result_is_below_a_line(monkeypatch, small_run):
    for command in ("show", "recommend"):
        text, _ = shown(monkeypatch, 80, command, small_run.path, NO_COLOR="1")
        lines = text.splitlines()
        first = next(at for at, line in enumerate(lines) if "dr_grpo" in line and "+1.000" in line)
        rules = [at for at, line in enumerate(lines) if line.startswith("──") and at < first]
        assert len(rules) >= 2
        assert "minillm" in "".join(lines[rules[0] : rules[-1]])
        assert "reference" in "".join(lines[rules[-1] : first])


@pytest.fixture(scope="module")
def long_names(tmp_path_factory):
    """A run of teachers whose names are longer than a terminal is wide, with its summary."""
    from gradalign.store.folder import RunFolder
    from gradalign.store.schema import schema

    folder = tmp_path_factory.mktemp("long") / "run"
    strong, weak, hint = LONG.values()
    arms = {
        (strong, "opd:top_k=16,norm=tail"): 0.7, (strong, "gkd"): 0.6, (weak, "gkd"): 0.2,
        (hint, "gkd"): -0.3, ("", "dr_grpo"): 0.99,
    }  # fmt: skip
    write_run(folder, arms, questions=20, nodes=6)
    import pyarrow as pa

    rows = []
    for item in gradalign.read_report(str(folder)).recommend().ranking:
        row = dict.fromkeys(schema("summary").names)
        row |= {"teacher": item.teacher, "method": item.method, "split": "all"}
        row |= {**item.pooled.columns("pooled", "pooled_"), "reason": ""}
        row |= {"num_nodes": item.num_nodes, "num_flat": 0}
        rows.append(row)
    RunFolder(str(folder)).write_summary(pa.Table.from_pylist(rows, schema=schema("summary")))
    return gradalign.read_report(str(folder))


@pytest.mark.parametrize("command", ["recommend", "compare", "show"])
def test_long_names_are_told_apart(monkeypatch, long_names, command):
    more = [long_names.path] if command == "compare" else []
    wide, _ = shown(monkeypatch, 120, command, long_names.path, *more, NO_COLOR="1")
    for width in WIDTHS:
        text, _ = shown(monkeypatch, width, command, long_names.path, *more, NO_COLOR="1")
        assert "…" not in text
        joined = text.replace("\n", "")
        for name in LONG.values():
            assert name in joined, (width, name)
        for value in set(re.findall(r"[+-]\d\.\d{3}", wide)):
            assert value in text
        if command == "recommend":
            labels = short_names(item.teacher for item in long_names.recommend().ranking)
            assert len(set(labels.values())) == 3
            table = text[text.index("Ranking") : text.index("Teachers,")]
            for item in long_names.recommend().ranking:
                label = labels.get(item.teacher, item.teacher)
                name = f"{item.method}@{label}" if label else item.method
                assert name in table, (width, name)


def test_in_a_pipe_each_row_is_one_line(capsys, monkeypatch, small_run):
    monkeypatch.setenv("COLUMNS", "40")  # is of a terminal
    with pytest.raises(SystemExit):
        main(["show", small_run.path])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for row in small_run.summary[small_run.summary["split"] == "all"].itertuples():
        cells = [
            interval(row.pooled, row.pooled_low, row.pooled_high),
            interval(row.mean_cosine, row.mean_low, row.mean_high),
        ]
        own = [line for line in out.splitlines() if row.method in line]
        assert any(all(cell in line for cell in cells) for line in own)
    wide, _ = shown(monkeypatch, 120, "show", small_run.path)
    assert numbers(ESCAPE.sub("", wide)) == numbers(out)


def in_a_terminal(width, *arguments, **environment):
    """Run the program in a real terminal of a width; return what it wrote there."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
    program = [sys.executable, "-m", "gradalign_cli.main", *arguments]
    process = subprocess.Popen(
        program, stdout=child, stderr=subprocess.STDOUT, stdin=child, env=env | environment
    )
    os.close(child)
    written = b""
    try:
        while part := os.read(parent, 65536):
            written += part
    except OSError:  # the terminal is gone when the program ends
        pass
    os.close(parent)
    assert process.wait() == 0
    return written.decode().replace("\r\n", "\n")


def test_a_real_terminal_has_what_the_wide_one_has(monkeypatch, named):
    """At its own width, and a dumb one too, which rich takes for 80 columns whatever it is."""
    wide, _ = shown(monkeypatch, 120, "show", named[0], NO_COLOR="1")
    for width, kind in ((60, "xterm"), (100, "dumb")):
        text = in_a_terminal(width, "show", named[0], TERM=kind)
        assert ("\x1b" in text) == (kind == "xterm")
        text = ESCAPE.sub("", text)
        rule = next(line for line in text.splitlines() if line.startswith("──"))
        assert (len(rule) > 80) == (width > 80)
        assert numbers(text) == numbers(wide)
        assert "…" not in text


def test_score_ends_with_the_answer(capsys, small_run, tmp_path):
    """The verdict as `recommend` has it, its evidence, the table, and commands that run."""
    import shutil

    folder = tmp_path / "a run's folder"
    shutil.copytree(small_run.path, folder)
    with pytest.raises(SystemExit):
        main(["show", str(folder)])
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == small_run.recommend().headline
    assert lines[1].startswith("- ")
    assert "targeted rollouts" in lines[1]
    assert "Too few questions" in lines[2]
    assert out.index("minillm") < out.index("single positions") < out.index("gradalign report")
    for command in ("report", "recommend", "show"):
        found = [line.split(f"gradalign {command} ")[1] for line in lines if
                 f"gradalign {command} " in line]  # fmt: skip
        assert shlex.split(found[0]) == [str(folder)]
    *_, last = [line for line in lines if line]
    arguments = shlex.split(last[last.index("gradalign ") :])[1:]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert small_run.question_ids[0] in capsys.readouterr().out


def test_a_run_without_a_teacher_says_why_there_is_no_verdict(capsys, tmp_path, small_run):
    from gradalign.store.folder import RunFolder
    from gradalign.store.schema import schema

    write_run(tmp_path / "run", {("", "dr_grpo"): 0.9}, questions=3, nodes=2)
    import pyarrow as pa

    rows = small_run.summary[small_run.summary["teacher"] == ""]
    table = pa.Table.from_pandas(rows, preserve_index=False).cast(schema("summary"))
    RunFolder(str(tmp_path / "run")).write_summary(table)
    with pytest.raises(SystemExit) as stop:
        main(["show", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "No verdict" in out
    assert "no teacher to judge" in out
    assert "dr_grpo" in out


def test_without_colours_signs_say_what_colours_say(monkeypatch, small_run):
    question = small_run.question_ids[0]
    spines = small_run.table("spines", question_id=question)
    frame = small_run.table("alignment", question_id=question)
    own = frame[(frame["teacher"] == "demo:strong") & (frame["method"] == "gkd")]
    tokens = small_run.table("tokens", question_id=question)
    arguments = ["show", small_run.path, f"--question={question}", "--teacher", "demo:strong",
                 "--method", "gkd"]  # fmt: skip
    for environment in ({"NO_COLOR": "1"}, {"TERM": "xterm"}, {"TERM": "dumb"}):
        text = ESCAPE.sub("", shown(monkeypatch, 120, *arguments, **environment)[0])
        lines = text.splitlines()
        for spine in spines.to_dict("records"):
            said = tokens[tokens["spine_id"] == spine["spine_id"]].drop_duplicates("position")
            pieces = said.sort_values("position")["token"].tolist()
            at = lines.index("".join(pieces))
            signs = lines[at + 1].ljust(len(lines[at]))
            column = 0
            measured = own[own["spine_id"] == spine["spine_id"]].set_index("position")["cosine"]
            for position, piece in enumerate(pieces):
                expected = " "
                if position in measured.index:
                    cosine = measured[position]
                    expected = "~" if cosine != cosine else "+" if cosine > 0 else "-"
                assert signs[column] == expected
                column += len(piece)
            known = measured.dropna()
            if len(known) and known.max() > 0:
                assert f"{known.max():+.2f}" in lines[at + 2]
    # Few colours: those of both directions are there, and they differ.
    few, _ = shown(monkeypatch, 120, *arguments, TERM="xterm")
    many, _ = shown(monkeypatch, 120, *arguments, TERM="xterm-256color")
    assert "~" in ESCAPE.sub("", few)
    assert "under measured tokens" not in ESCAPE.sub("", many)
    if (own["cosine"] > 0.005).any():
        assert "\x1b[37;44m" in few
    if (own["cosine"] < -0.005).any():
        assert "\x1b[30;43m" in few


def test_what_narrows_a_question_needs_one(capsys, small_run):
    for arguments in (["--position", "3"], ["--teacher", "demo:strong"]):
        with pytest.raises(SystemExit) as stop:
            main(["show", small_run.path, *arguments])
        assert stop.value.code == 2
        assert f"{arguments[0]} is about one question" in capsys.readouterr().err


def test_export_says_whom_it_chose_and_why(capsys, small_run, tmp_path):
    import json

    from gradalign.report.arms import shown_arm

    pooled = small_run.summary.query("split == 'all'").set_index(["teacher", "method"])["pooled"]
    for index, asked in enumerate(([], ["--teacher", "demo:strong"], ["--method", "gkd"],
                                   ["--teacher", "demo:strong", "--method", "gkd"])):  # fmt: skip
        file = tmp_path / f"{index}.parquet"
        with pytest.raises(SystemExit) as stop:
            main(["export", small_run.path, "--output", str(file), *asked])
        assert stop.value.code == 0
        sentence, counts = capsys.readouterr().err.strip().splitlines()
        said = json.loads(counts)
        assert said["responses"] == len(small_run.spines)
        assert all(isinstance(said[name], int) for name in ("responses", "tokens", "scored_tokens"))
        assert f"{said['method']}@{said['teacher']}" in sentence
        value = pooled[said["teacher"], said["method"]]
        settled = value == value
        assert ("highest pooled alignment" in sentence) == (settled and len(asked) < 4)
        assert ("so that none is ahead" in sentence) == (not settled and len(asked) < 4)
        assert ("--teacher" in sentence) == ("--teacher" not in asked)
        if not asked:
            best = shown_arm(small_run.summary)
            assert (said["teacher"], said["method"]) == (best.teacher, best.method)


def test_diagnose_says_first_what_to_do(monkeypatch, copied):
    summary = copied.table("diagnostics_summary")
    found = findings(summary)
    assert found
    assert [item.consequence for item in found] == sorted(
        (item.consequence for item in found), reverse=True
    )
    assert Consequence.NOTHING not in {item.consequence for item in found}
    idle = summary[(summary["consequence"] == 0) & (summary["advice"].astype(str) != "")]
    assert len(idle)
    arguments = ["diagnose", copied.path, "--only", "horizon", "--only", "topk", "--display",
                 "none"]  # fmt: skip
    brief, _ = shown(monkeypatch, 100, *arguments, NO_COLOR="1")
    full, _ = shown(monkeypatch, 100, *arguments, "--full", NO_COLOR="1")
    flat = " ".join(brief.split())
    for advice in idle["advice"]:
        assert advice not in flat
        mechanism = summary.loc[summary["advice"] == advice, "mechanism"].astype(str).iloc[0]
        if mechanism in {"horizon", "topk"}:
            assert advice in " ".join(full.split())
    assert "noise_ratio" in full
    assert "noise_ratio" not in brief
    assert brief.rstrip().endswith("--full")


def made_up(*rows):
    import pandas as pd

    names = ["mechanism", "teacher", "split", "advice", "consequence"]
    return pd.DataFrame([dict(zip(names, row, strict=True)) for row in rows])


def test_what_several_teachers_share_is_said_once():
    found = findings(
        made_up(
            ("overlap", "a", "all", "Only 53% is shared: warm up.", 4),
            ("overlap", "b", "all", "Only 61% is shared: warm up.", 4),
            ("overlap", "c", "all", "All is shared.", 0),
            ("overlap", "c", "correct", "Of a part.", 4),
            ("horizon", "a", "all", "It gains +0.14 [+0.09, +0.18] of 1.", 3),
            ("horizon", "b", "all", "It gains +0.20 [+0.10, +0.30] of 1.", 3),
            ("topk", "c", "all", "Take another.", 4),
        )
    )
    assert [(item.teachers, item.text) for item in found] == [
        (("a", "b"), "Only 53% / 61% is shared: warm up."),
        (("c",), "Take another."),
        (("a", "b"), "It gains +0.14 [+0.09, +0.18] / +0.20 [+0.10, +0.30] of 1."),
    ]


def test_advice_of_a_run_without_consequences_is_all_shown():
    found = findings(made_up(("overlap", "a", "all", "Look here.", None)))
    assert [item.text for item in found] == ["Look here."]


def drawn(table, width):
    out = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        patch.setenv("NO_COLOR", "1")
        open_console(out).print(table)
    return ESCAPE.sub("", out.getvalue()).splitlines()


def test_the_least_important_columns_go_under_their_row():
    columns = [
        Column("method", whole=True),
        Column("first", right=True, whole=True, bracket=True),
        Column("second", right=True, whole=True, priority=1),
        Column("nodes", right=True, whole=True, priority=2, once=True),
    ]
    rows = [Section("T"), ("gkd", "+0.1 [+0.0, +0.2]", "+0.5", "7"),
            ("opd", "+0.3 [+0.2, +0.4]", "-", "7")]  # fmt: skip
    table = make_table(columns, rows)
    assert drawn(table, 80) == [
        "  method              first  second",
        "─" * 35,
        "T",
        "  gkd     +0.1 [+0.0, +0.2]    +0.5",
        "  opd     +0.3 [+0.2, +0.4]       -",
        "In every row: nodes 7.",
    ]
    assert drawn(table, 30) == [
        "  method         first  second",
        "─" * 30,
        "T",
        "  gkd             +0.1    +0.5",
        "          [+0.0, +0.2]",
        "  opd             +0.3       -",
        "          [+0.2, +0.4]",
        "In every row: nodes 7.",
    ]
    assert drawn(table, 24)[3:6] == [
        "  gkd             +0.1",
        "          [+0.0, +0.2]",
        "    second +0.5",
    ]
    assert drawn(table, 16)[3:6] == ["  gkd", "    first +0.1", "    [+0.0, +0.2]"]


def test_lines_break_at_signs_and_not_in_numbers():
    text = "pooled_low[gkd@demo:strong,question:65+68]>=0.125"
    assert list(wrapped(text, 30)) == ["pooled_low[gkd@demo:strong,", "question:65+68]>=0.125"]
    assert list(wrapped("one two", 5)) == ["one", "two"]
    assert list(wrapped("abcdefgh", 3)) == ["abc", "def", "gh"]
    assert list(wrapped("", 3)) == [""]
    assert "".join(wrapped("日本語日本語", 4)) == "日本語日本語"


def test_short_names_are_of_one_each():
    assert short_names(["a/b", "c"]) == {}
    long = ["x" * 30 + "/model", "y" * 30 + "/model", "z" * 30 + "/other"]
    labels = short_names([*long, "T1"])
    assert labels[long[2]] == "other"
    assert len({*labels.values(), "T1"}) == 4
    assert short_names(["x" * 30 + "/taken", "taken"]) != {"x" * 30 + "/taken": "taken"}


def test_sections_take_the_place_of_a_first_column():
    rows = list(sectioned([("a", "1"), ("a", "2"), ("b", "3")]))
    assert rows == [Section("a"), ("1",), ("2",), Section("b"), ("3",)]


def test_a_table_prints_its_notes_and_what_is_hidden(capsys):
    table = make_table([Column("a\x1b[31m")], [("x\u202ey",)], title="t\x07")
    print_table(table, notes=["end"])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[U+202E]" in out
    assert out.splitlines()[-1] == "end"


def test_points_hang():
    out = io.StringIO()
    console = open_console(out, 16)
    print_points(console, ["one two three four five", "[a] b"])
    assert out.getvalue() == "- one two three\n  four five\n- [a] b\n"
