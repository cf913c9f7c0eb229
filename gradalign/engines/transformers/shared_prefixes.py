"""Which parts of many prompts must be computed, when prompts are prefixes of one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Trunks:
    """A smallest set of sequences of which every given prefix is a beginning.

    Attributes:
        ids: the trunks, none a beginning of another.
        trunk_of: for each given prefix the index of its trunk, -1 for an empty prefix.
    """

    ids: list[Ids]
    trunk_of: list[int]


def find_trunks(prefixes: Sequence[Ids]) -> Trunks:
    """Cover the prefixes, which may repeat, by trunks.

    In lexicographic order a sequence that begins any other begins its next different neighbour,
    so one pass from the end finds all maximal ones. The nodes of one spine, whose prompts differ
    in the spine's length and the candidate, need a single trunk.
    """
    order = sorted(range(len(prefixes)), key=lambda i: prefixes[i])
    trunk_of = [-1] * len(prefixes)
    ids: list[Ids] = []
    later: Ids = ()
    for i in reversed(order):
        prefix = prefixes[i]
        if not prefix:
            continue
        if later[: len(prefix)] != prefix:
            ids.append(prefix)
        trunk_of[i] = len(ids) - 1
        later = prefix
    return Trunks(ids=ids, trunk_of=trunk_of)
