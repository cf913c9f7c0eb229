"""The tokens that a model can say, and models cut down to them.

A checkpoint's output layer often has more rows than its tokenizer has tokens: the vocabulary is
padded to a multiple of 64 or 128, in models of one family by different amounts. A softmax over all
rows gives those that stand for no token some mass, and two models of the same tokens then differ
although they say the same. Here a model's logits are cut to given tokens, so that whatever is
computed from them is a distribution over these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EventSpace:
    """A set of token ids.

    Attributes:
        ranges: the ids as [begin, end), rising and apart.
    """

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, ids: Iterable[int]) -> EventSpace:
        """Return the space of some ids."""
        known = np.unique(np.fromiter(ids, dtype=np.int64))
        if not len(known):
            return cls(())
        gaps = np.flatnonzero(np.diff(known) > 1)
        begins = known[np.r_[0, gaps + 1]].tolist()
        ends = (known[np.r_[gaps, len(known) - 1]] + 1).tolist()
        return cls(tuple(zip(begins, ends, strict=True)))

    @classmethod
    def stored(cls, ranges: Iterable[Sequence[int]]) -> EventSpace:
        """Return the space of ranges as JSON has them."""
        return cls(tuple((int(begin), int(end)) for begin, end in ranges))

    @property
    def size(self) -> int:
        """How many ids there are."""
        return sum(end - begin for begin, end in self.ranges)

    @property
    def end(self) -> int:
        """The id after the last one, 0 if there is none."""
        return self.ranges[-1][1] if self.ranges else 0

    def __contains__(self, token_id: object) -> bool:
        """Whether an id is one of the space."""
        return any(begin <= token_id < end for begin, end in self.ranges)  # type: ignore[operator]

    def mask(self, ids: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Say of each id whether it is one of the space; same shape."""
        ids = np.asarray(ids, dtype=np.int64)
        edges = np.array(self.ranges, dtype=np.int64).reshape(-1)
        return np.asarray(np.searchsorted(edges, ids, side="right") % 2 == 1)

    def common(self, other: EventSpace) -> EventSpace:
        """Return the ids that are in both."""
        pieces = [
            (max(begin, first), min(end, last))
            for begin, end in self.ranges
            for first, last in other.ranges
        ]
        return EventSpace(tuple(sorted(piece for piece in pieces if piece[0] < piece[1])))

    def ids(self) -> Ints:
        """Return the ids, rising."""
        return np.flatnonzero(self.mask(np.arange(self.end)))

    def missing(self, num_rows: int) -> Ints:
        """Return the ids below `num_rows` that are not in the space, rising."""
        every = np.arange(num_rows)
        return every[~self.mask(every)]


def event_space(tokenizer: Any, num_rows: int) -> EventSpace:
    """Return the tokens of a model: ids that its tokenizer knows and its output layer has.

    Args:
        tokenizer: the model's tokenizer; added tokens count.
        num_rows: rows of the output layer.
    """
    known = EventSpace.of(tokenizer.get_vocab().values())
    return known.common(EventSpace(((0, num_rows),)) if num_rows > 0 else EventSpace(()))


@contextmanager
def only(model: torch.nn.Module, space: EventSpace | None) -> Iterator[None]:
    """Cut a model's logits to the tokens of a space while the block lasts.

    Logits behind the space's last id are left out, and those of other ids outside it are minus
    infinity, so that every softmax of them is one over the space. A model whose rows all stand
    for tokens gives what it gives without this, bit for bit.

    Args:
        model: a causal language model of transformers.
        space: the tokens; None for all rows.
    """
    if space is None:
        yield
        return
    cut = Cut(space)

    def hook(_: torch.nn.Module, __: Any, output: Any) -> Any:
        output.logits = cut(output.logits)
        return output

    handle = model.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class Cut:
    """Cuts logits to a space, as `only` does.

    Args:
        space: the tokens.
    """

    def __init__(self, space: EventSpace) -> None:
        self._space = space
        self._missing: dict[tuple[int, Any], torch.Tensor] = {}

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits [..., V] without what lies behind the space, and with its holes closed."""
        import torch

        space = self._space
        if logits.shape[-1] > space.end:
            logits = logits[..., : space.end]
        if len(space.ranges) > 1 or space.ranges[0][0] > 0:
            key = (logits.shape[-1], logits.device)
            if key not in self._missing:
                ids = torch.from_numpy(space.missing(key[0]))
                self._missing[key] = ids.to(logits.device)
            logits = logits.index_fill(-1, self._missing[key], -np.inf)
        return logits
