"""The context `wrong-answer`: a false but plausible answer, the same for a question every time."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gradalign.contexts.base import (
    Context,
    SimpleContext,
    digest,
    draw,
    no_argument,
    require_field,
    with_note,
)
from gradalign.contexts.registry import CONTEXTS
from gradalign.contexts.row_fields import ANSWER_NOTE
from gradalign.questions import LABELS, Attempt, Prompt, Question
from gradalign.verifiers.choice import gold_choice

_NUMBER = re.compile(r"(?<![0-9.])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_FRACTION = re.compile(r"(?:\\[dt]?frac\s*\{\s*-?|^-?\s*)([0-9]+)(?=\s*(?:\}\s*\{|/)\s*[0-9]+)")
_LETTER = re.compile(r"^(\\text\{\s*)?(\(?)([A-E])(\)?)(\s*\})?$")
_OPPOSITES = {
    one: other
    for pair in (("yes", "no"), ("true", "false"), ("even", "odd"), ("positive", "negative"))
    for one, other in (pair, pair[::-1])
}
_MAX_DIGITS = 400


@CONTEXTS.register("wrong-answer")
def wrong(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show a false but plausible answer, worded as the true one: the control.

    A row whose answer has no number, option or truth value to change is skipped.
    """
    no_argument("wrong-answer", argument)

    def prompt(
        question: Question, attempt: Attempt | None, others: Sequence[Attempt]
    ) -> Prompt | None:
        false = wrong_answer(question)
        if false is None:
            return None
        return with_note(question.prompt, ANSWER_NOTE.replace("{answer}", false))

    return SimpleContext(
        "wrong-answer",
        prompt,
        fingerprint=digest(ANSWER_NOTE),
        check_functions=(require_field("wrong-answer", "answer"),),
    )


def wrong_answer(question: Question) -> str | None:
    """Return an answer that looks like the true one and is not, or None.

    Of a multiple-choice question another option, in the form of the true answer; of an answer
    with numbers the same with one number a little off (in a fraction the numerator); of yes,
    true and their like the opposite; of a lone letter from A to E another. The choice depends
    on the question's id and answer only.
    """
    answer = (question.answer or "").strip()
    if question.choices:
        return _other_choice(question, answer)
    opposite = _OPPOSITES.get(answer.casefold())
    if opposite is not None:
        return opposite.capitalize() if answer[:1].isupper() else opposite
    letter = _LETTER.match(answer)
    if letter:
        others = [item for item in "ABCDE" if item != letter.group(3)]
        chosen = others[_draw(question) % len(others)]
        return answer[: letter.start(3)] + chosen + answer[letter.end(3) :]
    number = next(iter(_FRACTION.finditer(answer)), None)
    if number is not None:
        begin, end = number.span(1)
    else:
        numbers = list(_NUMBER.finditer(answer))
        if not numbers:
            return None
        begin, end = numbers[-1].span()
    if end - begin > _MAX_DIGITS:
        return None
    return answer[:begin] + _near(answer[begin:end], _draw(question)) + answer[end:]


def _other_choice(question: Question, answer: str) -> str | None:
    gold = gold_choice(question)
    # Options of the same text would be no less true.
    others = [
        index
        for index, text in enumerate(question.choices[: len(LABELS)])
        if gold is not None and text.strip() != question.choices[gold].strip()
    ]
    if gold is None or not others:
        return None
    chosen = others[_draw(question) % len(others)]
    return LABELS[chosen] if answer == LABELS[gold] else question.choices[chosen]


def _near(text: str, number: int) -> str:
    """Move a number a little, keeping its form and its sign.

    Whole numbers in their last digit; decimals in their third significant one at the latest,
    because verifiers of mathematics round.
    """
    plain = text.replace(",", "")
    places = len(plain.partition(".")[2])
    units = int(plain.replace(".", ""))
    steps = (1, 2, 10) if units >= 50 else (1, 2)
    scale = 10 ** max(0, len(str(units)) - 3) if places else 1
    moves = [move * scale for step in steps for move in (step, -step) if units + move * scale > 0]
    moved = units + moves[number % len(moves)]
    digits = str(moved).zfill(places + 1)
    whole, rest = digits[: len(digits) - places], digits[len(digits) - places :]
    return (f"{int(whole):,}" if "," in text else whole) + (f".{rest}" if places else "")


def _draw(question: Question) -> int:
    return draw("wrong-answer", question.id, str(question.answer))
