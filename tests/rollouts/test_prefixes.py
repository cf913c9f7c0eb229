"""Trunks against brute force."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gradalign.engines.transformers.shared_prefixes import find_trunks

ids = st.lists(st.integers(0, 2), max_size=6).map(tuple)


@given(st.lists(ids, max_size=12))
def test_trunks_are_the_maximal_prefixes(prefixes: list[tuple[int, ...]]) -> None:
    trunks = find_trunks(prefixes)
    distinct = set(prefixes) - {()}
    maximal = {p for p in distinct if not any(q != p and q[: len(p)] == p for q in distinct)}
    assert sorted(trunks.ids) == sorted(maximal)
    for prefix, trunk in zip(prefixes, trunks.trunk_of, strict=True):
        if prefix:
            assert trunks.ids[trunk][: len(prefix)] == prefix
        else:
            assert trunk == -1
