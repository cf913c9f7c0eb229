"""Rotary frequencies that depend on the longest sequence of a batch, and up to where they do not.

LongRoPE (Phi-3, Phi-4-mini) divides its frequencies by one list of factors while the longest
sequence of a forward pass has at most `original_max_position_embeddings` tokens, and by another
beyond; "dynamic" NTK scaling recomputes them from the longest sequence. Past that length the same
sequence has other logits in other company, and keys that were cached before fit none after it.
vLLM chooses LongRoPE's factors once, by `max_model_len`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_LONGROPE = {"longrope", "su"}  # "su" is what the first Phi-3 checkpoints call it


def steady_length(config: Any) -> tuple[int, str] | None:
    """Return up to how many tokens a model's rotary frequencies are the same in any batch.

    Args:
        config: a model's configuration, of text alone or with a `text_config`.

    Returns:
        That length in tokens and the name of the scaling, such as "longrope"; None if the
        frequencies never change.
    """
    text = getattr(config, "text_config", None) or config
    context = getattr(text, "max_position_embeddings", None)
    found = []
    for rope in _rope_settings(text):
        kind = str(rope.get("rope_type") or rope.get("type") or "")
        if kind in _LONGROPE and not _same_factors(rope):
            original = (
                rope.get("original_max_position_embeddings")
                or getattr(text, "original_max_position_embeddings", None)
                or context
            )
        elif "dynamic" in kind:
            original = context
        else:
            continue
        if original:
            found.append((int(original), kind))
    if getattr(text, "use_dynamic_ntk", False) and getattr(text, "seq_length", None):
        found.append((int(text.seq_length), "dynamic"))  # the first Qwen
    return min(found, default=None)


def served_otherwise(config: Any, served_length: int | None) -> bool:
    """Whether a server uses other frequencies than a pass of `steady_length` tokens.

    vLLM takes LongRoPE's long factors for all sequences when its context is longer than that.
    """
    steady = steady_length(config)
    if steady is None or served_length is None or steady[1] not in _LONGROPE:
        return False
    return served_length > steady[0]


def length_note(config: Any) -> str:
    """Return why a model's usable length is less than its context; empty if it is not."""
    text = getattr(config, "text_config", None) or config
    context = getattr(text, "max_position_embeddings", None)
    steady = steady_length(config)
    if steady is None or (context and context <= steady[0]):
        return ""
    return (
        f" (beyond {steady[0]} tokens its {steady[1]} frequencies depend on the longest sequence "
        f"of a batch: no sequence has numbers of its own there)"
    )


def _rope_settings(text: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every dictionary that describes rotary frequencies, of all layer types."""
    for name in ("rope_parameters", "rope_scaling"):
        settings = getattr(text, name, None)
        if not isinstance(settings, Mapping):
            continue
        yield settings
        yield from (part for part in settings.values() if isinstance(part, Mapping))


def _same_factors(rope: Mapping[str, Any]) -> bool:
    """Whether short and long sequences are treated alike."""
    return rope.get("short_factor") == rope.get("long_factor") and rope.get(
        "short_mscale"
    ) == rope.get("long_mscale")
