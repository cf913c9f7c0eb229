"""What is found out about prompts before a model reads them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from gradalign.contexts import Context
from gradalign.errors import TokenizerMismatchError, UsageError
from gradalign.models.prompts.render import template_notes
from gradalign.models.prompts.texts import texts_after
from gradalign.questions import Attempt, Prompt, Question

_MADE_UP = (
    Attempt("made-up/0", "An earlier response.", 0.0),
    Attempt("made-up/1", "Another response.", 1.0),
)


@contextmanager
def naming(question_id: str, reader: str) -> Iterator[None]:
    """Put the question and the reader in front of what is wrong with a prompt."""
    try:
        yield
    except UsageError as error:
        raise type(error)(
            f"question {question_id}, {reader}: {error.message}", error.hint
        ) from error


def check_rows(ids: Collection[int], num_rows: int, tokenizer: Any, model: str) -> None:
    """Check that a model has an embedding row for every token of a prompt.

    Tokenizers with tokens added after training have more ids than their model has rows.

    Args:
        ids: the prompt.
        num_rows: size of the model's embedding.
        tokenizer: its tokenizer.
        model: its name.

    Raises:
        TokenizerMismatchError: an id lies beyond the last row.
    """
    if not ids or max(ids) < num_rows:
        return
    beyond = sorted({token for token in ids if token >= num_rows})[:3]
    texts = texts_after(tokenizer, [[token] for token in beyond])
    shown = ", ".join(f"{text!r} ({token})" for text, token in zip(texts, beyond, strict=True))
    raise TokenizerMismatchError(
        f"the prompt has the token {shown}, and model {model} has only {num_rows} rows.",
        "Take that text out of the prompt, or give a model whose embedding was resized.",
    )


def sketch(context: Context, question: Question) -> Prompt | None:
    """Return what a context that shows attempts will look like, with made-up ones.

    None where it does not say without real ones.
    """
    try:
        return context.prompt(question, _MADE_UP[0], _MADE_UP[1:])
    except Exception:  # a plugin's may read more out of a response than these hold
        return None


def without_begin(attempts: Sequence[Attempt], tokenizer: Any) -> list[Attempt]:
    """Return attempts as they can be put into a prompt: a begin token in them would start anew."""
    begin = tokenizer.bos_token
    if not begin or tokenizer.bos_token_id == tokenizer.eos_token_id:
        return list(attempts)
    return [Attempt(item.spine_id, item.text.replace(begin, ""), item.reward) for item in attempts]


class PromptNotes:
    """Collects what to mind about the chat templates of a run.

    Attributes:
        lines: one sentence each, in the order found.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._seen: set[tuple[str, str, tuple[str, ...]]] = set()

    def look(
        self,
        label: str,
        prompt: Prompt,
        tokenizer: Any,
        chat_template: str | None,
        template_kwargs: Mapping[str, Any],
        clock: str,
    ) -> None:
        """Look at a reader's prompt, unless it was one with the same turns before.

        Raises:
            UsageError: as `render`.
        """
        if isinstance(prompt, str):
            return
        key = (
            label,
            json.dumps(dict(template_kwargs), sort_keys=True, default=str),
            tuple(message.role for message in prompt),
        )
        if key in self._seen:
            return
        self._seen.add(key)
        for note in template_notes(
            tokenizer,
            prompt,
            chat_template=chat_template,
            template_kwargs=template_kwargs,
            clock=clock,
        ):
            line = f"{label}: {note}"
            if line not in self.lines:
                self.lines.append(line)
