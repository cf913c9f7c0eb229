"""Verifiers that compare text: exact, regex and choice, and those that belong to tasks."""

from __future__ import annotations

import re
from functools import partial

from gradalign.errors import TaskError, UnknownNameError, UsageError
from gradalign.tasks.base import LABELS, Question
from gradalign.verifiers.base import VERIFIERS, FunctionVerifier, Verifier
from gradalign.verifiers.boxed import last_boxed


def no_argument(name: str, argument: str) -> None:
    """Refuse `name:something` for a verifier without options."""
    if argument:
        raise UsageError(f"verifier {name} takes no argument, got {argument!r}.", f"Write {name}.")


@VERIFIERS.register("exact")
def exact(argument: str) -> Verifier:
    """Whole response equals the answer, both without surrounding blanks."""
    no_argument("exact", argument)
    return FunctionVerifier(_equal, needs_answer=True, in_process=True)


def _equal(text: str, question: Question) -> float:
    return float(text.strip() == (question.answer or "").strip())


@VERIFIERS.register("regex")
def regex(argument: str) -> Verifier:
    """Group 1 of the pattern's last match equals the answer, both without surrounding blanks.

    Raises:
        UsageError: no pattern, a malformed one, or one without a group.
    """
    if not argument:
        raise UsageError("verifier regex has no pattern.", "Write regex:PATTERN.")
    try:
        pattern = re.compile(argument)
    except re.error as error:
        raise UsageError(f"verifier regex:{argument}: {error}.", "Repair the pattern.") from None
    if not pattern.groups:
        raise UsageError(
            f"verifier regex:{argument} has no group.", "Put what is the answer in parentheses."
        )
    return FunctionVerifier(partial(_regex_equal, pattern), needs_answer=True)


def _regex_equal(pattern: re.Pattern[str], text: str, question: Question) -> float:
    found = None
    for match in pattern.finditer(text):
        found = match.group(1)
    return float(found is not None and found.strip() == (question.answer or "").strip())


@VERIFIERS.register("choice")
def choice(argument: str) -> Verifier:
    r"""The option that the response settles on is the answer's.

    The response's word is, in this order: its last \boxed{}, what follows its last "answer is"
    or "answer:", its last line. It names an option by letter (B, (B), B., "B) text") or by the
    option's text. So may the row's answer; a letter goes before a text.
    """
    no_argument("choice", argument)
    return FunctionVerifier(
        _choice_equal, needs_answer=True, in_process=True, check_function=_check_choice
    )


_CUE = re.compile(r"\banswer(?: is\b|[*_]*:)", re.IGNORECASE)
_LETTER = re.compile(r"[(\[]?([A-Z])([)\].:,]|(?= -)|$)(.*)", re.DOTALL)
_NOUN = re.compile(r"(?:option|choice)\b:?\s?", re.IGNORECASE)
_MARKUP = re.compile(r"[*_`$]+")
_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed)\s?\{([^{}]*)\}")


def gold_choice(question: Question) -> int | None:
    """Return the index of the option that the row's answer names, None if it names none."""
    answer = (question.answer or "").strip()
    if len(answer) == 1 and answer in LABELS[: len(question.choices)]:
        return LABELS.index(answer)
    return _by_text(answer, question.choices)


def _choice_equal(text: str, question: Question) -> float:
    named = named_choice(text, question.choices)
    return float(named is not None and named == gold_choice(question))


def named_choice(text: str, choices: tuple[str, ...]) -> int | None:
    """Return the index of the option that a response settles on, None if on none."""
    boxed = last_boxed(text)
    if boxed is not None:
        return _resolve(boxed, choices)
    cues = [match.end() for match in _CUE.finditer(text)]
    if cues:
        line = text[cues[-1] :].lstrip(" \t:*_\n").partition("\n")[0]
        return _resolve(line, choices)
    return _resolve(text.rstrip().rpartition("\n")[2], choices)


def _resolve(candidate: str, choices: tuple[str, ...]) -> int | None:
    plain = _MARKUP.sub("", _COMMAND.sub(r"\1", candidate)).strip()
    noun = _NOUN.match(plain)
    if noun:
        plain = plain[noun.end() :]
    letter = _LETTER.match(plain)
    if letter and letter.group(1) in LABELS[: len(choices)]:
        index = LABELS.index(letter.group(1))
        other = _by_text(letter.group(3).strip(" -.:)]"), choices)
        # "B" alone, or "B) text" that agrees with itself or goes on as a sentence. After a comma
        # only its own text: "B, C" is no answer.
        undecided = other is None and letter.group(2) != ","
        return index if undecided or other == index else None
    return _by_text(plain, choices)


def _by_text(text: str, choices: tuple[str, ...]) -> int | None:
    wanted = _normal(text)
    found = [index for index, item in enumerate(choices) if _normal(item) == wanted]
    return found[0] if len(found) == 1 else None


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _check_choice(question: Question) -> None:
    if not question.choices:
        raise TaskError(
            f"question {question.id!r} has no choices.", "The verifier choice needs `choices`."
        )
    if len(question.choices) > len(LABELS):
        raise TaskError(
            f"question {question.id!r} has {len(question.choices)} choices.",
            f"There are letters for {len(LABELS)}.",
        )
    if gold_choice(question) is None:
        raise TaskError(
            f"question {question.id!r}: the answer {question.answer!r} is none of its choices.",
            "Give the letter of a choice or its text.",
        )


@VERIFIERS.register("demo")
def demo(argument: str) -> Verifier:
    """Scorer of the bundled addition task."""
    from gradalign.demo.addition import verify

    if argument.partition(":")[0] != "addition":
        raise UnknownNameError(f"unknown verifier 'demo:{argument}'.", "Known: demo:addition.")
    return FunctionVerifier(
        lambda text, question: verify(text, question.answer or ""),
        needs_answer=True,
        in_process=True,
    )
