"""Misspelt GRADALIGN_ variables are named; those of others are let be."""

from __future__ import annotations

import warnings

import pytest

from gradalign.config import ScoreConfig
from gradalign.engines.server.http import KEY_VARIABLES
from gradalign.errors import UsageError
from gradalign_cli.main import main
from gradalign_cli.variables import check_variables


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GRADALIGN_CONTINUATION", "GRADALIGN_CONTINUATIONS"),
        ("GRADALIGN_TAKS", "GRADALIGN_TASK"),
        ("GRADALIGN_METHOD", "GRADALIGN_METHODS"),
        ("GRADALIGN_BASE_URL", "GRADALIGN_BASE_URLS"),
        ("gradalign_top_p", "GRADALIGN_TOP_P"),
        ("GRADALIGN_APIKEY", "GRADALIGN_API_KEY"),
    ],
)
def test_a_misspelt_variable_is_named(name, meant):
    with pytest.raises(UsageError, match=rf"{name} is none .*{meant}\?"):
        check_variables({name: "1"})


def test_every_variable_that_is_read_is_known():
    read = [f"GRADALIGN_{name.upper()}" for name in ScoreConfig.model_fields]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_variables(dict.fromkeys([*read, *KEY_VARIABLES, "PATH", "MY_GRADALIGN_TASK"], "1"))


def test_a_variable_like_no_setting_gets_a_warning():
    with pytest.warns(UserWarning, match="GRADALIGN_FAVOURITE_COLOUR"):
        check_variables({"GRADALIGN_FAVOURITE_COLOUR": "blue"})


def test_the_command_stops_before_anything_else(monkeypatch, capsys):
    monkeypatch.setenv("GRADALIGN_STUDNT", "demo:student")
    with pytest.raises(SystemExit) as stop:
        main(["score", "--teacher", "demo:strong", "--task", "demo:addition"])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert "GRADALIGN_STUDNT" in text
    assert "GRADALIGN_STUDENT?" in text
