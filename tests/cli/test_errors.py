"""What goes wrong before anything runs: one line, what to do, the exit status, no traceback."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from runs import SMALL, flags

from gradalign.demo import model_path
from gradalign_cli.main import main


@pytest.fixture
def command(tmp_path, capsys):
    """Run `gradalign score` with some settings changed; return status and stderr."""

    def run(changes=None, *more, **settings):
        out = str(tmp_path / "run")
        merged = {**SMALL, "output_dir": out, **settings}
        with pytest.raises(SystemExit) as stop:
            main(["score", *flags(merged), *more])
        text = capsys.readouterr().err
        assert "Traceback" not in text
        return stop.value.code, text

    return run


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_unknown_names(command, tmp_path):
    cases = [
        ({"task": "gsm9k"}, "gsm8k"),
        ({"methods": ["gdk"]}, "gkd"),
        ({"methods": ["gkd:alpha=1"]}, "beta"),
        ({"teachers": ["self+answr"]}, "answer"),
        ({"engine": "vlm"}, "transformers"),
        ({"teachers": ["demo:stronk"]}, "strong"),
        ({"teachers": [str(tmp_path / "nowhere")]}, "does not exist"),
        ({"student": str(tmp_path / "nowhere")}, "does not exist"),
        ({"verifier": "exactly"}, "exact"),
        ({"verifier": "no_such_module:function"}, "no_such_module"),
    ]
    for settings, hint in cases:
        status, text = command(**settings)
        assert status == 2, settings
        lines = text.splitlines()  # what is being done, and then the refusal alone
        assert [line.startswith("gradalign: ") for line in lines].index(True) == len(lines) - 1
        assert hint in text, (settings, text)


def test_a_missing_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["score", "--student", "demo:student"])
    text = capsys.readouterr().err
    assert stop.value.code == 2
    for flag in ("--teacher", "--task", "--output-dir"):
        assert flag in text


def test_values_out_of_range_name_their_flag(command):
    for settings, flag in [
        ({"nodes": 0}, "--nodes"),
        ({"temperature": 0}, "--temperature"),
        ({"coverage": 1.5}, "--coverage"),
    ]:
        status, text = command(**settings)
        assert status == 2
        assert flag in text


def changed_tokenizer(tmp_path, change):
    """A copy of the strong teacher whose tokenizer.json was edited."""
    folder = tmp_path / "other"
    shutil.copytree(model_path("strong"), folder)
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    change(data["model"]["vocab"])
    file.write_text(json.dumps(data))
    return str(folder)


def test_a_teacher_with_other_token_ids(command, tmp_path):
    def swap(vocab):
        for one, other in ("12", "34", "56", "78"):
            vocab[one], vocab[other] = vocab[other], vocab[one]

    teacher = changed_tokenizer(tmp_path, swap)
    status, text = command(None, "--require-same-tokenizer", teachers=[teacher])
    assert status == 2
    assert "token" in text
    assert sum(f"'{digit}'" in text or f'"{digit}"' in text for digit in "12345678") >= 3, text


def test_a_question_longer_than_the_context(command, tmp_path):
    row = {"id": "long", "prompt": "1" * 5000, "answer": "1"}
    task = write_rows(tmp_path / "long.jsonl", row)
    status, text = command(task=task, teachers=["demo:strong"])
    assert status == 2
    assert "long" in text
    assert "context" in text


def test_no_room_for_max_tokens(command):
    status, text = command(max_tokens=100000)
    assert status == 2
    assert "--max-tokens" in text


def test_a_row_without_an_answer(command, tmp_path):
    rows = [{"id": "a", "prompt": "1+1=", "answer": "2"}, {"id": "b", "prompt": "1+2="}]
    task = write_rows(tmp_path / "rows.jsonl", *rows)
    status, text = command(task=task, teachers=["demo:strong"], verifier="exact")
    assert status == 2
    assert "'b'" in text or " b" in text
    assert "answer" in text


def test_a_torn_row(command, tmp_path):
    path = tmp_path / "torn.jsonl"
    path.write_text('{"id": "a", "prompt": "1+1=", "answer": "2"}\n{"id": "b", "pro')
    status, text = command(task=str(path))
    assert status == 2
    assert "2" in text
    assert "torn.jsonl" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="uses a folder that root cannot write either")
def test_an_output_folder_that_cannot_be_written(command):
    status, text = command(output_dir="/proc/1/run")
    assert status == 2
    assert "cannot write" in text


def test_an_output_folder_under_a_file(command, tmp_path):
    (tmp_path / "file").write_text("")
    status, text = command(output_dir=str(tmp_path / "file" / "run"))
    assert status == 2
    assert "cannot write" in text


def test_settings_of_a_run_in_the_folder(command, small_copy):
    status, text = command(output_dir=small_copy.path, seed=3)
    assert status == 2
    assert "--seed was 0, now 3" in text


def test_no_run_in_the_folder(tmp_path):
    from gradalign import read_report
    from gradalign.errors import RunError

    with pytest.raises(RunError, match=r"holds no run\.json"):
        read_report(str(tmp_path))
