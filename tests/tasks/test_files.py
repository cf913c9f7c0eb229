"""Questions from files: what is read, and what is refused with file, line and id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradalign.errors import TaskError
from gradalign.tasks import Message, Question, load_task
from gradalign.tasks.row_checks import select_ids

FULL = {
    "id": "a",
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
    "answer": "B",
    "solution": "because",
    "choices": ["x", "y"],
    "feedback": "hm",
    "contexts": {"mine": "raw", "yours": [{"role": "user", "content": "V"}]},
    "level": 3,
}


def write(path: Path, *rows: Any) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_full_row(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "q.jsonl", FULL, "", {**FULL, "id": 7}))
    by_id = {question.id: question for question in task.questions()}
    assert by_id["a"] == Question(
        id="a",
        prompt=(Message("system", "S"), Message("user", "U")),
        answer="B",
        solution="because",
        choices=("x", "y"),
        feedback="hm",
        contexts={"mine": "raw", "yours": (Message("user", "V"),)},
        metadata={"level": 3},
    )
    assert set(by_id) == {"a", "7"}
    assert task.verifier == "choice"


def test_three_formats_give_the_same_questions(tmp_path: Path) -> None:
    rows = [
        {"id": str(i), "prompt": f"{i}+1=", "answer": str(i + 1), "contexts": {"c": f"[{i}]"}}
        for i in range(5)
    ]
    jsonl = load_task(write(tmp_path / "q.jsonl", *rows))
    as_json = load_task(write(tmp_path / "q.json", json.dumps(rows, indent=1)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    parquet = load_task(str(tmp_path / "q.parquet"))
    assert jsonl.questions() == as_json.questions() == parquet.questions()
    assert jsonl.verifier == "exact"
    fingerprints = {task.fingerprint for task in (jsonl, as_json, parquet)}
    assert len(fingerprints) == 3
    assert all(item.startswith("sha256:") for item in fingerprints)


def test_parquet_rows_without_one_of_the_contexts(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "A", "answer": "1", "contexts": {"x": "X", "y": None}},
        {"id": "b", "prompt": "B", "answer": "1", "contexts": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    found = {q.id: q for q in load_task(str(tmp_path / "q.parquet")).questions()}
    assert found["a"].contexts == {"x": "X"}
    assert found["b"].contexts == {}


@pytest.mark.parametrize(
    ("value", "answer"),
    [(5, "5"), (-0.5, "-0.5"), (True, "true"), ("5 ", "5 "), (10**30, "1" + "0" * 30)],
)
def test_answers_that_are_not_text(value: object, answer: str, tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", {"id": "a", "prompt": "p", "answer": value})
    assert load_task(path).questions()[0].answer == answer


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "x", "prompt": ', r"q\.jsonl:2: malformed JSON.*column"),
        ("[1]", r"q\.jsonl:2 is not an object"),
        ({"prompt": "p", "answer": "1"}, r"q\.jsonl:2: the row has no id"),
        ({"id": 1.5, "prompt": "p", "answer": "1"}, "neither a text nor a whole number"),
        ({"id": " ", "prompt": "p", "answer": "1"}, "has no id"),
        ({"id": "x\ny", "prompt": "p", "answer": "1"}, "control characters"),
        (
            {"id": "ok", "prompt": "p", "answer": "1"},
            r"q\.jsonl:2: id 'ok' is already that of .*:1",
        ),
        ({"id": "x", "prompt": "p"}, r"q\.jsonl:2: question 'x' is a row without an answer"),
        ({"id": "x", "prompt": "p", "answer": None}, "row without an answer"),
        ({"id": "x", "prompt": "p", "answer": "  "}, "row without an answer"),
        (
            '{"id": "x", "prompt": "p", "answer": NaN}',
            r"q\.jsonl:2: question 'x': the answer is nan",
        ),
        ('{"id": "x", "prompt": "p", "answer": Infinity}', "the answer is inf"),
        ({"id": "x", "prompt": "p", "answer": ["1"]}, "of type list"),
        ({"id": "x", "prompt": "", "answer": "1"}, "question 'x': the prompt is empty"),
        ({"id": "x", "prompt": " \n", "answer": "1"}, "the prompt is empty"),
        ({"id": "x", "messages": [], "answer": "1"}, "the prompt is empty"),
        ({"id": "x", "answer": "1"}, "neither `prompt` nor `messages`"),
        ({"id": "x", "prompt": "p", "messages": [], "answer": "1"}, "both `prompt` and `messages`"),
        ({"id": "x", "prompt": 3, "answer": "1"}, "`prompt` is not a text"),
        ({"id": "x", "messages": "hi", "answer": "1"}, "`messages` is a text"),
        ({"id": "x", "messages": [{"role": "user"}], "answer": "1"}, "`role` and `content`"),
        ({"id": "x", "prompt": "p", "answer": "1", "solution": 3}, "`solution` is not a text"),
        ({"id": "x", "prompt": "p", "answer": "1", "contexts": []}, "`contexts` is not a mapping"),
        ({"id": "x", "prompt": "p", "answer": "1", "contexts": "c"}, "`contexts` is not a mapping"),
        ({"id": "x", "prompt": "p", "answer": "1", "contexts": {"c": ""}}, "context 'c' is empty"),
        ({"id": "x", "prompt": "p", "answer": "1", "choices": "ab"}, "`choices` is not a list"),
        ({"id": "x", "prompt": "p", "answer": "1", "choices": ["a", ""]}, "empty choice"),
        ('{"id": "x", "prompt": "\\ud800", "answer": "1"}', "lone surrogate"),
        ('{"id": "x", "prompt": "p", "answer": "\\udfff"}', "the answer holds the lone surrogate"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_rows_that_cannot_be_used(row: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", {"id": "ok", "prompt": "p", "answer": "1"}, row)
    with pytest.raises(TaskError, match=message):
        load_task(path).questions()


def test_a_megabyte_and_control_characters_are_text(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    path = write(
        tmp_path / "q.jsonl",
        {"id": "long", "prompt": long, "answer": "1"},
        {"id": "odd \u00e9\u0661", "prompt": "\x00\x1b[31m\u202e", "answer": "\u0661"},
    )
    found = {question.id: question for question in load_task(path).questions()}
    assert found["long"].prompt == long
    assert found["odd \u00e9\u0661"].prompt == "\x00\x1b[31m\u202e"
    assert found["odd \u00e9\u0661"].answer == "\u0661"


def test_nan_in_parquet(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "prompt": ["p", "p"], "answer": [1.0, float("nan")]})
    pq.write_table(table, tmp_path / "q.parquet")
    with pytest.raises(TaskError, match=r"q\.parquet, row 2: question 'b': the answer is nan"):
        load_task(str(tmp_path / "q.parquet")).questions()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.jsonl", b"", "holds no question"),
        ("q.jsonl", b"\n\n", "holds no question"),
        ("q.jsonl", b'{"id": "\xff"}', r"q\.jsonl:1 is not UTF-8: byte 0xff"),
        ("q.json", b'{"id": 1}', "does not hold a list"),
        ("q.json", b'[{"id": 1},\n {"id"]', r"line 2: malformed JSON"),
        ("q.parquet", b"PAR1 not really", "not a readable parquet file"),
    ],
)
def test_files_that_cannot_be_read(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=message):
        load_task(str(tmp_path / name)).questions()


def test_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    row = json.dumps({"id": "a", "prompt": "p", "answer": "1"}).encode()
    (tmp_path / "q.jsonl").write_bytes(b"\xef\xbb\xbf" + row)
    assert load_task(str(tmp_path / "q.jsonl")).questions()[0].id == "a"


def test_missing_file() -> None:
    with pytest.raises(TaskError, match=r"questions file nowhere\.jsonl does not exist"):
        load_task("nowhere.jsonl")


def test_answers_are_needed_only_by_verifiers_that_compare(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", {"id": "a", "prompt": "p"})
    for verifier in ("exact", "regex:(.)", "math", "choice"):
        with pytest.raises(TaskError, match=f"verifier {verifier.partition(':')[0]}"):
            load_task(path, verifier).questions()
    assert load_task(path, "operator:contains").questions()[0].answer is None


def test_the_verifier_checks_rows_with_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", {"id": "a", "prompt": "p", "answer": "C", "choices": ["x"]})
    with pytest.raises(TaskError, match=r"q\.jsonl:1: question 'a': the answer 'C' is none"):
        load_task(path).questions()


@given(st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=30), st.integers())
def test_order_depends_on_ids_and_seed_alone(ids: list[str], seed: int) -> None:
    ordered = [ids[index] for index in select_ids(ids, None, (), seed, "t")]
    assert sorted(ordered) == sorted(ids)
    backwards = ids[::-1]
    assert [backwards[i] for i in select_ids(backwards, None, (), seed, "t")] == ordered
    fewer = [item for item in ids if item != ids[0]]
    kept = [fewer[i] for i in select_ids(fewer, None, (), seed, "t")]
    assert kept == [item for item in ordered if item != ids[0]]


def test_seeds_shuffle_and_limits_take_the_first() -> None:
    ids = [str(index) for index in range(100)]
    one = select_ids(ids, None, (), 1, "t")
    assert one != list(range(100))
    assert one != select_ids(ids, None, (), 2, "t")
    assert select_ids(ids, 7, (), 1, "t") == one[:7]
    # Every question comes first under some seed, about equally often.
    firsts = {select_ids(ids, 1, (), seed, "t")[0] for seed in range(1000)}
    assert len(firsts) > 95


def test_ids_keep_the_order_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", *({"id": i, "prompt": "p", "answer": "1"} for i in range(5)))
    task = load_task(path)
    assert [q.id for q in task.questions(ids=["3", "0", "3"])] == ["3", "0"]
    assert [q.id for q in task.questions(1, ids=["3", "0"])] == ["3"]
    with pytest.raises(TaskError, match=r"has no question '9'.*5 questions"):
        task.questions(ids=["9"])
