"""Evaluation splits are named: in the list of tasks, in plan and page, and when weights go out."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from gradalign.report.export import export
from gradalign.report.report import read_report
from gradalign.tasks import describe, load_task
from gradalign.tasks.demo import AdditionTask
from gradalign_cli.main import main

SPLIT = "the test split of sums"


class Sums(AdditionTask):
    """Sums that models are measured on."""

    evaluation = SPLIT


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code in (0, None)


@pytest.mark.parametrize(
    ("spec", "evaluation"),
    [
        ("gsm8k", "the test split of openai/gsm8k"),
        ("gsm8k:split=test[:50]", "the test[:50] split of openai/gsm8k"),
        ("gsm8k:split=train", None),
        ("gsm8k:split=train[:50]", None),
        ("gsm8k:path=copy.parquet", None),
        ("gsm8k:path=copy,split=test", "the test split of openai/gsm8k"),
        ("boolq", "the validation split of google/boolq"),
        ("boolq:split=train", None),
        ("mmlu", "the test split of cais/mmlu"),
        ("mmlu:split=auxiliary_train", None),
        ("deepmath", None),
        # Their only split is called train; they are examinations all the same.
        ("aime24", "the train split of HuggingFaceH4/aime_2024"),
        ("gpqa-diamond", "the train split of Idavidrein/gpqa"),
        ("math:path=copy.parquet", "the test split of HuggingFaceH4/MATH-500"),
        ("demo:addition", None),
        (f"{__name__}:Sums", SPLIT),
    ],
)
def test_which_questions_are_for_evaluation(spec: str, evaluation: str | None) -> None:
    assert getattr(load_task(spec), "evaluation", None) == evaluation


def test_the_list_has_the_split_of_each_task(capsys: pytest.CaptureFixture[str]) -> None:
    split_of = {record["name"]: record["split"] for record in describe()}
    assert split_of["gsm8k"] == "test, for evaluation"
    assert split_of["aime24"] == "train, for evaluation"
    assert split_of["deepmath"] == "train"
    assert split_of["demo"] == split_of["FILE"] == ""
    run("tasks", "list")
    line = next(row for row in capsys.readouterr().out.splitlines() if row.startswith("gsm8k"))
    assert "test, for evaluation" in line


def test_plan_says_that_questions_are_for_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "--student", "demo:student", "--teacher", "demo:strong", "--task"]
    run(*command, f"{__name__}:Sums")
    assert f"questions are from {SPLIT}" in " ".join(capsys.readouterr().out.split())
    run(*command, "demo:addition")
    assert "questions are from" not in capsys.readouterr().out


def test_page_and_export_say_it_of_a_finished_run(small_copy, tmp_path: Path) -> None:
    path = Path(small_copy.path) / "run.json"
    record = json.loads(path.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(read_report(small_copy.path), str(tmp_path / "weights.parquet"))
    record["task"]["evaluation"] = SPLIT
    record["resolved"]["warnings"] = [f"questions are from {SPLIT}: not to be trained on"]
    path.write_text(json.dumps(record))
    report = read_report(small_copy.path)
    with pytest.warns(UserWarning, match=f"{SPLIT}: a student trained with them has seen"):
        export(report, str(tmp_path / "others.parquet"))
    report.to_html(str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert f"questions are from {SPLIT}" in page
