"""A model as a reader of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradalign.models.event_space import EventSpace
from gradalign.models.prompts.render import render, stop_token_ids
from gradalign.questions import Prompt, Question
from gradalign.stages.matching import usual_first
from gradalign.stages.preparation.prompt_checks import PromptNotes, check_rows, naming


@dataclass(frozen=True)
class Reader:
    """A model as a reader of prompts.

    Attributes:
        label: the words for it in messages, such as "teacher demo:strong".
        model: its checkpoint.
        tokenizer: its tokenizer.
        template: the text of a chat template of the user's own, if any.
        template_kwargs: what its chat template is given.
        limit: its context length, None if unknown.
        limit_note: why that is less than its configuration says, for messages; mostly empty.
        vocab_size: size of its output layer.
        commit: the hub commit of its configuration, None for a folder.
        generation_stops: end tokens of its generation_config.json.
        clock: the moment that its chat template is told when it asks for the time.
        notes: where to put what is to be minded about its chat template.
        tokens: what it can say.
    """

    label: str
    model: str
    tokenizer: Any
    template: str | None
    template_kwargs: dict[str, Any]
    limit: int | None
    limit_note: str
    vocab_size: int
    commit: str | None
    generation_stops: tuple[int, ...]
    clock: str
    notes: PromptNotes
    tokens: EventSpace

    def render(self, question: Question, prompt: Prompt, response_prefix: str) -> list[int]:
        """Turn a prompt into token ids that the model has rows for.

        Raises:
            UsageError: it cannot be rendered, or not without loss; the question is named.
        """
        with naming(question.id, self.label):
            ids = render(
                self.tokenizer,
                prompt,
                chat_template=self.template,
                template_kwargs=self.template_kwargs,
                response_prefix=response_prefix,
                clock=self.clock,
            )
            check_rows(ids, self.vocab_size, self.tokenizer, self.model)
            self.notes.look(
                self.label, prompt, self.tokenizer, self.template, self.template_kwargs, self.clock
            )
        return ids

    def ends(self) -> list[int]:
        """Return the tokens that end its responses, the usual one first."""
        named = stop_token_ids(
            self.tokenizer,
            list(self.generation_stops),
            chat_template=self.template,
            template_kwargs=self.template_kwargs,
        )
        return usual_first(self.tokenizer, named)
