"""One way to print a table, one to print JSON, and flags that their settings declare."""

from __future__ import annotations

import io
import json
from typing import get_origin

import pandas as pd
import pytest
import typer

from gradalign.config import ScoreConfig, field_extra, flag_of
from gradalign.errors import UsageError
from gradalign.registry import parse_value
from gradalign.report.format import p_value, rough_duration, share, size
from gradalign_cli.main import app
from gradalign_cli.options import build_config
from gradalign_cli.output import Column, make_table, print_json, print_table

NEEDED = {
    "student": "demo:student",
    "teachers": ["demo:strong"],
    "task": "demo:addition",
    "output_dir": "x",
}


def drawn(table, **options):
    out = io.StringIO()
    print_table(table, file=out, **options)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_json_of_values_and_of_frames(capsys):
    print_json({"é": [1, None]})
    assert capsys.readouterr().out == '{\n  "é": [\n    1,\n    null\n  ]\n}\n'
    print_json(pd.DataFrame({"é": [0.5, float("nan")]}), escape=True)
    out = capsys.readouterr().out
    assert json.loads(out) == [{"é": 0.5}, {"é": None}]
    assert "é" not in out


def test_a_table_shows_brackets_as_they_are_and_cuts_nothing():
    name = "org/[bold]model[/bold]-" + "x" * 200
    lines = drawn(make_table([Column("teacher"), Column("n", right=True)], [(name, "7")]))
    assert any(name in line and line.endswith(" 7") for line in lines)


def test_long_cells_fold_where_the_width_is_fixed():
    table = make_table([Column("name", whole=True), Column("text")],
                       [("n", "y" * 60)], lines=False)  # fmt: skip
    lines = drawn(table, width=40)
    assert max(map(len, lines)) <= 40
    assert sum(line.count("y") for line in lines) == 60


def commands():
    """Every command that has `--json`, with the option."""
    found = {}

    def walk(group, path):
        for name, item in group.commands.items():
            if hasattr(item, "commands"):
                walk(item, (*path, name))
            else:
                options = [p for p in item.params if "--json" in getattr(p, "opts", ())]
                if options:
                    found[" ".join((*path, name))] = options[0]

    walk(typer.main.get_command(app), ())
    return found


def test_json_is_one_option_wherever_it_is():
    found = commands()
    assert {"score", "plan", "demo", "check", "compare", "diagnose", "recommend", "rescore"} <= set(
        found
    )
    for name, option in found.items():
        assert option.help.startswith("Print "), name
        assert " as JSON on stdout" in option.help, name
        assert option.name == "json_output", name


@pytest.mark.parametrize("name", ScoreConfig.model_fields)
def test_the_command_line_takes_a_setting_by_its_own_metadata(name):
    score = typer.main.get_command(app).commands["score"]
    (option,) = [parameter for parameter in score.params if parameter.name == name]
    extra = field_extra(name)
    assert option.opts == [extra["flag"] or f"--{name.replace('_', '-')}"]
    assert option.opts == [flag_of(name)]
    mapping = "dict" in str(ScoreConfig.model_fields[name].annotation)
    assert (extra["form"] != "plain") == mapping
    is_list = get_origin(ScoreConfig.model_fields[name].annotation) is list
    assert option.multiple == (is_list or extra["form"] in {"texts", "values"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("True", True), ("FALSE", False), ("None", None), ("null", None),
        ("3", 3), ("0.5", 0.5), ('{"x": 1}', {"x": 1}), ("fp8", "fp8"), ("", ""), ("yes", "yes"),
    ],
)  # fmt: skip
def test_values_of_pairs(text, value):
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)
    config = build_config({**NEEDED, "engine_args": [f"a={text}"], "labels": [f"a={text}"]}, None)
    assert config.engine_args == {"a": value}
    assert config.labels == {"a": text}


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("labels", ["a"], "--label: 'a' has no value"),
        ("engine_args", ["a"], "--engine-args: 'a' has no value"),
        ("chat_template_kwargs", "{a", "--chat-template-kwargs: '{a' is not JSON"),
        ("teacher_chat_template_kwargs", "[1]", "--teacher-chat-template-kwargs must be a mapping"),
    ],
)
def test_what_cannot_be_parsed_names_the_flag(name, given, words):
    with pytest.raises(UsageError) as caught:
        build_config({**NEEDED, name: given}, None)
    assert caught.value.message.startswith(words)


def test_numbers_as_text():
    assert rough_duration(1) == "1 second"
    assert [size(n) for n in (5, 2048, 3 * 2**40)] == ["5.0 B", "2.0 KiB", "3.0 TiB"]
    assert [p_value(0.0123), p_value(None), p_value(float("nan"), "-")] == ["0.012", "", "-"]
    assert [share(0.256), share(None), share(float("nan"))] == ["26%", "-", "-"]
