"""One place that turns whatever a library raises while it loads something into our error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradalign.errors import GradalignError, ModelError

_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")

# Their text alone says what happened; of others the class is part of it.
_TELLING = (OSError, ValueError, RuntimeError, ImportError)


@contextmanager
def explained(name: str, part: str = "") -> Iterator[None]:
    """Turn any failure inside the block into a ModelError with its cause.

    Libraries and a checkpoint's own code raise what they like, also what is no Exception (the
    tokenizers' parser panics), so nothing is listed here: only Ctrl-C goes through.

    Args:
        name: the model as the user gave it.
        part: what of it is being loaded, such as "tokenizer"; nothing for the model itself.

    Raises:
        ModelError: what failed, and what to do.
    """
    try:
        yield
    except (GradalignError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise _as_model_error(name, part, error) from error


def cause(error: BaseException) -> str:
    """Return the first line of an error, with its class where the text alone says little."""
    lines = str(error).strip().splitlines()
    kind = type(error).__name__
    if not lines:
        return f"{kind}."
    text = lines[0] if isinstance(error, _TELLING) else f"{kind}: {lines[0]}"
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _as_model_error(name: str, part: str, error: BaseException) -> ModelError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    of = f"the {part} of {name}" if part else f"model {name}"
    if "GatedRepoError" in kinds or "gated repo" in text:
        return ModelError(
            f"model {name} is gated.",
            "Accept its licence on its hub page and log in with `hf auth login`.",
        )
    if kinds & {"OutOfMemoryError", "MemoryError"} or any(
        words in text.lower() for words in _NO_MEMORY
    ):
        return ModelError(
            f"{of} does not fit into memory: {cause(error)}",
            "Use --dtype bfloat16, a larger device, or a smaller model.",
        )
    if "trust_remote_code" in text:
        return ModelError(
            f"{of} needs code that comes with its checkpoint.",
            "Read that code, then pass --trust-remote-code.",
        )
    if Path(name).expanduser().is_dir():
        return ModelError(
            f"{of} cannot be loaded: {cause(error)}",
            "Check that its files are whole and of one checkpoint, and that the installed "
            "transformers knows it.",
        )
    return ModelError(
        f"{of} cannot be loaded: {cause(error)}",
        "Check the name and --revision, that the hub can be reached or the model is in the "
        "local cache, or give a folder.",
    )
