"""Which option a response settles on: forms that do, forms that do not, and any text at all."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradalign.questions import LABELS, Question
from gradalign.tasks.benchmark_rows import Row
from gradalign.tasks.benchmarks import BENCHMARKS
from gradalign.verifiers import get
from gradalign.verifiers.choice import gold_choice, named_choice
from tests.verifiers.choice_rows import CHOICES, SETTLED, UNSETTLED, rows

METALS = CHOICES["metal"]


def rewards(choices: tuple[str, ...], response: str) -> str:
    """Return the letters of all options that a response is rewarded for."""
    verifier = get("choice")
    questions = (
        Question("q", "?", answer=letter, choices=choices) for letter in LABELS[: len(choices)]
    )
    return "".join(
        question.answer or "" for question in questions if verifier(response, question) == 1.0
    )


def test_tables_are_long_and_have_no_row_twice() -> None:
    settled, unsettled = rows(SETTLED), rows(UNSETTLED)
    assert len(settled) >= 250
    assert len(unsettled) >= 180
    both = [(name, response) for name, _, response in settled + unsettled]
    assert len(set(both)) == len(both)


@pytest.mark.parametrize(("name", "letter", "response"), rows(SETTLED))
def test_form_settles_on_an_option(name: str, letter: str, response: str) -> None:
    assert rewards(CHOICES[name], response) == letter


@pytest.mark.parametrize(("name", "letter", "response"), rows(UNSETTLED))
def test_form_is_rewarded_for_no_option(name: str, letter: str, response: str) -> None:
    assert letter == "-"
    assert rewards(CHOICES[name], response) == ""


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("B", 1),
        ("b", 1),
        ("(B)", 1),
        ("B)", 1),
        ("B.", 1),
        ("B) iron", 1),
        ("iron", 1),
        (" Iron ", 1),
        ("none  of these", 3),
        ("B) zinc", None),
        ("B or C", None),
        ("E", None),
        ("", None),
        ("ir", None),
    ],
)
def test_answer_of_a_row(answer: str, index: int | None) -> None:
    assert gold_choice(Question("q", "?", answer=answer, choices=METALS)) == index


def test_options_without_words_have_their_letters_and_their_text_as_an_answer() -> None:
    choices = ("$", "**", "?", "")
    assert rewards(choices, "Answer: B") == "B"
    assert gold_choice(Question("q", "?", answer="**", choices=choices)) == 1


def _mmlu(answer: int) -> Question:
    row = {
        "question": "Which gas do plants take up?",
        "choices": ["Oxygen", "Carbon dioxide", "A noble gas", "B and C"],
        "answer": answer,
        "subject": "botany",
    }
    return BENCHMARKS["mmlu"].convert(Row(row, "row 1", "mmlu"))


@pytest.mark.parametrize(
    ("answer", "response"),
    [
        (1, "Plants take up carbon dioxide for photosynthesis.\n\nAnswer: B"),
        (1, "Let's think step by step.\n1. Plants breathe.\n2. **Carbon dioxide** is used.\n\nB"),
        (1, "The correct answer is **B) Carbon dioxide**.\n\nPlants use it to make sugar."),
        (1, "Answer: B) Carbon dioxide\n\nExplanation: A) Oxygen is given off by plants."),
        (1, "Carbon dioxide"),
        (1, "To determine the gas, consider each option.\nA) Oxygen: no.\nSo, the answer is b."),
        (2, "Answer: C) A noble gas"),
        (2, "Answer: A noble gas"),
        (3, "Answer: D"),
        (3, "Answer: B and C"),
        (3, "The answer is D) B and C."),
    ],
)
def test_mmlu(answer: int, response: str) -> None:
    for other in range(4):
        assert get("choice")(response, _mmlu(other)) == float(other == answer)


@pytest.mark.parametrize(
    ("truth", "response"),
    [
        (True, "The passage says that it opened in 1889, so yes.\nAnswer: yes"),
        (True, "Yes, the tower opened in 1889."),
        (True, "**Answer:** Yes, it did."),
        (True, "yes, it is."),
        (True, "Answer: True"),
        (False, "No, it is not."),
        (False, "The passage does not say so.\n\nAnswer: No."),
        (False, "<think>Yes? The passage says no.</think>\n\nNo"),
        (False, "No.\n\nThe tower opened two years later."),
        (False, "The answer is no, because yes would need a source."),
    ],
)
def test_boolq(truth: bool, response: str) -> None:
    for other in (True, False):
        row = {"question": "did it open in 1889", "passage": "The tower.", "answer": other}
        question = BENCHMARKS["boolq"].convert(Row(row, "row 1", "boolq"))
        assert get("choice")(response, question) == float(other is truth)


# --- any text at all -------------------------------------------------------------------------

FORMS = (
    "{L}",
    "({L})",
    "{L}.",
    "{L})",
    "{L}) {T}",
    "({L}) {T}",
    "{L}. {T}",
    "{L}: {T}",
    "{T}",
    "Answer: {L}",
    "Answer: {l}",
    "Answer: {T}",
    "The answer is {L}.",
    "The answer is ({l}).",
    "The answer is {T}.",
    "The answer is {L} because it fits.",
    "The correct option is {L}) {T}.",
    "Final answer: {L}",
    "I think it's {L}",
    "\\boxed{{{L}}}",
    "\\boxed{{\\text{{{L}}}}}",
    "\\boxed{{{T}}}",
    "答案是{L}",
    "<answer>{L}</answer>",
)
STATED = tuple(form for form in FORMS if not form.startswith(("{", "(")))
WORDS = ("pear", "fig tree", "3 1/4", "x^2", "$\\pi$", "no plum", "quince (raw)", "a kiwi", "-7")


@st.composite
def asked(draw: st.DrawFn) -> tuple[tuple[str, ...], int]:
    """Options of different texts, and one of them."""
    choices = tuple(draw(st.permutations(WORDS))[: draw(st.integers(2, 6))])
    return choices, draw(st.integers(0, len(choices) - 1))


def written(form: str, choices: tuple[str, ...], index: int) -> str:
    letter = LABELS[index]
    return form.format(L=letter, l=letter.lower(), T=choices[index])


@settings(max_examples=300, deadline=None)
@given(
    asked(),
    st.sampled_from(FORMS),
    st.sampled_from(("{}", "**{}**", "{}\n\n", "  {}  ", "We look at it.\n\n{}", "`{}`", "# {}")),
    st.sampled_from(("", "<think>Answer: A. Or B?</think>\n\n", "so, C?\n</think>")),
)
def test_each_form_reads_its_option_whatever_is_around_it(
    question: tuple[tuple[str, ...], int], form: str, around: str, thinking: str
) -> None:
    choices, index = question
    text = thinking + around.format(written(form, choices, index))
    assert named_choice(text, choices) == index


@settings(max_examples=300, deadline=None)
@given(
    asked(),
    st.data(),
    st.sampled_from((" and ", " or ", ", ", " / ", ", or ", " & ", " as well as ", "; ", "/")),
    st.sampled_from(("{}", "Answer: {}", "The answer is {}.", "\\boxed{{{}}}", "答案是{}")),
)
def test_two_options_are_no_answer(
    question: tuple[tuple[str, ...], int], data: st.DataObject, joiner: str, around: str
) -> None:
    choices, first = question
    second = data.draw(st.integers(0, len(choices) - 1).filter(lambda index: index != first))
    forms = st.sampled_from(("{L}", "({L})", "({l})", "{L}) {T}", "{T}", "option {L}"))
    one, other = (written(data.draw(forms), choices, index) for index in (first, second))
    assert named_choice(around.format(one + joiner + other), choices) is None


@settings(max_examples=150, deadline=None)
@given(asked(), st.data(), st.sampled_from(STATED), st.sampled_from(STATED))
def test_the_last_statement_counts(
    question: tuple[tuple[str, ...], int], data: st.DataObject, one: str, other: str
) -> None:
    choices, index = question
    wrong = data.draw(st.integers(0, len(choices) - 1))
    text = (
        f"{written(one, choices, wrong)}\nNo, I was wrong there.\n{written(other, choices, index)}"
    )
    assert named_choice(text, choices) == index


SCRAPS = (
    *("A", "B", "C", "(B)", "b)", "answer", "Answer:", "is", "not", "or", "and", ",", ".", "?"),
    *("\n", "\\boxed{", "}", "iron", "zinc", "**", "the", "$", "</think>", "<think>", "correct"),
    *("option", "(", ")", "yes", "no", "答案", ":", "是", "...", "'", '"'),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(SCRAPS),
        max_size=40,
    ).map(" ".join)
    | st.text(alphabet=st.characters(codec=None), max_size=80)
)
@example("8\\")
def test_any_text_has_a_reward_and_trailing_blanks_do_not_matter(text: str) -> None:
    for choices in CHOICES.values():
        found = named_choice(text, choices)
        assert found is None or 0 <= found < len(choices)
        if text.count("<think>") == text.count("</think>") == 0:
            assert named_choice(f"{text} \n\n", choices) == found


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=26), st.text(max_size=40))
def test_any_options_can_be_asked_about(choices: list[str], text: str) -> None:
    named_choice(f"Answer: {text}", tuple(choices))
    for index in range(len(choices)):
        assert named_choice(f"Answer: {LABELS[index]}", tuple(choices)) in (index, None)


PIECES = (
    "answer ",
    "answer: ",
    "Answer: B or ",
    "B, ",
    "B or ",
    "(",
    "*",
    "\\boxed{",
    "\\boxed{B}",
    "\\text{",
    "<think>",
    "</think>",
    "Question: \n",
    "I think it's ",
    "B is correct ",
    "a b c d e f g h is correct ",
    "\nB",
    " ",
    "答案",
)


@pytest.mark.parametrize("piece", PIECES)
def test_time_grows_with_the_length_and_no_faster(piece: str) -> None:
    choices = ("a b c d " * 20, "iron", "zinc " * 30, "lead")
    text = (piece * (100_000 // len(piece) + 1))[:100_000]
    begin = time.process_time()
    named_choice(text, choices)
    assert time.process_time() - begin < 5.0


def test_every_pair_of_short_statements_is_one_of_three_readings() -> None:
    # The later statement, or nothing where the two together are undecided; never the earlier.
    for one, other in itertools.product("ABCD", repeat=2):
        found = named_choice(f"Answer: {one}\nAnswer: {other}", METALS)
        assert found == LABELS.index(other)
