"""Prompts as token ids: raw strings, chat templates, stop tokens and special tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from gradalign.errors import UsageError
from gradalign.models.prompts.begin_token import check_begin, tokenise_raw
from gradalign.models.prompts.chat import (
    Apply,
    End,
    chat_text,
    check_repeatable,
    fixed_clock,
    ignores_generation_prompt,
)
from gradalign.questions import Message, Prompt

# What this module decides itself; a template may use any other name.
_RESERVED = frozenset(
    {
        "conversation",
        "messages",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "tokenizer_kwargs",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "padding",
        "truncation",
        "max_length",
        "strftime_now",
    }
)

_PROBE = "probe of the end of a turn"


def render(
    tokenizer: Any,
    prompt: Prompt,
    *,
    chat_template: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    response_prefix: str = "",
    clock: str = "",
) -> list[int]:
    """Turn a prompt into token ids.

    A raw string is tokenised as it stands, with the special tokens that the tokenizer itself
    puts in front. Messages go through the chat template, up to where the response begins, and
    get no special tokens but the template's. A last turn of the assistant's is gone on with.

    Args:
        tokenizer: a transformers tokenizer.
        prompt: text or messages.
        chat_template: a template's text, None for the tokenizer's own.
        template_kwargs: variables for the template, such as enable_thinking.
        response_prefix: text that the response starts with; the ids include it.
        clock: the moment, in ISO format, that templates are told when they ask for the time;
            empty for now.

    Raises:
        UsageError: there is no chat template, it refuses these messages or leaves out what one
            of them says, or the begin token would stand inside the prompt.
    """
    if isinstance(prompt, str):
        text = prompt + response_prefix
        ids = tokenise_raw(tokenizer, text)
        # An end token that the tokenizer appends would end the response before it starts.
        eos, eos_token = tokenizer.eos_token_id, tokenizer.eos_token
        if ids and eos_token and ids[-1] == eos and not text.endswith(eos_token):
            ids.pop()
    else:
        text = prompt_text(
            tokenizer,
            prompt,
            chat_template=chat_template,
            template_kwargs=template_kwargs,
            clock=clock,
        )
        ids = list(tokenizer(text + response_prefix, add_special_tokens=False)["input_ids"])
    if not ids:
        raise UsageError(
            "a prompt became no tokens at all.", "Give it text that the tokenizer knows."
        )
    return check_begin(tokenizer, ids, prompt, response_prefix)


def prompt_text(
    tokenizer: Any,
    messages: tuple[Message, ...],
    *,
    chat_template: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    clock: str = "",
) -> str:
    """Put messages through the chat template, up to where the response begins.

    Arguments and errors are those of `render`.
    """
    apply, name = _applied(tokenizer, chat_template, template_kwargs, clock), _name(tokenizer)
    check_repeatable(messages, apply, effective_template(tokenizer, chat_template) or "", name)
    return chat_text(messages, apply, name)


def template_notes(
    tokenizer: Any,
    messages: tuple[Message, ...],
    *,
    chat_template: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    clock: str = "",
) -> list[str]:
    """Return what to mind about a chat template that can be used all the same.

    Arguments are those of `render`. Each note is a sentence that begins with "the chat template".
    """
    apply = _applied(tokenizer, chat_template, template_kwargs, clock)
    notes = []
    if ignores_generation_prompt(messages, apply):
        notes.append(
            "the chat template ignores add_generation_prompt, so the response begins inside the "
            f"{messages[-1].role}'s turn."
        )
    later = _applied(tokenizer, chat_template, template_kwargs, _ANOTHER_MOMENT)
    if clock and chat_text(messages, apply, "") != chat_text(messages, later, ""):
        notes.append(
            f"the chat template tells the time, which is {clock} in every prompt of this run."
        )
    return notes


_ANOTHER_MOMENT = "1987-12-09T08:17:06.543210"


def _applied(
    tokenizer: Any,
    chat_template: str | None,
    template_kwargs: Mapping[str, Any] | None,
    clock: str,
) -> Apply:
    """Return the chat template as a function of messages and of how their end is written."""

    def apply(messages: list[dict[str, Any]], end: End) -> str:
        return _apply(
            tokenizer, messages, chat_template, template_kwargs or {}, end=end, clock=clock
        )

    return apply


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or "this tokenizer")


def effective_template(tokenizer: Any, chat_template: str | None = None) -> str | None:
    """Return the chat template that `render` uses, None if there is none."""
    if chat_template is not None:
        return chat_template
    own = getattr(tokenizer, "chat_template", None)
    if isinstance(own, Mapping):
        own = own.get("default")
    return own or None


def template_hash(
    tokenizer: Any,
    chat_template: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Return a hash of the chat template and its variables, "none" without a template."""
    template = effective_template(tokenizer, chat_template)
    if template is None:
        return "none"
    settings = json.dumps(dict(template_kwargs or {}), sort_keys=True, default=str)
    return "sha256:" + hashlib.sha256(f"{template}\x00{settings}".encode()).hexdigest()


def stop_token_ids(
    tokenizer: Any,
    generation: Any = None,
    extra: Iterable[int] = (),
    *,
    chat_template: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> tuple[int, ...]:
    """Return every token id that ends a response, sorted.

    The tokenizer's end token, those of the generation config, the token that the chat template
    puts after an assistant's turn, and `extra`.

    Args:
        tokenizer: a transformers tokenizer.
        generation: a GenerationConfig, a model config, an id, several ids, or None.
        extra: further ids, of the user's own.
        chat_template: as for `render`.
        template_kwargs: as for `render`.

    Raises:
        UsageError: one of `extra` is not a token of this tokenizer.
    """
    stops = {tokenizer.eos_token_id, *_ids_of(generation)}
    stops.add(end_of_turn_id(tokenizer, chat_template, template_kwargs))
    size = len(tokenizer)
    for token in extra:
        if not 0 <= token < size:
            raise UsageError(
                f"stop token id {token} is not one of the tokenizer's {size}.",
                "Check --stop-token-id.",
            )
        stops.add(token)
    return tuple(sorted(token for token in stops if token is not None))


def end_of_turn_id(
    tokenizer: Any,
    chat_template: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> int | None:
    """Return the special token that the template puts right after an assistant's turn, if any.

    A base model's own end token is often another one than the template's.
    """
    if effective_template(tokenizer, chat_template) is None:
        return None
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
    try:
        text = _apply(tokenizer, turns, chat_template, template_kwargs or {}, end="closed")
    except UsageError:  # a template for other roles only
        return None
    _, found, rest = text.rpartition(_PROBE)
    ids = tokenizer(rest.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    return int(ids[0]) if ids and ids[0] in _marked_special(tokenizer) else None


def special_token_ids(tokenizer: Any, chat_template: str | None = None) -> frozenset[int]:
    """Return the ids that are not text of a response's own.

    Those that the tokenizer calls special, and every added token that the chat template writes
    (such as a tag for thinking or for a tool call).
    """
    special = set(_marked_special(tokenizer))
    template = effective_template(tokenizer, chat_template) or ""
    for token, index in tokenizer.get_added_vocab().items():
        if token and token in template:
            special.add(index)
    return frozenset(special)


def _marked_special(tokenizer: Any) -> set[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {
        *tokenizer.all_special_ids,
        *(index for index, token in added.items() if getattr(token, "special", False)),
    }


def _ids_of(generation: Any) -> list[int]:
    if generation is None:
        return []
    if isinstance(generation, int):
        return [generation]
    if isinstance(generation, Mapping):
        return _ids_of(generation.get("eos_token_id"))
    if isinstance(generation, Iterable):
        return [int(token) for token in generation]
    return _ids_of(getattr(generation, "eos_token_id", None))


def _apply(
    tokenizer: Any,
    messages: list[dict[str, Any]],
    chat_template: str | None,
    template_kwargs: Mapping[str, Any],
    *,
    end: End,
    clock: str = "",
) -> str:
    template = effective_template(tokenizer, chat_template)
    if template is None:
        raise UsageError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template, and the question "
            "is given as messages.",
            "Give one with --chat-template FILE, or give the questions as raw prompts.",
        )
    clash = sorted(_RESERVED & template_kwargs.keys())
    if clash:
        raise UsageError(
            f"chat template variable {clash[0]!r} cannot be set.", "It is decided by gradalign."
        )
    import jinja2

    # A template that asks for the time is told the run's, for every prompt the same.
    told = {"strftime_now": fixed_clock(clock)} if clock and "strftime_now" in template else {}
    try:
        return str(
            tokenizer.apply_chat_template(
                messages,
                chat_template=template,
                add_generation_prompt=end == "asked",
                continue_final_message=end == "open",
                tokenize=False,
                **told,
                **template_kwargs,
            )
        )
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UsageError(
            f"the chat template of {tokenizer.name_or_path} refuses messages of the roles "
            f"{roles}: {(str(error).splitlines() or [type(error).__name__])[0]}.",
            "Use another --chat-template, other roles, or other --chat-template-kwargs.",
        ) from error
