"""Boxed answers: the ways to write a number, and what is no exact answer."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradalign.questions import Question
from gradalign.verifiers import get
from gradalign.verifiers.reading.boxed import boxes, last_boxed
from gradalign.verifiers.reading.expression import exact_part, plain_number, rewrite, without_units
from gradalign.verifiers.reading.response import spoken
from tests.requires import needs
from tests.verifiers.math_rows import RIGHT, UNBOXED, WRONG, rows

needs("math_verify")


def reward(answer: str, response: str, spec: str = "math") -> float:
    return get(spec)(response, Question("q", "?", answer=answer))


def test_tables_are_long() -> None:
    assert len(set(rows(RIGHT))) == len(rows(RIGHT)) >= 150
    assert len(set(rows(WRONG))) == len(rows(WRONG)) >= 130


@pytest.mark.parametrize("spec", ["math", "math:boxed"])
@pytest.mark.parametrize(("answer", "response"), rows(RIGHT))
def test_right(answer: str, response: str, spec: str) -> None:
    assert reward(answer, response, spec) == 1.0


@pytest.mark.parametrize("spec", ["math", "math:boxed"])
@pytest.mark.parametrize(("answer", "response"), rows(WRONG))
def test_wrong(answer: str, response: str, spec: str) -> None:
    assert reward(answer, response, spec) == 0.0


@pytest.mark.parametrize(("answer", "response"), rows(UNBOXED))
def test_strict_form_wants_a_box(answer: str, response: str) -> None:
    assert reward(answer, response) == 1.0
    assert reward(answer, response, "math:boxed") == 0.0


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed 7", "7"),
        (r"\boxed7$", "7"),
        (r"\boxed 7.", "7"),
        (r"\boxed 7.5 m", "7.5"),
        (r"\boxed 1,234", "1,234"),
        (r"\boxed -7", "-7"),
        (r"\boxed\frac12", r"\frac12"),
        (r"\boxed \dfrac{1}{2}", r"\dfrac{1}{2}"),
        (r"\boxed B", "B"),
        (r"\boxed\pi", r"\pi"),
        (r"\boxed Bob", None),
        (r"\boxed 7^2", None),
        (r"\boxed 3/4", None),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\boxed{3}, \boxed{4}}", "{3}, {4}"),
        (r"\boxed{5 and \boxed{6}", "6"),
        (r"\boxed{6} and \boxed{5", None),
        (r"\boxedsolution{5}", None),
        ("\\boxed\n{5}", "5"),
    ],
)
def test_what_a_box_holds(text: str, inside: str | None) -> None:
    assert last_boxed(text) == inside


def test_boxes_are_found_in_order_with_their_places() -> None:
    text = r"so \boxed{1}, or \fbox{\{2\}}."
    assert [text[box.start : box.end] for box in boxes(text)] == [r"\boxed{1}", r"\fbox{\{2\}}"]
    assert [box.content for box in boxes(text)] == ["1", r"\{2\}"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plain", "plain"),
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),
        ("<think>a</think>b</think>c", "c"),
        ("<think>a", None),
        ("<think>a</think>b<think>c", None),
        ("<reasoning>a</reasoning>\n", "\n"),
        ("[THINK]a[/THINK]b", "b"),
    ],
)
def test_what_is_said_after_the_thinking(text: str, said: str | None) -> None:
    assert spoken(text) == said


# --- any number ------------------------------------------------------------------------------

SEPARATORS = (
    *(r"\,", r"\;", r"\:", r"\ ", r"\!", r"{,}", r",\!", ",", " ", "~", "_", "'"),
    *("\u2009", "\u202f", "\u00a0"),
)


def grouped(number: int, separator: str) -> str:
    return f"{number:,}".replace(",", separator)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(-(10**15), 10**15),
    st.sampled_from(SEPARATORS),
    st.sampled_from(("{}", "${}$", "{}.", " {} ", "\\text{{{}}}", "{}.0", "**{}**", "{{{}}}")),
    st.integers(1, 10**6),
)
def test_whole_number_equals_itself_and_no_other(
    number: int, separator: str, around: str, difference: int
) -> None:
    response = f"\\boxed{{{around.format(grouped(number, separator))}}}"
    assert reward(str(number), response) == 1.0
    assert reward(f"{number:,}", response) == 1.0
    assert reward(str(number + difference), response) == 0.0


@settings(max_examples=40, deadline=None)
@given(
    st.fractions(-50, 50, max_denominator=30).filter(lambda value: value.denominator > 1),
    st.sampled_from(
        ("\\frac{{{}}}{{{}}}", "\\dfrac{{{}}}{{{}}}", "{}/{}", "{} / {}", "{}\\over {}")
    ),
    st.fractions(Fraction(1, 30), 3, max_denominator=30),
)
def test_fraction_equals_itself_and_no_other(
    value: Fraction, form: str, difference: Fraction
) -> None:
    def latex(fraction: Fraction) -> str:
        return f"\\frac{{{fraction.numerator}}}{{{fraction.denominator}}}"

    response = f"\\boxed{{{form.format(value.numerator, value.denominator)}}}"
    assert reward(latex(value), response) == 1.0
    assert reward(latex(value + difference), response) == 0.0


@settings(max_examples=100, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_number_of_a_file_equals_its_decimal_digits(value: float) -> None:
    digits = f"{Fraction(repr(value)).numerator}"
    written = f"{value:.400f}".rstrip("0").rstrip(".") if abs(value) < 1 else None
    assert reward(repr(value), f"\\boxed{{{value!r}}}") == 1.0
    if value.is_integer() and "e" in repr(value):
        assert reward(repr(value), f"\\boxed{{{digits}}}") == 1.0
        assert reward(repr(value), f"\\boxed{{{int(digits) + 1}}}") == 0.0
    if written is not None and "e" in repr(value):
        mantissa, _, power = repr(value).partition("e")
        assert reward(repr(value), f"\\boxed{{{mantissa} \\times 10^{{{int(power)}}}}}") == 1.0


@pytest.mark.parametrize("power", range(-12, 0))
def test_small_numbers_are_told_apart(power: int) -> None:
    answer = f"3e{power:03d}"
    assert reward(answer, f"\\boxed{{0.{'0' * (-power - 1)}3}}") == 1.0
    assert reward(answer, f"\\boxed{{0.{'0' * (-power - 1)}4}}") == 0.0
    assert reward(answer, "\\boxed{0}") == 0.0
    assert reward("0", f"\\boxed{{{answer}}}") == 0.0


def test_numbers_of_thousands_of_digits() -> None:
    number = "7" * 6000
    assert reward(number, f"\\boxed{{{number}}}") == 1.0
    assert reward(number, f"\\boxed{{{number}.0}}") == 1.0
    assert reward(number, f"\\boxed{{{number[:-1]}8}}") == 0.0
    assert reward("1e9999", "\\boxed{10^{9999}}") == 0.0  # not expanded, and not equal as text
    assert reward("1e9999", "\\boxed{1e9999}") == 1.0


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet=st.characters(codec=None), max_size=40)
    | st.text(alphabet="0123456789.,eE+-^_{}\\$%'~ \u2009\u00bd\u00b2\u221axm/\u2026", max_size=30)
)
def test_any_text_can_be_rewritten_and_again_to_the_same(text: str) -> None:
    once = rewrite(text)
    plain_number(once)
    exact_part(once, "5")
    without_units(once, "5")
    assert last_boxed(f"\\boxed{{{text}") is None or "}" in text or "\\" in text


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="0123456789.,+-/()xy=%\\$ ", max_size=12))
def test_no_text_in_a_box_raises(text: str) -> None:
    assert reward("5", f"\\boxed{{{text}}}") in (0.0, 1.0)


@pytest.mark.parametrize(
    "piece",
    [
        *["\\boxed{", "\\boxed{}", "\\boxed 1,000", "{", "}", "\\", "1,", "1\\,234", "9", "1e5 "],
        *["**", "<think>", "\\text{", "\u00bd", "\u00b2", "\u221a", ".", ", ", "\\approx", "1'234"],
    ],
)
def test_time_of_reading_grows_with_the_length_and_no_faster(piece: str) -> None:
    text = (piece * (100_000 // len(piece) + 1))[:100_000]
    begin = time.process_time()
    last_boxed(spoken(text) or "")
    rewritten = rewrite(text)
    exact_part(rewritten, "5")
    plain_number(rewritten)
    without_units(rewritten, "5")
    assert time.process_time() - begin < 5.0
