"""Files of settings: keys as people write them, and what is said of what cannot be used."""

from __future__ import annotations

import json
import re
from typing import get_origin

import fsspec
import pytest

from gradalign.config import ScoreConfig, flag_of, read_config_file
from gradalign.errors import UsageError
from gradalign.setting_errors import kind_of

BASE = {"student": "s", "teachers": ["t"], "task": "q", "output_dir": "o"}

PYDANTIC = re.compile(
    r"Input should|[Vv]alid (integer|string|number|boolean|list|dictionary)|Field required|"
    r"Extra inputs|unable to parse|type=|pydantic|validation error|greater than|less than"
)


def written(path, values):
    """Write flat settings in the language of a file's name."""
    if path.suffix == ".json":
        path.write_text(json.dumps(values))
    else:
        sign = " = " if path.suffix == ".toml" else ": "
        pieces = ((json.dumps(key), json.dumps(value)) for key, value in values.items())
        if path.suffix == ".toml":
            pieces = ((key, value.replace('": ', '" = ')) for key, value in pieces)
        path.write_text("".join(f"{key}{sign}{value}\n" for key, value in pieces))
    return path


@pytest.mark.parametrize("suffix", ["yaml", "yml", "toml", "json", "conf"])
@pytest.mark.parametrize("spell", [str, flag_of, lambda name: flag_of(name)[2:], lambda name:
                                   name.replace("_", "-")])  # fmt: skip
def test_keys_as_settings_or_as_flags(tmp_path, suffix, spell):
    values = {
        **BASE, "methods": ["gkd", "opd"], "num_rollouts": 3, "base_urls": ["http://a"],
        "sample_ids": ["1"], "labels": {"a": "b"}, "mask_special": True, "target_se": 0.5,
    }  # fmt: skip
    file = written(
        tmp_path / f"settings.{suffix}", {spell(name): value for name, value in values.items()}
    )
    assert read_config_file(file) == values
    assert ScoreConfig.build(read_config_file(file)) == ScoreConfig.build(values)


def test_one_value_is_a_list_of_one(tmp_path):
    values = {**BASE, "teacher": "demo:strong", "stop-token-id": 7, "methods": "gkd"}
    del values["teachers"]
    config = ScoreConfig.build(read_config_file(written(tmp_path / "one.yaml", values)))
    assert (config.teachers, config.stop_token_ids, config.methods) == (
        ["demo:strong"],
        [7],
        ["gkd"],
    )


def test_two_names_of_one_setting(tmp_path):
    file = written(tmp_path / "two.toml", {"teacher": "a", "teachers": ["a"]})
    assert read_config_file(file) == {"teachers": ["a"]}
    file = written(tmp_path / "two.toml", {"teacher": "a", "teachers": ["b"]})
    with pytest.raises(UsageError, match=r"two\.toml: teacher and teachers are the same setting"):
        read_config_file(file)
    with pytest.raises(UsageError, match="sample_ids and sample_id are the same setting"):
        ScoreConfig.build({**BASE, "sample_ids": ["1"], "sample_id": ["2"]})


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("techer", "teacher"),
        ("num-rollout", "num-rollouts"),
        ("Num_Rollouts", "num_rollouts"),
        ("outputdir", "output_dir"),
        ("--methds", "method"),
        ("boostrap_resamples", "bootstrap_resamples"),
    ],
)
def test_misspelt_keys(tmp_path, key, meant):
    file = written(tmp_path / "settings.json", {key: 1, "task": "q"})
    with pytest.raises(UsageError, match=rf"settings\.json: there is no setting '{key}'") as caught:
        read_config_file(file)
    assert re.search(rf"did you mean {meant}s?\?$", caught.value.message)
    with pytest.raises(UsageError, match=f"no setting '{key}'"):
        ScoreConfig.build({**BASE, key: 1})


def test_nothing_is_suggested_for_what_resembles_nothing(tmp_path):
    file = written(tmp_path / "settings.json", {"qqqq": 1, "xyzzy": 2})
    with pytest.raises(UsageError, match="'qqqq'; there is no setting 'xyzzy'") as caught:
        read_config_file(file)
    assert "mean" not in str(caught.value)


WRONG = [None, True, -1, 0, 2**70, 1.5, float("nan"), float("inf"), "", "ten", [], [None],
         [True], [1.5], ["x", 3], {}, {"a": 1}, {"a": None}, {3: "x"}, [["a"]],
         {"a": {"b": [1]}}]  # fmt: skip


def answer(name, value):
    """Return what is said of a setting's value; "" where it can be used."""
    try:
        ScoreConfig.build({**BASE, name: value})
    except UsageError as error:
        return error.message
    return ""


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_no_value_of_any_setting_is_answered_in_the_words_of_a_library(value):
    answers = {name: answer(name, value) for name in ScoreConfig.model_fields}
    refused = {name: text for name, text in answers.items() if text}
    assert len(refused) >= 5
    for name, text in refused.items():
        assert not PYDANTIC.search(text)
        assert text.startswith(flag_of(name))
        assert re.search(r"\(got .+\)\.$|needs a value\.$", text), text


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("nodes", 0, "--nodes must be a whole number, 1 or more (got 0)."),
        ("nodes", 2.5, "--nodes must be a whole number, 1 or more (got 2.5)."),
        ("nodes", True, "--nodes: a number is needed (got True)."),
        ("limit", 2**31, "1 or more and at most 2147483647 (got 2147483648)."),
        ("coverage", 2, "--coverage must be a number, above 0 and at most 1 (got 2)."),
        ("target_se", float("inf"), "--target-se must be a finite number (got inf)."),
        ("allocation", "neymann", "uniform, neyman (got 'neymann'; did you mean neyman?)."),
        ("revision", 3.1, "--revision must be a text (got 3.1; write it in quotes)."),
        ("teachers", ["a", 5], "--teacher, item 2 must be a text (got 5; write it in quotes)."),
        ("labels", {"team": 5}, "--label, value of 'team' must be a text (got 5;"),
        ("labels", ["team=a"], "--label must be a mapping of names to values (got ['team=a'])."),
        ("engine_args", {1: 2}, "--engine-args must have texts as names (got 1)."),
        ("methods", None, "--method needs a value."),
        ("trust_remote_code", "perhaps", "--trust-remote-code must be true or false (got 'perh"),
        ("sample_ids", {"a": 1}, "--sample-id must be a list; each item is a text (got {'a': 1})."),
        ("task", " ", "--task: give a name, not an empty text (got ' ')."),
    ],
)
def test_what_a_value_must_be(name, value, wanted):
    with pytest.raises(UsageError) as caught:
        ScoreConfig.build({**BASE, name: value})
    assert wanted in caught.value.message


def test_everything_that_is_wrong_is_told_at_once():
    with pytest.raises(UsageError) as caught:
        ScoreConfig.build({"student": "s", "nodes": 0, "num_node": 3})
    assert (
        caught.value.message
        == (
            "--teacher, --task and --output-dir are missing; "
            "--nodes must be a whole number, 1 or more (got 0); "
            "there is no setting 'num_node'; did you mean nodes?"
        )
        or "did you mean num_" in caught.value.message
    )


def test_every_list_takes_a_single_value():
    lists = [
        name
        for name, field in ScoreConfig.model_fields.items()
        if get_origin(kind_of(field.annotation).bare) is list
    ]
    assert {"teachers", "methods", "sample_ids", "stop_token_ids", "diagnose"} <= set(lists)
    for name in lists:
        value = {
            "stop_token_ids": 4,
            "diagnose": "all",
            "alignment": "pooled",
            "rehearse_steps": 4,
        }.get(name, "x")
        assert getattr(ScoreConfig.build({**BASE, name: value}), name) == [value]


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("a.yaml", "task: [1,\n", r"a\.yaml cannot be parsed: line 2: "),
        ("a.json", '{\n"task": 1,}', r"a\.json cannot be parsed: line 2: "),
        ("a.toml", "task = \n", r"a\.toml cannot be parsed: .*line 1"),
        ("a.yaml", "", r"a\.yaml holds no settings"),
        ("a.json", "[1]", r"must hold a mapping of settings to values, and holds \[1\]"),
        ("a.yaml", "just words", "and holds 'just words'"),
        ("a.yaml", b"task: \xff\xfe", "is not a text in UTF-8"),
        ("a.yaml", "day: 2020-99-99", "cannot be parsed: month must be in 1"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, text, wanted):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=wanted) as caught:
        read_config_file(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_config_file(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match=r"is a folder.*Of a run, give .*/run\.json"):
        read_config_file(tmp_path)
    with pytest.raises(UsageError, match=r"cannot read memory://no/where\.json"):
        read_config_file("memory://no/where.json")
    with pytest.raises(UsageError, match="cannot read zzz://"):
        read_config_file("zzz://no/where.json")


def test_a_run_at_a_url_is_a_configuration():
    config = ScoreConfig.build(BASE)
    with fsspec.open("memory://a-run/run.json", "w") as file:
        json.dump({"status": "running", "config": config.model_dump(mode="json")}, file)
    assert ScoreConfig.build(read_config_file("memory://a-run/run.json")) == config
