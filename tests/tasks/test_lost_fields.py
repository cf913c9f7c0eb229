"""Fields that other programs would put into a prompt are refused by name; others are metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradalign.errors import TaskError
from gradalign.tasks import Message, Question, load_task
from gradalign.tasks.row_checks import check_question

ASK = {"role": "user", "content": "What is on it?"}


def load(tmp_path: Path, **row: Any) -> Question:
    path = tmp_path / "rows.jsonl"
    if "prompt" not in row and "messages" not in row:
        row["messages"] = [ASK]
    path.write_text(json.dumps({"id": "a", "answer": "1", **row}))
    return load_task(str(path)).questions()[0]


@pytest.mark.parametrize(
    "row",
    [
        {"tools": [{"name": "add"}]},
        {"functions": [{"name": "add"}]},
        {"images": ["a.png"]},
        {"image": "a.png", "prompt": "What is on it?"},
        {"audio": {"path": "a.wav"}},
        {"audios": ["a.wav"]},
        {"video": "a.mp4"},
        {"videos": ["a.mp4"]},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"documents": [{"title": "t", "text": "x"}]},
        {"system": "Be brief."},
        {"system_prompt": "Be brief."},
    ],
)
def test_fields_of_a_row(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=f"question 'a': `{next(iter(row))}` would be left out"):
        load(tmp_path, **row)
    assert load(tmp_path, **{name: row[name] for name in row if name == "prompt"}, level=3)


@pytest.mark.parametrize(
    "field",
    [
        {"tool_calls": [{"function": {"name": "add"}}]},
        {"tool_call_id": "x"},
        {"name": "add"},
        {"reasoning_content": "hm"},
        {"thinking": "hm"},
        {"function_call": {"name": "add"}},
        {"channel": "final"},
    ],
)
def test_fields_of_a_message(field: dict[str, Any], tmp_path: Path) -> None:
    (name,) = field
    turns = [ASK, {"role": "assistant", "content": None, **field}, ASK]
    with pytest.raises(TaskError, match=f"question 'a': `{name}` would be left out"):
        load(tmp_path, messages=turns)
    with pytest.raises(TaskError, match=f"context 'hint': `{name}` would be left out"):
        load(tmp_path, contexts={"hint": turns})


def test_all_of_them_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="`tools`, `images`, `name`, `thinking` would be left out"):
        load(tmp_path, tools=[1], images=["a"], messages=[{**ASK, "name": "n", "thinking": "t"}])


def test_empty_fields_and_metadata_are_no_matter(tmp_path: Path) -> None:
    turns = [{**ASK, "tool_calls": None, "name": "", "thinking": []}]
    question = load(tmp_path, messages=turns, images=[], tools=None, source="x", level=2)
    assert question.prompt == (Message("user", "What is on it?"),)
    assert {"source": "x", "level": 2}.items() <= question.metadata.items()
    # Parquet gives every message all names that one of them has.
    rows = [{"id": "a", "answer": "1", "messages": [ASK, {"role": "user", "content": "?"}]}]
    message = pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            ("tool_calls", pa.list_(pa.string())),
            ("function_call", pa.struct([("name", pa.string())])),
        ]
    )
    schema = pa.schema(
        [("id", pa.string()), ("answer", pa.string()), ("messages", pa.list_(message))]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "rows.parquet")
    assert len(load_task(str(tmp_path / "rows.parquet")).questions()[0].prompt) == 2


def test_a_system_text_that_the_messages_say_too_is_metadata(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, ASK]
    assert load(tmp_path, messages=turns, system="Be brief.").metadata["system"] == "Be brief."
    assert load(tmp_path, prompt="Be brief.", system="linux").metadata["system"] == "linux"


def test_parts_that_are_no_text(tmp_path: Path) -> None:
    def turns(*parts: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": list(parts)}]

    text = {"type": "text", "text": "What is on it?"}
    assert load(tmp_path, messages=turns(text)) == load(tmp_path)
    for part in (
        {"type": "image", "image": "a.png"},
        {"type": "image_url", "image_url": {"url": "u"}},
    ):
        with pytest.raises(TaskError, match=f"part of the kind '{part['type']}'"):
            load(tmp_path, messages=turns(part, text))
    with pytest.raises(TaskError, match="2 parts of text"):
        load(tmp_path, messages=turns(text, text))
    with pytest.raises(TaskError, match="`role` and `content`"):
        load(tmp_path, messages=turns({"type": "text"}))


def test_questions_made_by_code_hold_texts_only() -> None:
    parts: Any = [{"type": "image", "image": "a.png"}]
    with pytest.raises(TaskError, match=r"question 'q': the prompt has a message \(user\) whose"):
        check_question(Question("q", (Message("user", parts),)), "mine")


def test_rows_of_a_benchmark(tmp_path: Path) -> None:
    row = {"question": "What is 2 + 3?", "answer": "2 + 3 = 5\n#### 5", "image": "a.png"}
    path = tmp_path / "gsm8k.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(TaskError, match="row 1: `image` would be left out"):
        load_task(f"gsm8k:path={path}").questions()
