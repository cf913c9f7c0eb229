"""Answers without a box: which rule reads what, what is none, and what a run keeps of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from runs import TINY

import gradalign
from gradalign.questions import Question
from gradalign.report.report import Report
from gradalign.store.folder import RunFolder
from gradalign.store.shard import read_questions
from gradalign.verifiers import get
from gradalign.verifiers.base import Scored
from gradalign.verifiers.judge import judge
from gradalign.verifiers.reading.answers import find_answer
from tests.requires import needs
from tests.verifiers.answer_rows import RIGHT, WRONG

needs("math_verify")


LABELLED = Path(__file__).parent / "labelled_responses.jsonl"
"""Responses sampled for this test, at temperature 0.7 and at most 180 tokens, from 4-bit copies of
SmolLM2-135M-Instruct and Qwen2.5-Coder-0.5B-Instruct. A reader labelled each before the verifier
was run on it: right, wrong, or none for no answer. Those cut off were left out: no verifier sees
them."""


def scored(answer: str, response: str, *asked: str, spec: str = "math") -> Scored:
    value = get(spec)(response, Question("q", *(asked or ("?",)), answer=answer))
    assert isinstance(value, Scored)
    return value


def test_there_are_many_formats() -> None:
    assert len(set(RIGHT)) == len(RIGHT) >= 40
    assert len(set(WRONG)) == len(WRONG) >= 20


@pytest.mark.parametrize(("answer", "response", "rule"), RIGHT)
def test_right_answer_is_read_by_its_rule(answer: str, response: str, rule: str) -> None:
    value = scored(answer, response)
    assert (float(value), value.read_by) == (1.0, rule)
    assert value.answer


@pytest.mark.parametrize("row", WRONG)
def test_what_is_not_the_answer_is_wrong(row: tuple[str, ...]) -> None:
    assert scored(*row) == 0.0


@pytest.mark.parametrize(("answer", "response", "rule"), RIGHT)
def test_another_answer_to_the_same_response_is_wrong(
    answer: str, response: str, rule: str
) -> None:
    assert scored("Friday" if answer == "Monday" else "987654321", response) == 0.0


@pytest.mark.parametrize(("answer", "response", "rule"), RIGHT)
def test_strict_form_reads_none_of_them(answer: str, response: str, rule: str) -> None:
    value = scored(answer, response, spec="math:boxed")
    assert (float(value), value.answer, value.read_by) == (0.0, None, "nothing")


def test_verdict_says_what_was_read_and_by_which_rule() -> None:
    verdict = judge(get("math"), "So it is 7.\n#### 8", Question("q", "?", answer="7"))
    assert (verdict.reward, verdict.answer, verdict.read_by) == (0.0, "8", "hashes")
    silent = judge(get("exact"), "7", Question("q", "?", answer="7"))
    assert (silent.reward, silent.answer, silent.read_by) == (1.0, None, None)


@pytest.mark.parametrize(
    "piece",
    [
        "the answer is ",
        "answer: 5, ",
        "1. ",
        "5 = ",
        "$5$ or ",
        "**5** ",
        "#### 5\n",
        "is 5, which ",
    ],
)
def test_time_of_reading_grows_with_the_length_and_no_faster(piece: str) -> None:
    text = (piece * (50_000 // len(piece) + 1))[:50_000]
    begin = time.process_time()
    find_answer(text, text[:1000])
    assert time.process_time() - begin < 3.0


def test_precision_and_recall_on_responses_that_were_labelled_by_hand() -> None:
    """197 finished responses to 50 short questions in four phrasings; see LABELLED."""
    rows = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 190
    right = [row["label"] == "right" for row in rows]
    by = {
        spec: [scored(row["answer"], row["response"], row["question"], spec=spec) for row in rows]
        for spec in ("math", "math:boxed")
    }

    def hits(spec: str) -> int:
        return sum(value == 1.0 and true for value, true in zip(by[spec], right, strict=True))

    assert hits("math") / sum(value == 1.0 for value in by["math"]) >= 0.98
    assert hits("math") / sum(right) >= 0.98
    assert hits("math:boxed") / sum(right) < 0.5  # what reading only boxes would lose


def test_a_run_keeps_how_each_response_was_read_and_counts_the_rules(tmp_path: Path) -> None:
    report = gradalign.score(
        **{**TINY, "limit": 2, "num_rollouts": 3}, verifier="math", output_dir=str(tmp_path / "run")
    )
    folder = RunFolder(report.path)
    questions = {
        stored.question.id: stored.question for stored in read_questions(folder, "shard-00000")
    }
    spines = folder.read_table("spines", "shard-00000").to_pylist()
    assert len(spines) == 6
    for row in spines:
        value = get("math")(row["text"], questions[row["question_id"]])
        assert isinstance(value, Scored)
        assert (row["read_by"], row["answer_read"]) == (value.read_by, value.answer)
        assert row["reward"] == float(value)
    rules = Counter(row["read_by"] for row in spines)
    assert rules
    assert report.metadata["read_by"] == rules
    said = ", ".join(f"{count} {rule}" for rule, count in rules.most_common())
    assert f"How answers were read: {said}." in report.footer()


def test_a_silent_verifier_leaves_these_columns_empty(small_run: Report) -> None:
    spines = RunFolder(small_run.path).read_table("spines", "shard-00000")
    assert set(spines["read_by"].to_pylist()) == {None} == set(spines["answer_read"].to_pylist())
    assert not small_run.metadata["read_by"]
    assert not any(line.startswith("How answers were read") for line in small_run.footer())
