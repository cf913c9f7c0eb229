"""Prompts are looked at before any rollout: for the student, every teacher, every context."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

import gradalign
from gradalign.contexts import CONTEXTS, SimpleContext, parse_teacher
from gradalign.demo import model_path
from gradalign.errors import GradalignError
from gradalign.questions import Attempt, Message
from gradalign.stages.preparation.preflight import check
from gradalign.stages.preparation.preview import preview_prompts
from gradalign.stages.preparation.start import prepare
from gradalign.stages.student import Prompter

QUICK: dict[str, Any] = {
    "student": "demo:student",
    "teachers": ["demo:strong"],
    "num_rollouts": 1,
    "nodes": 2,
    "continuations": 2,
    "max_tokens": 60,
    "methods": ["gkd"],
    "diagnose": ["none"],
    "verifier": r"regex:(?:^|,)(\d+)$",
    "engine": "transformers",
}
DATED = (
    "{{ bos_token }}{{ strftime_now('%H%M%S%f') }}+{{ messages[0].content }}"
    "{% if add_generation_prompt %}={% endif %}"
)


def rows(path: Path, *items: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps({"answer": "46", **item}) + "\n" for item in items))
    return str(path)


def with_special_token(folder: Path, token: str) -> str:
    """Copy the bundled student, with one more token that its tokenizer calls special."""
    shutil.copytree(model_path("student"), folder, copy_function=shutil.copyfile)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [token]})
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def no_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that opens an engine."""

    def opened(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("an engine was opened")

    monkeypatch.setattr("gradalign.stages.student.open_engine", opened)


def refused(settings: dict[str, Any], tmp_path: Path) -> str:
    with pytest.raises(GradalignError) as caught:
        gradalign.score(**{**QUICK, **settings}, output_dir=str(tmp_path / "run"))
    assert not list((tmp_path / "run").glob("*/*.parquet"))
    return str(caught.value)


def test_what_the_student_wrote_is_verified_as_it_wrote_it(tmp_path: Path) -> None:
    settings = {**QUICK, "task": "demo:addition", "limit": 2, "verifier": None}
    plain = gradalign.score(**settings, output_dir=str(tmp_path / "plain"))
    marked = gradalign.score(
        **{**settings, "student": with_special_token(tmp_path / "marked", ",")},
        output_dir=str(tmp_path / "run"),
    )
    assert list(plain.spines["text"]) == list(marked.spines["text"])
    assert list(plain.spines["correct"]) == list(marked.spines["correct"]) == [True, True]
    np.testing.assert_array_equal(plain.continuations["reward"], marked.continuations["reward"])
    assert set(marked.spines["text"].str.count(",") > 0) == {True}


@pytest.mark.usefixtures("no_rollout")
def test_tokens_without_a_row_are_refused_wherever_a_prompt_holds_them(tmp_path: Path) -> None:
    model = with_special_token(tmp_path / "added", "<|more|>")
    plain, more = {"id": "a", "prompt": "12+34="}, {"id": "b", "prompt": "<|more|>12+34="}
    told = r"the prompt has the token '<|more|>' (259), and model"
    message = refused({"student": model, "task": rows(tmp_path / "1.jsonl", plain, more)}, tmp_path)
    assert f"question b, student: {told} {model} has only 259 rows" in message
    shown = {**plain, "contexts": {"hint": "<|more|>12+34="}}
    message = refused(
        {"teachers": [f"{model}+hint"], "task": rows(tmp_path / "2.jsonl", shown)}, tmp_path
    )
    assert f"question a, teacher {model}+hint: {told}" in message
    message = refused(
        {
            "student": model,
            "response_prefix": "<|more|>",
            "task": rows(tmp_path / "3.jsonl", plain),
        },
        tmp_path,
    )
    assert f"question a, student: {told}" in message
    message = refused(
        {
            "teachers": [f"{model}+template:{{prompt}}{{attempt}}<|more|>"],
            "task": rows(tmp_path / "4.jsonl", plain),
        },
        tmp_path,
    )
    assert told in message


@pytest.mark.usefixtures("no_rollout")
def test_what_a_teacher_is_not_shown_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "users.jinja"
    template.write_text("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}=")
    asked = {"id": "a", "messages": [{"role": "user", "content": "12+34"}]}
    message = refused(
        {
            "task": rows(tmp_path / "1.jsonl", asked),
            "teachers": ["self", "self+system:Add slowly."],
            "teacher_chat_template": str(template),
        },
        tmp_path,
    )
    assert "question a, teacher self+system:Add slowly.: the chat template of" in message
    assert "leaves out what message 1 (system) says" in message


@pytest.mark.usefixtures("no_rollout")
def test_a_begin_token_inside_a_contexts_prompt_is_refused(tmp_path: Path) -> None:
    task = rows(tmp_path / "1.jsonl", {"id": "a", "prompt": "<|begin|>12+34="})
    for context in ("answer", "sibling"):
        message = refused({"task": task, "teachers": [f"self+{context}"]}, tmp_path)
        assert f"question a, teacher self+{context}: the prompt has the begin token" in message


def test_the_begin_token_of_a_row_is_not_doubled(tmp_path: Path) -> None:
    task = rows(
        tmp_path / "1.jsonl",
        {"id": "a", "prompt": "<|begin|>12+34=", "contexts": {"hint": "<|begin|>[46]12+34="}},
    )
    config = gradalign.ScoreConfig.build(
        {**QUICK, "task": task, "teachers": ["self+hint"], "output_dir": str(tmp_path / "run")}
    )
    texts = [view.text for view in preview_prompts(config, 1)]
    assert texts == ["<|begin|>12+34=", "<|begin|>[46]12+34="]


def test_a_turn_of_the_assistants_is_gone_on_with_by_every_reader(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "12+34"}, {"role": "assistant", "content": "6,"}]
    task = rows(tmp_path / "1.jsonl", {"id": "a", "messages": turns})
    config = gradalign.ScoreConfig.build(
        {
            **QUICK,
            "task": task,
            "teachers": ["demo:strong", "self+system:46"],
            "output_dir": str(tmp_path / "run"),
        }
    )
    texts = [view.text for view in preview_prompts(config, 1)]
    assert texts == ["<|begin|>12+34=6,"] * 2 + ["<|begin|>[46]12+34=6,"]
    lone = (Message("assistant", "6,"),)
    context = CONTEXTS.get("answer")("", None)
    question = gradalign.tasks.Question("q", lone, answer="46")
    assert [message.role for message in context.prompt(question, None, ())] == ["user", "assistant"]


def test_a_template_that_does_not_ask_is_said_on_every_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gradalign_cli.main import main

    template = tmp_path / "mute.jinja"
    template.write_text(
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}"
        "{% endfor %}"
    )
    task = rows(tmp_path / "1.jsonl", {"id": "a", "messages": [{"role": "user", "content": "1+1"}]})
    flags = ["score", "--student", "demo:student", "--teacher", "self", "--task", task]
    flags += ["--chat-template", str(template), "--verifier", "exact", "--num-rollouts", "1"]
    flags += ["--nodes", "1", "--continuations", "2", "--max-tokens", "4", "--method", "gkd"]
    flags += ["--diagnose", "none", "--output-dir", str(tmp_path / "run"), "--display", "none"]
    said = "the chat template ignores add_generation_prompt, so the response begins inside the"
    with pytest.raises(SystemExit) as caught:
        main([*flags, "--print-prompts", "1"])
    assert caught.value.code == 0
    printed = capsys.readouterr()
    assert said in printed.out
    assert f"warning: student: {said} user's turn." in printed.err
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 0
    printed = capsys.readouterr()
    assert f"warning: teacher self: {said} user's turn." in printed.err
    assert "Student: the chat template ignores" in printed.out
    notes = json.loads((tmp_path / "run" / "run.json").read_text())["prompt_notes"]
    assert [note.partition(":")[0] for note in notes] == ["student", "teacher self"]


def test_one_moment_for_student_teachers_and_a_run_taken_up(tmp_path: Path) -> None:
    template = tmp_path / "dated.jinja"
    template.write_text(DATED)
    task = rows(tmp_path / "1.jsonl", {"id": "a", "messages": [{"role": "user", "content": "1+1"}]})
    config = gradalign.ScoreConfig.build(
        {
            **QUICK,
            "task": task,
            "chat_template": str(template),
            "output_dir": str(tmp_path / "run"),
        }
    )
    with pytest.warns(UserWarning, match="student: the chat template tells the time"):
        run, log = prepare(config)
    (prompt_ids,) = (item.prompt_ids for item in read(run))
    moment = "2020-02-02T03:04:05"
    assert log.data["resolved"]["clock"] == run.resolved.clock > moment
    question = read(run)[0].question
    again, _ = prepare(config)
    for each in (run, again):
        prompter = Prompter(each, parse_teacher("demo:strong"))
        assert prompter.render(question, question.prompt) == list(prompt_ids)
    # A new teacher reads what the run's own read, whenever it comes.
    with pytest.warns(UserWarning, match="tells the time"):
        later = check(config, moment)
    assert later.prompts[0] == later.teachers[0].prompts[0] != list(prompt_ids)
    assert "030405000000+1+1=" in later.student.tokenizer.decode(later.prompts[0])


def test_teachers_that_come_later_are_told_the_runs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "dated.jinja"
    template.write_text(DATED)
    task = rows(tmp_path / "1.jsonl", {"id": "a", "messages": [{"role": "user", "content": "1+1"}]})
    settings = {**QUICK, "task": task, "chat_template": str(template), "max_tokens": 8}
    with pytest.warns(UserWarning, match="tells the time"):
        gradalign.score(**settings, output_dir=str(tmp_path / "run"))
    stored = json.loads((tmp_path / "run" / "run.json").read_text())["resolved"]["clock"]
    found = []

    def looked(*arguments: Any, **options: Any) -> Any:
        found.append(check(*arguments, **options))
        return found[-1]

    monkeypatch.setattr("gradalign.rescoring.check", looked)
    with pytest.warns(UserWarning, match="tells the time"):
        report = gradalign.rescore(str(tmp_path / "run"), teachers=["demo:weak"])
    shown = [list(teacher.prompts[0]) for teacher in found[0].teachers]
    assert shown == [list(report.questions["prompt_ids"].iloc[0])] * 2
    after = json.loads((tmp_path / "run" / "run.json").read_text())
    assert after["resolved"]["clock"] == stored
    assert any(note.startswith("teacher demo:weak: ") for note in after["prompt_notes"])


def read(run: Any) -> Any:
    from gradalign.store.shard import read_questions

    return read_questions(run.folder, run.shards()[0])


def test_a_context_may_want_more_of_an_attempt_than_a_made_up_one_holds(tmp_path: Path) -> None:
    from gradalign.stages.preparation.prompt_checks import sketch, without_begin

    def first_number(question: Any, attempt: Attempt | None, others: Any) -> Any:
        assert attempt is not None
        return f"[{int(attempt.text.split(',')[0])}]{question.prompt}"

    context = SimpleContext("picky", first_number, needs_attempts=True)
    question = gradalign.tasks.Question("q", "12+34=")
    assert sketch(context, question) is None
    assert "An earlier response" in str(
        sketch(CONTEXTS.get("template")("{prompt}{attempt}", None), question)
    )
    # What the student wrote may hold a begin token; a prompt made of it may not.
    tokenizer = AutoTokenizer.from_pretrained(model_path("student"))
    (shown,) = without_begin([Attempt("s", "4<|begin|>6<|pad|>", 1.0)], tokenizer)
    assert shown == Attempt("s", "46<|pad|>", 1.0)
