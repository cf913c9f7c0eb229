"""What every question must fulfil, and the order in which a task hands questions out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gradalign.errors import TaskError
from gradalign.plain_numbers import plain_number, without_long_ints
from gradalign.questions import Message, Prompt, Question


def select(
    questions: Sequence[Question], limit: int | None, ids: Sequence[str], seed: int, source: str
) -> list[Question]:
    """Pick and order questions, as `select_ids` does."""
    known = [question.id for question in questions]
    return [questions[index] for index in select_ids(known, limit, ids, seed, source)]


def select_ids(
    known: Sequence[str], limit: int | None, ids: Sequence[str], seed: int, source: str
) -> list[int]:
    """Return the places in `known` of the questions to use, in the order to use them.

    With `ids`, those questions in the order asked for. Without, all of them by a hash of
    (seed, id): the order does not depend on the order in the file, and a question keeps its
    place relative to the others when rows are added. `limit` then keeps the first ones.

    Raises:
        TaskError: `source` lacks one of `ids`.
    """
    if ids:
        places = {identifier: index for index, identifier in enumerate(known)}
        missing = [identifier for identifier in ids if identifier not in places]
        if missing:
            raise TaskError(
                f"{source} has no question {missing[0]!r}.",
                f"It has {len(known)} questions, such as {', '.join(sorted(known)[:5])}.",
            )
        chosen = [places[identifier] for identifier in dict.fromkeys(ids)]
    else:
        chosen = sorted(range(len(known)), key=lambda index: (_place(seed, known[index]), index))
    return chosen if limit is None else chosen[:limit]


def _place(seed: int, question_id: str) -> bytes:
    return hashlib.blake2b(
        f"{seed}\x00{question_id}".encode("utf-8", "surrogatepass"), digest_size=8
    ).digest()


def check_question(question: Question, where: str) -> None:
    """Check what does not depend on the verifier: the id and every text a model may be shown.

    Args:
        question: what a row was turned into.
        where: file and line, or task and row, for the message.

    Raises:
        TaskError: an unusable id, an empty prompt, or text that is not valid Unicode.
    """
    if not isinstance(question.id, str) or not question.id.strip():
        raise TaskError(f"{where}: the question has no id.", "Give each row a unique `id`.")
    if not question.id.isprintable():
        raise TaskError(
            f"{where}: the id {question.id!r} has control characters.",
            "Ids name rows of the report: use printable characters.",
        )
    named = f"{where}: question {question.id!r}"
    check_prompt(question.prompt, f"{named}: the prompt")
    for name, prompt in question.contexts.items():
        check_prompt(prompt, f"{named}: the prompt of context {name!r}")
    for name, text in (
        ("answer", question.answer),
        ("solution", question.solution),
        ("feedback", question.feedback),
        *(("choice", choice) for choice in question.choices),
    ):
        if text is not None:
            _check_unicode(text, f"{named}: the {name}")


def check_prompt(prompt: Prompt, what: str) -> None:
    """Refuse prompts that show a model nothing, or that no tokenizer can encode.

    Raises:
        TaskError: the prompt is empty, has no messages, or holds lone surrogates.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise TaskError(f"{what} is empty.", "Give it a text or drop the row.")
        _check_unicode(prompt, what)
        return
    for message in prompt:
        if isinstance(message, Message) and not isinstance(message.content, str):
            raise TaskError(
                f"{what} has a message ({message.role}) whose content is not a text.",
                "Message contents are texts: images, calls of tools and parts cannot be shown.",
            )
    if not prompt or not any(message.content.strip() for message in prompt):
        raise TaskError(f"{what} is empty.", "Give it a message with text or drop the row.")
    for message in prompt:
        if not isinstance(message, Message) or not message.role:
            raise TaskError(f"{what} has a message without a role.", "Use system, user, assistant.")
        _check_unicode(message.content, what)


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TaskError(
            f"{what} holds the lone surrogate {text[error.start]!a} at character {error.start}, "
            "which is not text.",
            "Repair the row's encoding or drop it.",
        ) from None


def check_unique(questions: Iterable[tuple[Question, str]]) -> None:
    """Refuse two questions of one id, naming both places.

    Raises:
        TaskError: an id occurs twice.
    """
    seen: dict[str, str] = {}
    for question, where in questions:
        if question.id in seen:
            raise TaskError(
                f"{where}: id {question.id!r} is already that of {seen[question.id]}.",
                "Give each row an id of its own.",
            )
        seen[question.id] = where


def check_answer(question: Question, where: str, verifier: str) -> None:
    """Refuse a row without an answer when the verifier compares with one.

    Raises:
        TaskError: there is no answer.
    """
    if question.answer is None or not question.answer.strip():
        raise TaskError(
            f"{where}: question {question.id!r} is a row without an answer.",
            f"The verifier {verifier} compares with it: give the row an `answer` or drop it.",
        )


def text_of(value: object, what: str) -> str | None:
    """Turn an answer as files hold it into text: strings as they are, numbers in plain digits.

    A missing value is None; true and false become "true" and "false". How a file spells a number
    does not matter: 46.0 is "46" and 1e-05 is "0.00001" (see `gradalign.plain_numbers`).

    Raises:
        TaskError: NaN, an infinity, a whole float that has lost digits, or a value that is not a
            scalar.
    """
    if value is None or isinstance(value, str):
        return value if value is None else str(value)
    if type(value).__name__ in {"bool", "bool_"}:  # also numpy's
        return "true" if value else "false"
    try:
        text = plain_number(value)
    except ValueError as error:
        missing = "NaN often stands for a missing value: " if value != value else ""
        raise TaskError(
            f"{what} is {error}.",
            f"{missing}{'give' if missing else 'Give'} a text or a number that can be written "
            "out, or drop the row.",
        ) from None
    if text is None:
        raise TaskError(f"{what} is of type {type(value).__name__}.", "Give a text or a number.")
    return text


def in_text(question: Question, where: str) -> Question:
    """Turn the numbers that a task of the user's own gave as answer or choices into text.

    Raises:
        TaskError: one of them is neither a text nor a number; the choices are not a list.
    """
    named = f"{where}: question {str(question.id)!r}"
    given: object = question.choices  # whatever the type says
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TaskError(f"{named}: `choices` is not a list.", 'Write ("...", "...").')
    choices = [text_of(choice, f"{named}: a choice") for choice in given]
    for name in ("solution", "feedback"):
        if not isinstance(getattr(question, name), str | None):
            raise TaskError(f"{named}: `{name}` is not a text.", "Give a text or leave it out.")
    return replace(
        question,
        answer=text_of(question.answer, f"{named}: the answer"),
        choices=tuple("" if choice is None else choice for choice in choices),
        metadata=without_long_ints(question.metadata),
    )
