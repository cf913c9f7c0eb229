"""Help on a terminal: names and defaults whole, examples that work; what a shell completes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import re
import shlex
import sys
import termios
import threading

import pytest
import typer

from gradalign.config import GROUPS, ScoreConfig, flag_of
from gradalign_cli.help import NARROW
from gradalign_cli.main import app, main
from gradalign_cli.options import COMMON

PROGRAM = typer.main.get_command(app)


def example_words(example):
    """Return the words of an example as a shell would give them to the program."""
    return shlex.split(example.replace("\\\n", " "))[1:]


def commands():
    """Yield the words of every command, groups' own included."""
    for name, command in PROGRAM.commands.items():
        if getattr(command, "commands", None):
            yield from ((name, inner) for inner in command.commands)
        else:
            yield (name,)


def found(words):
    command = PROGRAM
    for word in words:
        command = command.commands[word]
    return command


def terminal(*arguments, columns=80):
    """Run the program with a terminal of so many columns as its output; return what it shows."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, columns))
    pieces = []

    def read():
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(ours, 65536):
                pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    before, was = sys.stdout, os.dup(1)
    # rich asks the standard streams for the size of the terminal.
    os.dup2(theirs, 1)
    sys.stdout = os.fdopen(os.dup(1), "w")
    try:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
    finally:
        sys.stdout.close()
        sys.stdout = before
        os.dup2(was, 1)
        os.close(was)
        os.close(theirs)
        reader.join()
        os.close(ours)
    assert stop.value.code == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", b"".join(pieces).decode()).replace("\r\n", "\n")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    if sys.platform == "linux":
        null = os.open(os.devnull, os.O_RDONLY)
        was = [os.dup(number) for number in (0, 2)]
        os.dup2(null, 0)  # else rich takes the size of the terminal of whoever runs the tests
        yield
        os.dup2(was[0], 0)
        for number in (*was, null):
            os.close(number)


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
@pytest.mark.parametrize("columns", [60, 80])
def test_every_name_and_example_is_whole(words, columns):
    text = terminal(*words, "--help-all", columns=columns)
    assert max(map(len, text.splitlines())) <= max(columns, 80)
    assert "<bool>" not in text
    assert "…" not in text
    for parameter in found(words).params:
        if not getattr(parameter, "hidden", False) and "--help-all" not in parameter.opts:
            for name in (*parameter.opts, *parameter.secondary_opts):
                shown = name if name.startswith("-") else str(parameter.metavar)
                assert re.search(rf"(?<![\w-]){re.escape(shown)}(?![\w-])", text), name
    for example in found(words).examples:
        for line in example.splitlines():
            assert line in text
            assert len(line) <= 78, "it fits a terminal"


@pytest.mark.parametrize("command", ["score", "plan"])
def test_every_default_of_a_setting_is_shown(command):
    text = terminal(command, "--help-all")
    parts = re.split(r"\n  (?=-)", text)
    for name, field in ScoreConfig.model_fields.items():
        default = field.get_default(call_default_factory=True)
        part = next(item for item in parts if re.match(rf"{flag_of(name)}\b(?!-)", item))
        words = " ".join(part.split())
        if field.is_required():
            plain = command == "plan" and name == "output_dir"
            assert ("[default: gradalign-run]" if plain else "[required]") in words
        elif default in (None, "", [], {}):
            assert "default:" in words.lower()
        else:
            shown = ", ".join(map(str, default)) if isinstance(default, list) else str(default)
            assert f"[default: {shown}]" in words, name


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ("score", "'pooled_low[gkd@demo:strong,incorrect]>=0.1'"),
        ("check", "'pooled_low[gkd@demo:strong,incorrect]>=0.1'"),
        ("check", "COLUMN[METHOD@TEACHER,SPLIT]"),
        ("report", "pip install 'gradalign[report]'"),
        ("score", "[0, 1]"),
    ],
)
def test_brackets_of_examples_are_shown(command, example):
    assert example in terminal(command, "--help-all")


def test_the_first_help_is_short():
    text = terminal("score", "--help")
    options = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", text, flags=re.MULTILINE))
    wanted = {flag_of(name) for name in COMMON if name != "dry_run"} | {"--dry-run"}
    assert options == wanted | {"--help", "--help-all"}
    assert len(wanted) == 10
    assert len(text.splitlines()) < 50
    rest = len(found(["score"]).params) - len(wanted) - 1
    assert f"{rest} more options: gradalign score --help-all" in text


def test_groups_come_in_the_order_of_their_importance():
    text = terminal("score", "--help-all")
    places = [text.index(f"\n{title}\n") for title in [*GROUPS.values(), "Options", "Examples"]]
    assert places == sorted(places)


def test_a_paragraph_is_filled():
    text = terminal("diagnose", "--help")
    body = max(text.split("\n\n")[1:4], key=len).splitlines()
    assert len(body) > 2
    for line, following in itertools.pairwise(body):
        assert len(line) + 1 + len(following.split()[0]) > 80, "the next word had room"


def test_long_names_do_not_squeeze_explanations():
    lines = terminal("score", "--help-all").splitlines()
    at = next(i for i, line in enumerate(lines) if "--teacher-chat-template-kwargs" in line)
    assert lines[at].strip() == "--teacher-chat-template-kwargs JSON"
    assert "JSON passed to the teachers' chat template." in lines[at + 1]


def test_explanations_stand_below_names_where_columns_are_few():
    lines = terminal("score", "--help", columns=NARROW - 1).splitlines()
    assert "  --nodes N" in lines
    assert lines[lines.index("  --nodes N") + 1].startswith("      Nodes chosen per spine.")


@pytest.mark.parametrize("words", [words for words in commands() if found(words).examples])
def test_examples_are_taken_by_their_command(words):
    for example in found(words).examples:
        arguments = example_words(example)
        name = next(item for item in commands() if tuple(arguments[: len(item)]) == item)
        command = found(name)
        context = command.make_context(" ".join(name), arguments[len(name) :])
        assert context.params


def test_the_first_example_of_plan_works(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([*example_words(found(["plan"]).examples[0]), "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["figures"]["questions"] > 0
    assert not list(tmp_path.iterdir())


def in_bash(line, monkeypatch, capsys):
    """Return what bash would be offered at the end of a line, which it splits at : and =."""
    words = [word for part in line.split(" ") for word in re.split(r"([:=])", part) if word]
    if line.endswith(" "):
        words.append("")
    monkeypatch.setenv("_GRADALIGN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("gradalign resc", {"rescore"}, {"score"}),
        ("gradalign score --teacher-c", {"--teacher-chat-template"}, {"--teacher"}),
        ("gradalign score --method gk", {"gkd"}, {"minillm"}),
        ("gradalign score --method gkd:", {"beta="}, {"gkd"}),
        ("gradalign score --method=mini", {"minillm"}, {"gkd"}),
        ("gradalign score --student demo:s", {"student", "strong"}, {"weak"}),
        ("gradalign score --task demo:", {"addition"}, {"gsm8k"}),
        ("gradalign score --task demo:addition --method op", {"opd", "opsd"}, {"gkd"}),
        ("gradalign score --task gsm", {"gsm8k"}, {"demo:addition"}),
        ("gradalign score --teacher self+a", {"self+answer"}, {"self+none"}),
        ("gradalign score --teacher del", {"delta:"}, {"self"}),
        ("gradalign score --teacher delta:self+a", {"self+answer"}, {"self", "delta:self+answer"}),
        ("gradalign score --teacher delta:demo:s", {"student", "strong"}, {"weak", "demo:strong"}),
        (
            "gradalign score --teacher delta:self+answer,self+w",
            {"self+answer,self+wrong-answer"},
            {"self+answer,self+answer"},
        ),
        ("gradalign score --teacher delta:demo:strong,demo:st", {"student", "strong"}, {"weak"}),
        ("gradalign score --verifier ex", {"exact"}, {"math"}),
        ("gradalign plan --engine s", {"server"}, {"vllm"}),
        ("gradalign diagnose here --only hor", {"horizon"}, {"topk"}),
        ("gradalign methods show dr", {"dr_grpo"}, {"gkd"}),
        ("gradalign plan --allocation n", {"neyman"}, {"uniform"}),
    ],
)
def test_bash_completes(line, wanted, unwanted, monkeypatch, capsys):
    offered = set(in_bash(line, monkeypatch, capsys))
    assert wanted <= offered
    assert not unwanted & offered


def test_folders_of_runs_and_what_they_hold_complete(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    record = {"config": {"teachers": ["demo:strong", "self+demos"], "methods": ["verl/k2"]}}
    for name in ("first", "runs/second", "runs/third"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    (tmp_path / "other").mkdir()
    assert in_bash("gradalign recommend ", monkeypatch, capsys) == [
        "first",
        "runs/second",
        "runs/third",
    ]
    assert in_bash("gradalign report runs/s", monkeypatch, capsys) == ["runs/second"]
    assert in_bash("gradalign compare first runs/t", monkeypatch, capsys) == ["runs/third"]
    line = "gradalign export first --teacher "
    assert in_bash(line, monkeypatch, capsys) == ["demo:strong", "self+demos"]
    assert in_bash("gradalign show first --method v", monkeypatch, capsys) == ["verl/k2"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_show_brackets_and_one_line_each(shell, monkeypatch, capsys):
    monkeypatch.setenv("_GRADALIGN_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "gradalign score --fail-under 'x[y]>=0' --")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    with pytest.raises(SystemExit):
        main([])
    out = capsys.readouterr().out
    names = {flag_of(name) for name in ScoreConfig.model_fields}
    lines = out.splitlines()
    assert len(lines) >= len(names)
    assert all("--" in line for line in lines), "no explanation goes on in a second line"
    assert "'pooled_low[gkd" in out.replace("''", "'")
