"""The context `template`: a text of the user's own with named fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from gradalign.contexts.base import (
    Context,
    SimpleContext,
    digest,
    last_user,
    read_text,
    require_field,
    with_last_user,
)
from gradalign.contexts.registry import CONTEXTS
from gradalign.contexts.sibling import pick_sibling
from gradalign.contexts.wrong_answer import wrong_answer
from gradalign.errors import TaskError, UsageError
from gradalign.questions import LABELS, Attempt, Message, Prompt, Question

FIELDS = (
    "prompt",
    "id",
    "answer",
    "solution",
    "feedback",
    "choices",
    "wrong_answer",
    "sibling",
    "attempt",
)
"""What a template may name in braces, beside {metadata.COLUMN}."""

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}|[{}]")


@CONTEXTS.register("template")
def template(argument: str, questions: Sequence[Question] | None) -> Context:
    r"""Show a text of the user's own, `template:TEXT` or `template:@FILE`, with named fields.

    {prompt} must be in it. For a raw prompt the text is the whole prompt. For messages it takes
    the place of the last user message, and {prompt} is that message's text. {{ and }} are
    braces. What a row holds is put in as it is and never read as a template.

    Raises:
        UsageError: a lone brace, an unknown field, or no {prompt}.
    """
    text = read_text(argument, "context template")
    pieces = _parse(text)
    fields = [field for _, field in pieces if field]
    if "prompt" not in fields:
        raise UsageError(
            "the template has no {prompt}: the teacher would not see the question.",
            "Put {prompt} where the question goes.",
        )
    checks = [
        require_field(f"template ({{{field}}})", field)
        for field in ("answer", "solution", "feedback", "choices")
        if field in fields
    ]
    if "wrong_answer" in fields:
        checks.append(require_field("template ({wrong_answer})", "answer"))
    checks += [_require_column(field) for field in fields if field.startswith("metadata.")]

    def prompt(
        question: Question, attempt: Attempt | None, others: Sequence[Attempt]
    ) -> Prompt | None:
        whole = question.prompt
        place = None if isinstance(whole, str) else last_user(whole)
        asked = whole if isinstance(whole, str) else "" if place is None else whole[place].content
        values = {field: _value(field, asked, question, attempt, others) for field in set(fields)}
        if any(value is None for value in values.values()):
            return None
        filled = "".join(values[field] or "" if field else literal for literal, field in pieces)
        if isinstance(whole, str):
            return filled
        if place is None:
            return with_last_user(whole, filled)
        return (*whole[:place], Message("user", filled), *whole[place + 1 :])

    return SimpleContext(
        f"template:{argument}",
        prompt,
        shared=set(fields) == {"prompt"},
        needs_attempts=bool({"sibling", "attempt"} & set(fields)),
        fingerprint=digest(text),
        check_functions=tuple(checks),
    )


def _parse(text: str) -> list[tuple[str, str]]:
    """Cut a template into (literal, field) pieces; one of the two is empty."""
    pieces: list[tuple[str, str]] = []
    end = 0
    for match in _PIECE.finditer(text):
        pieces.append((text[end : match.start()], ""))
        end = match.end()
        whole = match.group()
        if whole in ("{{", "}}"):
            pieces.append((whole[0], ""))
        elif match.group(1) is None:
            line = text.count("\n", 0, match.start()) + 1
            raise UsageError(
                f"the template has a lone {whole!r} in line {line}.", "Write {{ or }} for a brace."
            )
        else:
            name = match.group(1).strip()
            if name not in FIELDS and not (name.startswith("metadata.") and name[9:]):
                raise UsageError(
                    f"the template names the unknown field {{{name}}}.",
                    f"Known: {', '.join(FIELDS)}, metadata.COLUMN; write {{{{ for a brace.",
                )
            pieces.append(("", name))
    pieces.append((text[end:], ""))
    return [piece for piece in pieces if piece != ("", "")]


def _value(
    field: str,
    asked: str,
    question: Question,
    attempt: Attempt | None,
    others: Sequence[Attempt],
) -> str | None:
    if field == "prompt":
        return asked
    if field == "choices":
        pairs = zip(LABELS, question.choices, strict=False)
        return "\n".join(f"{label}) {text}" for label, text in pairs)
    if field == "wrong_answer":
        return wrong_answer(question)
    if field == "sibling":
        chosen = pick_sibling(question, attempt, others)
        return None if chosen is None else chosen.text
    if field == "attempt":
        return None if attempt is None else attempt.text
    if field.startswith("metadata."):
        value = question.metadata.get(field.removeprefix("metadata."))
    else:
        value = getattr(question, field)
    return None if value is None else str(value)


def _require_column(field: str) -> Callable[[Question], None]:
    column = field.removeprefix("metadata.")

    def check(question: Question) -> None:
        if question.metadata.get(column) is None:
            raise TaskError(
                f"question {question.id!r} has no column {column!r}, which the template shows.",
                "Give every row that column or leave the field out.",
            )

    return check
