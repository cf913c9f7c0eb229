"""Questions from a file of the user's own: JSONL, JSON or parquet.

Columns: `id`, `prompt` (a raw string) or `messages` (a list of {role, content}), `answer`, and
optionally `solution`, `choices`, `feedback`, `contexts` ({name: prompt or messages}). Whatever
else a row has goes into `Question.metadata`, but for what other programs would show a model, such
as `tools` and `images`: that is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from gradalign.errors import TaskError
from gradalign.plain_numbers import WrittenFloat, parse_int
from gradalign.questions import Prompt, Question
from gradalign.tasks.fields import message_of, refuse_lost_fields
from gradalign.tasks.row_checks import (
    check_answer,
    check_question,
    check_unique,
    select,
    text_of,
)
from gradalign.verifiers import get

SUFFIXES = (".jsonl", ".json", ".parquet")

_OWN_COLUMNS = frozenset(
    {"id", "prompt", "messages", "answer", "solution", "choices", "feedback", "contexts"}
)


class FileTask:
    """A file with one question per row.

    The verifier is `choice` if every row has choices and `exact` otherwise.

    Args:
        path: a .jsonl, .json (a list of rows) or .parquet file.
        verifier: the verifier that will be used, to know whether rows need an answer;
            None for the task's own.
    """

    description = "questions from a file: id, prompt or messages, answer"

    def __init__(self, path: str, verifier: str | None = None) -> None:
        self.name = path
        self._path = user_path(path)
        self._given_verifier = verifier
        if not self._path.is_file():
            raise TaskError(f"questions file {path} does not exist.", "Check the path.")

    @property
    def verifier(self) -> str:
        """`choice` or `exact`, whichever fits the rows."""
        rows = self._questions
        return "choice" if rows and all(question.choices for question, _ in rows) else "exact"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return file_hash(self._path)

    @property
    def size(self) -> int:
        """Number of all questions."""
        return len(self._questions)

    def questions(
        self, limit: int | None = None, ids: Sequence[str] = (), seed: int = 0
    ) -> Sequence[Question]:
        """Return questions in the order that `select` documents.

        Raises:
            TaskError: a malformed row, a duplicate id, a missing answer; file and line are named.
        """
        self._check_answers()
        return select([question for question, _ in self._questions], limit, ids, seed, self.name)

    def _check_answers(self) -> None:
        spec = self._given_verifier or self.verifier
        verifier = get(spec)
        if verifier.needs_answer:
            for question, where in self._questions:
                check_answer(question, where, spec)
        for question, where in self._questions:
            try:
                verifier.check(question)
            except TaskError as error:
                raise TaskError(f"{where}: {error.message}", error.hint) from None

    @cached_property
    def _questions(self) -> list[tuple[Question, str]]:
        found = []
        for row, where in read_rows(self._path):
            question = question_from_row(row, where)
            check_question(question, where)
            found.append((question, where))
        if not found:
            raise TaskError(f"{self.name} holds no question.", "It needs one row per question.")
        check_unique(found)
        return found


def user_path(text: str) -> Path:
    """Return the path that a user wrote; a leading ~ is a home unless a file is called so."""
    path = Path(text)
    try:
        return path if path.exists() else path.expanduser()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, an unknown user
        return path


def question_from_row(row: Mapping[str, Any], where: str) -> Question:
    """Turn a row of the schema above into a question.

    Raises:
        TaskError: a column is missing or of a wrong type.
    """
    identifier = row.get("id")
    if isinstance(identifier, bool) or not isinstance(identifier, (str, int)):
        raise TaskError(
            f"{where}: the row has no id."
            if identifier is None
            else f"{where}: id {identifier!r} is neither a text nor a whole number.",
            "Give each row a unique `id`.",
        )
    named = f"{where}: question {str(identifier)!r}"
    prompt, messages = row.get("prompt"), row.get("messages")
    if (prompt is None) == (messages is None):
        raise TaskError(
            f"{named} has {'both' if prompt is not None else 'neither'} `prompt` "
            f"{'and' if prompt is not None else 'nor'} `messages`.",
            "Give one: `prompt` is tokenised as it stands, `messages` go through the template.",
        )
    if prompt is not None and not isinstance(prompt, str):
        raise TaskError(f"{named}: `prompt` is not a text.", "Use `messages` for a conversation.")
    if isinstance(messages, str):
        raise TaskError(f"{named}: `messages` is a text.", "Call it `prompt`.")
    refuse_lost_fields(row, named)
    contexts = row.get("contexts")
    contexts = {} if contexts is None else contexts
    if not isinstance(contexts, Mapping):
        raise TaskError(f"{named}: `contexts` is not a mapping.", "Write {name: prompt}.")
    return Question(
        id=str(identifier),
        prompt=prompt_of(messages if prompt is None else prompt, named),
        answer=text_of(row.get("answer"), f"{named}: the answer"),
        solution=_optional_text(row, "solution", named),
        choices=_choices(row.get("choices"), named),
        feedback=_optional_text(row, "feedback", named),
        contexts={
            str(name): prompt_of(value, f"{named}: context {name!r}")
            for name, value in contexts.items()
            # Parquet gives every row of a struct column all of its names.
            if value is not None
        },
        metadata={str(key): value for key, value in row.items() if key not in _OWN_COLUMNS},
    )


def prompt_of(value: object, what: str) -> Prompt:
    """Read a raw prompt or a list of messages.

    Raises:
        TaskError: it is neither.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        raise TaskError(f"{what}: a prompt is a text or a list of messages.", "See the README.")
    return tuple(message_of(item, what) for item in value)


def read_rows(path: Path, suffix: str | None = None) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (row, file and line or row number) of a .jsonl, .json or .parquet file.

    Args:
        path: the file.
        suffix: what it is to be read as, if that is not its own suffix.

    Raises:
        TaskError: the file cannot be read or a row is malformed.
    """
    suffix = path.suffix if suffix is None else suffix
    try:
        if suffix == ".parquet":
            yield from _read_parquet(path)
        elif suffix == ".json":
            yield from _read_json(path)
        else:
            yield from _read_jsonl(path)
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror or error}.", "") from error


def file_hash(path: Path) -> str:
    """Return `sha256:...` of a file."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _read_jsonl(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            data = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            row = _loads(data.rstrip(b"\r\n"), where)
            if row is not None:
                yield _mapping(row, where), where


def _read_json(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    rows = _loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), str(path))
    if not isinstance(rows, list):
        raise TaskError(
            f"{path} does not hold a list of questions.",
            "Write [{...}, {...}], or one object per line in a .jsonl file.",
        )
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        yield _mapping(row, where), where


def _read_parquet(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                narrow = _narrow(batch.schema)
                for row in batch.to_pylist():
                    number += 1
                    for name, kind in narrow.items():
                        row[name] = _narrowed(row[name], kind)
                    yield row, f"{path}, row {number}"
    except pa.ArrowException as error:
        raise TaskError(f"{path} is not a readable parquet file: {error}.", "") from error


def _narrow(schema: Any) -> dict[str, Any]:
    """Return numpy's type of the answers or choices that are floats of fewer than 64 bits."""
    import numpy as np
    import pyarrow as pa

    found: dict[str, Any] = {}
    for field in schema:
        kind = field.type
        while hasattr(kind, "value_type"):  # a list, or a dictionary
            kind = kind.value_type
        if field.name in ("answer", "choices") and pa.types.is_float32(kind):
            found[field.name] = np.float32
        elif field.name in ("answer", "choices") and pa.types.is_float16(kind):
            found[field.name] = np.float16
    return found


def _narrowed(value: Any, kind: Any) -> Any:
    """Give a number its own bits back: widened to 64 it has digits that nobody wrote."""
    if isinstance(value, list):
        return [_narrowed(item, kind) for item in value]
    return value if value is None else kind(value)


def _loads(data: bytes, where: str) -> Any:
    """Parse JSON; None for a blank line."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{where} is not UTF-8: byte {data[error.start]:#04x} at {error.start}.",
            "Save the file as UTF-8.",
        ) from None
    if not text.strip():
        return None
    try:
        return json.loads(text, parse_int=parse_int, parse_float=WrittenFloat)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if error.lineno > 1 else ""
        raise TaskError(
            f"{where}{line}: malformed JSON: {error.msg} at column {error.colno}.", "Repair it."
        ) from None
    except RecursionError:
        raise TaskError(f"{where}: the JSON is nested too deeply.", "Flatten the row.") from None


def _mapping(row: object, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise TaskError(f"{where} is not an object.", 'Write {"id": ..., "prompt": ...}.')
    return row


def _optional_text(row: Mapping[str, Any], name: str, named: str) -> str | None:
    value = row.get(name)
    if value is None or isinstance(value, str):
        return value or None
    raise TaskError(f"{named}: `{name}` is not a text.", "Give a text or leave it out.")


def _choices(value: object, named: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TaskError(f"{named}: `choices` is not a list.", 'Write ["...", "..."].')
    choices = [text_of(item, f"{named}: a choice") for item in value]
    if any(choice is None or not choice.strip() for choice in choices):
        raise TaskError(f"{named} has an empty choice.", "Give each choice a text.")
    return tuple(choice for choice in choices if choice is not None)
