"""A number of a question file is compared by its value, not by how the writer spelt it."""

from __future__ import annotations

import datetime
import json
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradalign.errors import TaskError
from gradalign.questions import Question
from gradalign.store.shard import question_to_json
from gradalign.tasks import load_task
from gradalign.tasks.row_checks import text_of
from gradalign.verifiers import get
from gradalign.verifiers.process.protocol import pack
from gradalign_cli.main import main
from tests.requires import require


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (71.0, "71"),
        (-3.0, "-3"),
        (-0.0, "0"),
        (2.5e-7, "0.00000025"),
        (3e21, "3" + "0" * 21),
        (0.1, "0.1"),
        (2.0**53 - 1, "9007199254740991"),
        (10**30, "1" + "0" * 30),
        (True, "true"),
        (np.bool_(False), "false"),
        (np.int16(-12), "-12"),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (np.float32(0.1), "0.1"),
        (np.float16(0.2), "0.2"),
        (np.float32(1e-5), "0.00001"),
        (np.float64(71), "71"),
        (Decimal("71.00"), "71"),
        (Decimal("0.50"), "0.5"),
        (Decimal("7.1E+3"), "7100"),
        (Fraction(3, 4), "3/4"),
        ("46.0", "46.0"),
        (np.str_("1e5"), "1e5"),
        (None, None),
    ],
)
def test_one_spelling(value, text):
    found = text_of(value, "the answer")
    assert found == text
    assert found is None or type(found) is str


def test_an_integer_longer_than_python_turns_to_text():
    assert text_of(10**6000 + 7, "the answer") == "1" + "0" * 5999 + "7"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "missing value"),
        (float("-inf"), "no number"),
        (Decimal("NaN"), "no number"),
        (np.float32("inf"), "no number"),
        (2.0**53, "cannot hold all of its digits"),
        (98765432109876543210.0, "cannot hold all of its digits"),
        (np.float64(98765432109876543210.0), "cannot hold all of its digits"),
        (Decimal("1e99999999"), "digits"),
        (datetime.date(2024, 2, 29), "type date"),
        (b"71", "type bytes"),
        ([71], "type list"),
        (1j, "type complex"),
        (np.datetime64("2024-02-29"), "type datetime64"),
    ],
)
def test_what_is_no_answer_is_refused(value, message):
    with pytest.raises(TaskError, match=message):
        text_of(value, "the answer")


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_no_float_is_changed_by_its_spelling(value):
    try:
        text = text_of(value, "x")
    except TaskError:
        assert abs(value) >= 2**53
        assert value.is_integer()
        return
    assert float(text) == value
    assert not set(text) - set("-.0123456789")
    assert "." not in text or text[-1] not in "0."


def _answers(path) -> list[str | None]:
    task = load_task(str(path), verifier="operator:contains")
    return [question.answer for question in sorted(task.questions(), key=lambda q: int(q.id))]


def _choices(path) -> list[tuple[str, ...]]:
    task = load_task(str(path), verifier="operator:contains")
    return [question.choices for question in sorted(task.questions(), key=lambda q: int(q.id))]


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_json_numbers(tmp_path, suffix):
    written = ["71.0", "7.5e-6", "98765432109876543210.0", "1E2", "0.10", "-0", "8" * 4999]
    rows = [
        f'{{"id": {i}, "prompt": "?", "answer": {text}, "choices": [{text}, 1.50]}}'
        for i, text in enumerate(written)
    ]
    path = tmp_path / f"rows.{suffix}"
    path.write_text("\n".join(rows) if suffix == "jsonl" else f"[{','.join(rows)}]")
    expected = ["71", "0.0000075", "98765432109876543210", "100", "0.1", "0", "8" * 4999]
    assert _answers(path) == expected
    assert _choices(path) == [(text, "1.5") for text in expected]


def test_an_exponent_that_would_fill_the_memory_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 0, "prompt": "?", "answer": 1e99999999}\n')
    with pytest.raises(TaskError, match=r"rows\.jsonl:1.*digits"):
        _answers(path)


def test_a_long_integer_in_a_column_that_nobody_reads(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 0, "prompt": "?", "answer": "a", "n": [%s]}\n' % ("7" * 6000))
    with pytest.raises(SystemExit) as stop:
        main(["tasks", "show", str(path)])
    assert stop.value.code == 0
    (question,) = load_task(str(path)).questions()
    assert question.metadata["n"] == ["7" * 6000]
    assert Question.from_record(json.loads(question_to_json(question))) == question
    assert pack(question.to_record())


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([71.0, None, 0.1], pa.float64()), ["71", None, "0.1"]),
        (pa.array([71.0, None, 0.1], pa.float32()), ["71", None, "0.1"]),
        (pa.array(np.array([71, 0.5, 0.1], np.float16)), ["71", "0.5", "0.1"]),
        (pa.array([71, None, 2**62 + 1], pa.int64()), ["71", None, str(2**62 + 1)]),
        (pa.array([71, 0, 2**64 - 1], pa.uint64()), ["71", "0", str(2**64 - 1)]),
        (
            pa.array([Decimal("71.00"), None, Decimal("0.10")], pa.decimal128(12, 2)),
            ["71", None, "0.1"],
        ),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array(["71.0", None, "1e-05"]), ["71.0", None, "1e-05"]),
    ],
)
def test_parquet_numbers(tmp_path, column, expected):
    path = tmp_path / "rows.parquet"
    table = pa.table({"id": ["0", "1", "2"], "prompt": ["?"] * 3, "answer": column})
    pq.write_table(table, path)
    assert _answers(path) == expected


def test_parquet_choices_of_32_bits(tmp_path):
    path = tmp_path / "rows.parquet"
    choices = pa.array([[0.1, 2.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": ["0"], "prompt": ["?"], "choices": choices}), path)
    assert _choices(path) == [("0.1", "2")]


def test_a_date_column_is_refused_with_its_row(tmp_path):
    path = tmp_path / "rows.parquet"
    dates = pa.array([datetime.date(2024, 2, 29)])
    pq.write_table(pa.table({"id": ["0"], "prompt": ["?"], "answer": dates}), path)
    with pytest.raises(TaskError, match=r"row 1.*type date"):
        _answers(path)


PLUGIN = """
from gradalign.tasks import Question


class Numbers:
    name, description, verifier, fingerprint = "numbers", "", "exact", "1"
    answer, metadata = 71.0, {"n": [10**6000], "m": 2}

    def questions(self, limit=None, ids=(), seed=0):
        return [Question("a", "?", answer=self.answer, choices=(1, 2e-05), metadata=self.metadata)]


class Wrong(Numbers):
    answer = [71]


class Falls(Numbers):
    def questions(self, limit=None, ids=(), seed=0):
        raise KeyError("gone")
"""


def test_numbers_of_a_task_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "number_task.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "number_task", raising=False)
    (question,) = load_task("number_task:Numbers").questions()
    assert (question.answer, question.choices) == ("71", ("1", "0.00002"))
    assert question.metadata == {"n": ["1" + "0" * 6000], "m": 2}
    assert Question.from_record(json.loads(question_to_json(question))) == question
    with pytest.raises(TaskError, match="type list"):
        load_task("number_task:Wrong").questions()
    with pytest.raises(TaskError, match="KeyError: 'gone'"):
        load_task("number_task:Falls").questions()


def test_numbers_of_a_hub_data_set_in_a_local_file(tmp_path):
    require("datasets")
    path = tmp_path / "mmlu.jsonl"
    rows = [
        {"question": "?", "choices": [2e-05, 3.0], "answer": 1.0, "subject": "s"},
        {"question": "!", "choices": [0.5, 4.0], "answer": None, "subject": "s"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (question,) = load_task(f"mmlu:path={path}").questions(ids=["0"])
    assert (question.answer, question.choices) == ("B", ("0.00002", "3"))


@pytest.mark.parametrize(
    ("answer", "text"),
    [(2.5e-7, "\\boxed{0.00000025}"), (3e21, "\\boxed{3 \\cdot 10^{21}}"), (64.0, "\\boxed{64}")],
)
def test_mathematics_reads_the_spelling(answer, text):
    require("math_verify")
    question = Question("q", "?", answer=text_of(answer, "the answer"))
    assert get("math")(text, question) == 1.0


def test_a_right_response_counts_where_the_file_has_a_float(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "prompt": "21+34=", "answer": 55.0}\n')
    (question,) = load_task(str(path)).questions()
    verifier = get(r"regex:=(\d+)$")
    assert [verifier(text, question) for text in ("21+34=55", "21+34=54")] == [1.0, 0.0]
