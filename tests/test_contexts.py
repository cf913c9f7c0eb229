"""What teachers are shown, and what is refused before a run starts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradalign.contexts import (
    CONTEXTS,
    DeltaSpec,
    TeacherSpec,
    describe,
    get,
    is_delta,
    models_read,
    parse_delta,
    parse_teacher,
)
from gradalign.contexts.wrong_answer import wrong_answer
from gradalign.errors import TaskError, UnknownNameError, UsageError
from gradalign.questions import Attempt, Message, Prompt, Question
from gradalign.verifiers import get as get_verifier
from tests.requires import require

RAW = Question(
    "r", "1+1=", answer="2", solution="one and one is 2", feedback="mind the sign", choices=()
)
CHAT = Question(
    "c",
    (
        Message("system", "Be brief."),
        Message("user", "Hello"),
        Message("assistant", "Hi"),
        Message("user", "What is 1+1?"),
    ),
    answer="2",
    solution="one and one is 2",
    feedback="mind the sign",
)


def show(name: str, question: Question, *attempts: Attempt) -> Prompt | None:
    """Prompt of a context for the first attempt, the rest being its siblings."""
    return get(name, [question]).prompt(
        question, attempts[0] if attempts else None, list(attempts[1:])
    )


@pytest.mark.parametrize("name", ["answer", "solution", "feedback", "wrong-answer"])
def test_privileged_text_goes_into_the_last_user_message(name: str) -> None:
    prompt = show(name, CHAT)
    assert isinstance(prompt, tuple)
    assert prompt[:3] == CHAT.prompt[:3]
    assert len(prompt) == 4
    assert prompt[3].role == "user"
    assert prompt[3].content.startswith("What is 1+1?\n\n")


@pytest.mark.parametrize(
    ("name", "secret"),
    [("answer", "this is 2."), ("solution", "one and one is 2"), ("feedback", "mind the sign")],
)
def test_privileged_text_is_shown_and_stands_before_a_raw_prompt(name: str, secret: str) -> None:
    prompt = show(name, RAW)
    assert isinstance(prompt, str)
    assert prompt.endswith("\n\n1+1=")
    assert secret in prompt
    assert not get(name).shared


def test_none_is_the_question_itself() -> None:
    assert show("none", RAW) == RAW.prompt
    assert show("none", CHAT) == CHAT.prompt


@pytest.mark.parametrize("name", ["answer", "solution", "feedback", "wrong-answer"])
def test_missing_columns_are_found_early(name: str) -> None:
    with pytest.raises(TaskError, match=r"question 'bare' has no"):
        get(name).check(Question("bare", "?"))


def test_wrong_answer_differs_from_answer_in_the_answer_only() -> None:
    right, wrong = show("answer", RAW), show("wrong-answer", RAW)
    assert isinstance(right, str)
    assert isinstance(wrong, str)
    false = wrong_answer(RAW)
    assert false is not None
    assert right != wrong
    assert right.replace("this is 2.", f"this is {false}.") == wrong


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("42", r"\d+"),
        ("-3", r"-\d+"),
        ("1,250", r"1,2\d\d"),
        ("0.50", r"0\.\d\d"),
        (
            "0.1234567890123456789012345678901234567890",
            r"0\.1\d\d4567890123456789012345678901234567890",
        ),
        ("12,345.60", r"1\d,\d45\.60"),
        ("\\frac{3}{4}", r"\\frac\{\d+\}\{4\}"),
        ("3/4", r"\d+/4"),
        ("0", r"[12]"),
        ("(3, \\frac{\\pi}{2})", r"\(3, \\frac\{\\pi\}\{\d\}\)"),
        ("90^\\circ", r"\d+\^\\circ"),
        ("yes", "no"),
        ("False", "True"),
        ("\\text{(C)}", r"\\text\{\([ABDE]\)\}"),
        ("B", "[ACDE]"),
        ("9" * 300, r"\d{300,301}"),
    ],
)
def test_false_answers_keep_the_form_and_change_the_value(answer: str, form: str) -> None:
    require("math_verify")
    verify = get_verifier("math")
    for index in range(20):
        question = Question(str(index), "?", answer=answer)
        false = wrong_answer(question)
        assert false is not None
        assert re.fullmatch(form, false), false
        assert false == wrong_answer(question)
        assert verify(f"\\boxed{{{false}}}", question) == 0.0


@given(st.integers(min_value=0, max_value=10**30), st.text(max_size=5))
def test_false_numbers_are_other_numbers(number: int, identifier: str) -> None:
    false = wrong_answer(Question(identifier, "?", answer=str(number)))
    assert false is not None
    assert int(false) != number
    assert int(false) >= 0


def test_false_choices_are_other_choices() -> None:
    options = ("red", "blue", "green", "blue")
    by_letter = Question("q", "?", answer="B", choices=options)
    by_text = Question("q", "?", answer="green", choices=options)
    assert wrong_answer(by_letter) in {"A", "C"}
    assert wrong_answer(by_text) in {"red", "blue"}
    assert wrong_answer(Question("q", "?", answer="A", choices=("x", "x"))) is None


@pytest.mark.parametrize("answer", ["Evelyn", "\u0661\u0662", "", "7" * 1000])
def test_answers_without_a_plausible_neighbour_are_skipped(answer: str) -> None:
    question = Question("q", "?", answer=answer or None)
    assert wrong_answer(question) is None
    if answer:
        get("wrong-answer").check(question)
        assert show("wrong-answer", question) is None


def test_other_answer_is_another_question_s_in_the_words_of_answer() -> None:
    questions = [Question(f"q{i}", f"{i}+{i}=", answer=str(2 * i)) for i in range(1, 8)]
    questions.append(Question("same", "1+1=?", answer="2"))
    answers = {item.answer for item in questions}
    for question in questions:
        true = get("answer", questions).prompt(question, None, ())
        shown = get("other-answer", questions).prompt(question, None, ())
        assert isinstance(true, str)
        assert isinstance(shown, str)
        (told,) = re.findall(r"answer to this is (\S+)\. Reason", shown)
        assert told in answers - {question.answer}
        assert shown == true.replace(f" {question.answer}. ", f" {told}. ", 1)
        again = get("other-answer", questions[::-1]).prompt(question, None, ())
        assert again == shown
    lone = [RAW, Question("other", "2-0=", answer="2")]
    assert get("other-answer", lone).prompt(RAW, None, ()) is None
    with pytest.raises(UsageError, match="needs the task's questions"):
        get("other-answer")


def test_other_answers_of_choices_are_of_as_many_options() -> None:
    two = [Question(f"t{i}", "?", answer="AB"[i % 2], choices=("x", "y")) for i in range(4)]
    three = [Question(f"h{i}", "?", answer="C", choices=("x", "y", "z")) for i in range(4)]
    for question in two:
        shown = get("other-answer", [*two, *three]).prompt(question, None, ())
        assert "C." not in str(shown)
    assert get("other-answer", [*two, *three]).prompt(three[0], None, ()) is None


def test_reference_free_has_the_words_and_reference_only_the_reference(tmp_path: Path) -> None:
    free = show("reference-free", CHAT)
    assert isinstance(free, tuple)
    assert free[3].content.startswith("What is 1+1?\n\nReason step by step")
    assert "one and one" not in str(free)
    assert get("reference-free").shared
    (tmp_path / "words.txt").write_text("Think aloud.\n")
    own = show(f"reference-free:@{tmp_path}/words.txt", CHAT)
    assert isinstance(own, tuple)
    assert own[3].content == "What is 1+1?\n\nThink aloud."

    for name, secret in (
        ("", "one and one is 2"),
        (":answer", "answer is 2"),
        (":solution", "and"),
    ):
        only = show(f"reference-only{name}", CHAT)
        assert isinstance(only, tuple)
        assert only[:3] == CHAT.prompt[:3]
        assert secret in only[3].content
        assert "1+1" not in only[3].content
    raw = show("reference-only", RAW)
    assert isinstance(raw, str)
    assert "1+1=" not in raw
    without = Question("w", "1+1=", answer="2")
    assert "answer is 2" in str(show("reference-only", without))
    for name, question in (
        ("reference-only:solution", without),
        ("reference-only", Question("n", "1+1=")),
    ):
        with pytest.raises(TaskError, match="solution"):
            get(name, [question]).check(question)
    with pytest.raises(UsageError, match="nothing called 'hint'"):
        get("reference-only:hint", [RAW])


def test_sibling_is_another_successful_attempt() -> None:
    own = Attempt("s0", "own text", 1.0)
    wrong = Attempt("s1", "wrong text", 0.0)
    partial = Attempt("s2", "partial text", 0.9)
    good = Attempt("s3", "good text", 1.0)
    context = get("sibling")
    assert context.needs_attempts
    assert context.prompt(RAW, own, [own, wrong, partial]) is None
    prompt = context.prompt(RAW, own, [own, wrong, partial, good])
    assert isinstance(prompt, str)
    assert "good text" in prompt
    assert "own text" not in prompt
    others = [Attempt(f"s{i}", f"text {i}", 1.0) for i in range(1, 9)]
    chosen = context.prompt(RAW, own, others)
    assert context.prompt(RAW, own, others[::-1]) == chosen
    several = {context.prompt(RAW, Attempt(f"t{i}", "", 0.0), others) for i in range(30)}
    assert len(several) > 3


def test_system_rule(tmp_path: Path) -> None:
    file = tmp_path / "rule.txt"
    file.write_text("Check {each} carry.\n")
    context = get(f"system:@{file}")
    assert context.shared
    assert not context.needs_attempts
    assert context.prompt(RAW, None, ()) == "Check {each} carry.\n\n1+1="
    prompt = context.prompt(CHAT, None, ())
    assert isinstance(prompt, tuple)
    assert prompt[0] == Message("system", "Be brief.\n\nCheck {each} carry.")
    assert prompt[1:] == CHAT.prompt[1:]
    plain = Question("p", (Message("user", "Hi"),))
    assert get("system:Be kind.").prompt(plain, None, ()) == (
        Message("system", "Be kind."),
        Message("user", "Hi"),
    )
    before = context.fingerprint
    file.write_text("Another rule.")
    assert get(f"system:@{file}").fingerprint != before


def test_demos_are_the_same_for_all_and_never_the_question_itself() -> None:
    raw = [Question(f"r{i}", f"{i}+{i}=", answer=str(2 * i)) for i in range(8)]
    chat = [
        Question(f"c{i}", (Message("user", f"{i}?"),), solution=f"solved {i}") for i in range(8)
    ]
    context = get("demos:2", [*raw, *chat])
    assert context.shared
    shown = {question.id: context.prompt(question, None, ()) for question in raw}
    blocks = {identifier: str(text).split("\n\n") for identifier, text in shown.items()}
    for question in raw:
        assert len(blocks[question.id]) == 3
        assert blocks[question.id][-1] == question.prompt
        assert f"{question.prompt}{question.answer}" not in blocks[question.id]
    assert len({tuple(block[:2]) for block in blocks.values()}) == 3  # 2 are themselves demos
    turns = context.prompt(chat[0], None, ())
    assert isinstance(turns, tuple)
    assert [message.role for message in turns] == ["user", "assistant"] * 2 + ["user"]
    assert "solved 0" not in [message.content for message in turns]
    with pytest.raises(TaskError, match="only 1 other questions"):
        get("demos:2", raw[:2]).check(raw[0])
    with pytest.raises(UsageError, match="needs the task's questions"):
        get("demos:2")


def test_demos_come_after_the_system_message() -> None:
    other = Question("o", (Message("system", "S"), Message("user", "U")), solution="A")
    prompt = get("demos:1", [CHAT, other]).prompt(CHAT, None, ())
    assert isinstance(prompt, tuple)
    assert prompt[:3] == (CHAT.prompt[0], Message("user", "U"), Message("assistant", "A"))


def test_template_fields(tmp_path: Path) -> None:
    question = Question(
        "q", "P{answer}", answer="{solution}", choices=("x", "y"), metadata={"level": 3}
    )
    text = "{{{prompt}}} / { answer } / {choices} / {metadata.level} / {id}"
    prompt = get(f"template:{text}").prompt(question, None, ())
    assert prompt == "{P{answer}} / {solution} / A) x\nB) y / 3 / q"
    file = tmp_path / "t.txt"
    file.write_text("Before.\n{prompt}\nAfter.")
    chat = get(f"template:@{file}").prompt(CHAT, None, ())
    assert isinstance(chat, tuple)
    assert chat[-1] == Message("user", "Before.\nWhat is 1+1?\nAfter.")
    assert chat[:-1] == CHAT.prompt[:-1]


def test_template_kinds_and_attempts() -> None:
    assert get("template:{prompt} Careful!").shared
    assert not get("template:{prompt}{answer}").shared
    context = get("template:{prompt} mine: {attempt} theirs: {sibling}")
    assert context.needs_attempts
    own, good = Attempt("a", "A", 0.0), Attempt("b", "B", 1.0)
    assert context.prompt(RAW, own, [good]) == "1+1= mine: A theirs: B"
    assert context.prompt(RAW, own, []) is None
    assert context.prompt(RAW, None, [good]) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{answer}", "no {prompt}"),
        ("{prompt} {gold}", "unknown field {gold}"),
        ("{prompt.__class__}", "unknown field"),
        ("{prompt!r}", "unknown field"),
        ("{prompt} {", "lone '{' in line 1"),
        ("{prompt}\n}", "lone '}' in line 2"),
        ("{prompt}{metadata.}", "unknown field"),
        ("@no-such-file", "cannot read no-such-file"),
    ],
)
def test_templates_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        get(f"template:{text}")


@pytest.mark.parametrize("field", ["answer", "solution", "feedback", "choices", "metadata.x"])
def test_template_fields_that_a_row_lacks(field: str) -> None:
    with pytest.raises(TaskError, match="question 'bare' has no"):
        get(f"template:{{prompt}}{{{field}}}").check(Question("bare", "?"))


def test_rows_come_first() -> None:
    row = Question(
        "q", "P", answer="1", contexts={"answer": "[1]P", "mine": (Message("user", "x"),)}
    )
    other = Question("o", "O", answer="3")
    assert show("answer", row) == "[1]P"
    assert str(show("answer", other)).endswith("O")
    mine = get("mine", [row, other])
    assert mine.prompt(row, None, ()) == (Message("user", "x"),)
    assert not mine.shared
    mine.check(row)
    with pytest.raises(TaskError, match="question 'o' gives no prompt for the context 'mine'"):
        mine.check(other)
    # A row's own prompt needs no answer in the row.
    get("answer").check(Question("q", "P", contexts={"answer": "[1]P"}))


def test_names_in_rows_may_look_like_built_in_ones() -> None:
    row = Question("q", "P", contexts={"system:x": "own"})
    assert show("system:x", row) == "own"


def test_unknown_names_list_built_in_ones_and_those_of_the_rows() -> None:
    rows = [Question("q", "P", contexts={"mine": "x"})]
    with pytest.raises(UnknownNameError, match=r"answer, demos:K.*In the task's rows: mine"):
        get("yours", rows)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("answer:2", "no argument"),
        ("demos:0", "demos:K"),
        ("demos:two", "demos:K"),
        ("demos", "demos:K"),
        ("system", "no text"),
        ("system:@missing", "cannot read missing"),
    ],
)
def test_unusable_arguments(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        get(name, [RAW])


def test_every_context_is_described_with_its_kind() -> None:
    records = describe()
    assert len(records) == len(CONTEXTS.names())
    assert all(record["description"] for record in records)
    kinds = {record["name"]: record["kind"] for record in records}
    assert kinds["answer"] == "instance-specific"
    assert kinds["system:TEXT|@FILE"] == "shared"
    assert get("none").shared == (kinds["none"] == "shared")


@pytest.mark.parametrize(
    ("spec", "model", "context", "label"),
    [
        ("self", "self", "none", "self"),
        ("self+solution", "self", "solution", "self+solution"),
        ("self+none", "self", "none", "self"),
        ("demo:strong", "demo:strong", "none", "demo:strong"),
        ("Qwen/Qwen3-8B+answer", "Qwen/Qwen3-8B", "answer", "Qwen/Qwen3-8B+answer"),
        ("self+system:a+b", "self", "system:a+b", "self+system:a+b"),
        ("m+demos:3", "m", "demos:3", "m+demos:3"),
    ],
)
def test_teachers(spec: str, model: str, context: str, label: str) -> None:
    teacher = parse_teacher(spec)
    assert teacher == TeacherSpec(model, context)
    assert teacher.label == label


def test_existing_folders_with_a_plus_sign_win(tmp_path: Path) -> None:
    folder = tmp_path / "a+answer"
    folder.mkdir()
    assert parse_teacher(str(folder)) == TeacherSpec(str(folder), "none")
    assert parse_teacher(f"{folder}+solution") == TeacherSpec(str(folder), "solution")


@pytest.mark.parametrize(
    ("spec", "parts", "label"),
    [
        ("delta:self+answer,self", ("self+answer", "self", 1.0), "delta:self+answer,self"),
        ("delta:demo:strong, self+none", ("demo:strong", "self", 1.0), "delta:demo:strong,self"),
        ("delta:a/b,c,a=0.5", ("a/b", "c", 0.5), "delta:a/b,c,a=0.5"),
        ("delta:b, a , a = 1.0", ("b", "a", 1.0), "delta:b,a"),
    ],
)
def test_differences(spec: str, parts: tuple[str, str, float], label: str) -> None:
    delta = parse_delta(spec)
    assert delta == DeltaSpec(*parts)
    assert delta.label == label
    assert parse_delta(label) == delta
    assert is_delta(label)
    assert not is_delta(parts[0])
    assert models_read([spec, "self+answer"]) == [TeacherSpec("self", "answer")]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("delta:self", "not the difference of two"),
        ("delta:self,", "not the difference of two"),
        ("delta:a,b,c", "not the difference of two"),
        ("delta:self+system:Be brief, please,self", "not the difference of two"),
        ("delta:delta:a,b", "no model can be read"),
        ("delta:a,+answer", "names no model"),
        ("delta:a,b,a=0", "number above 0"),
        ("delta:a,b,a=-1", "number above 0"),
        ("delta:a,b,a=inf", "number above 0"),
        ("delta:a,b,a=half", "number above 0"),
    ],
)
def test_what_is_no_difference(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_delta(spec)


@pytest.mark.parametrize("spec", ["", "+answer", "self+", "self+ "])
def test_teachers_that_name_nothing(spec: str) -> None:
    with pytest.raises(UsageError):
        parse_teacher(spec)
