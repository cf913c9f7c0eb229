"""Logits that are not numbers: found where they come out of a model, and said whose they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gradalign.errors import EngineError

if TYPE_CHECKING:
    import torch


class NotNumbersError(EngineError):
    """A model gave no distribution: a NaN, an infinite logit, or minus infinity everywhere.

    Args:
        index: which of the sequences that were given, or the key of the request; None if it is
            not known.
        place: where in it, in words.
    """

    def __init__(self, index: Any = None, place: str = "") -> None:
        super().__init__(
            f"the model's logits are not numbers{f' {place}' if place else ''}.",
            "Try --dtype float32, or check the model's weights.",
        )
        self.index = index
        self.place = place


def check_logits(logits_LV: torch.Tensor, index: int) -> None:
    """Check that every row of logits makes a distribution; a single NaN spoils its row.

    Args:
        logits_LV: one row per response token, [L, V].
        index: the sequence, for the error.

    Raises:
        NotNumbersError: naming the first row that does not.
    """
    # The maximum is NaN if any logit is, and infinite if one is +inf or all are -inf.
    fine_L = logits_LV.amax(dim=-1).isfinite()
    if not bool(fine_L.all()):
        first = int(fine_L.logical_not().int().argmax())
        raise NotNumbersError(index, f"at token {first} of {len(fine_L)} read")


@contextmanager
def at_index(index: int) -> Iterator[None]:
    """Put the index of a sequence or request into the error of a model without numbers."""
    try:
        yield
    except NotNumbersError as error:
        error.index = index
        raise


@contextmanager
def naming(label: str, question: Callable[[Any], str]) -> Iterator[None]:
    """Say in the error of a model without numbers which model it was, and on which question.

    Args:
        label: the model in words, such as "teacher demo:strong".
        question: the question id of a sequence's index or a request's key.

    Raises:
        NotNumbersError: with both.
    """
    try:
        yield
    except NotNumbersError as error:
        where = "" if error.index is None else f"question {question(error.index)}: "
        place = f" {error.place}" if error.place else ""
        error.message = f"{where}the logits of {label} are not numbers{place}."
        error.hint = (
            "Check the weights of that model, or try --dtype float32; finished shards are kept."
        )
        error.args = (error.message,)
        raise
