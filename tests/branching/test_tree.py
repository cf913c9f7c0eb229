"""The prefix tree: what passes where, against comparing every prefix, and what it costs."""

import subprocess
import sys

import numpy as np
import pytest
from language import Language

from gradalign.branching import PrefixTree

P = [0.5, 0.5]


def test_equal_prefixes_on_two_spines_are_one_node():
    tree = PrefixTree([[1, 2, 3], [1, 2, 1], [2, 2, 1]])
    first, slots = tree.add_node(0, 2, [3, 1], P)
    again, other = tree.add_node(1, 2, [1, 2], [0.4, 0.1])
    apart, _ = tree.add_node(2, 2, [1, 3], P)
    assert first == again != apart
    assert slots.tolist() == [0, 1]
    assert other.tolist() == [1, 2]
    assert tree.nodes[first].token_ids == [3, 1, 2]


def test_continuations_count_wherever_their_tokens_lead():
    language = Language(seed=1, vocab=3, depth=6)
    rng = np.random.default_rng(0)
    spines = language.sample((), 4, rng)
    tree, where = PrefixTree(spines), {}
    for number, spine in enumerate(spines):
        for position in range(len(spine)):
            prefix = spine[:position]
            index, _ = tree.add_node(number, position, [0, 1, 2][: 2 + position % 2], P + [0.1] * (position % 2))  # fmt: skip  # noqa: E501
            where[prefix] = index
    expected = {}
    for _ in range(300):
        prefix = list(where)[rng.integers(len(where))]
        node = where[prefix]
        slot = int(rng.integers(len(tree.nodes[node].token_ids)))
        start = (*prefix, tree.nodes[node].token_ids[slot])
        response = language.sample(start, 1, rng)[0]
        reward = language.value[response]
        tree.add(node, slot, response[len(start) :], reward, half=0)
        for longer in range(len(prefix), len(response)):
            at = where.get(response[:longer])
            token = response[longer]
            if at is not None and token in tree.nodes[at].token_ids:
                key = (at, tree.nodes[at].token_ids.index(token))
                n, total, forced = expected.get(key, (0, 0.0, 0))
                expected[key] = (n + 1, total + reward, forced + (longer == len(prefix)))
    for at, counts in enumerate(tree.counts):
        for slot in range(len(tree.nodes[at].token_ids)):
            found = (counts.n[0, 0, slot], counts.total[0, 0, slot], counts.forced[0, 0, slot])
            assert found == expected.get((at, slot), (0, 0.0, 0))
    passes = tree.passes()
    assert len(passes.node) == sum(n for n, _, _ in expected.values())
    assert (passes.offset >= 0).all()


def test_offset_points_behind_the_token_that_counts():
    tree = PrefixTree([[5, 6, 7, 8]])
    tree.add_node(0, 0, [5, 4], P)
    tree.add_node(0, 2, [7, 9], P)
    tree.add(0, 0, [6, 9, 3], 1.0, half=1)
    passes = tree.passes()
    assert passes.node.tolist() == [0, 1]
    assert passes.slot.tolist() == [0, 1]
    assert passes.offset.tolist() == [0, 2]
    assert tree.continuations[0].token_ids[passes.offset[1] :].tolist() == [3]


def test_without_reuse_only_the_forced_node_counts():
    tree = PrefixTree([[5, 6, 7]], reuse=False)
    tree.add_node(0, 0, [5, 4], P)
    tree.add_node(0, 1, [6, 9], P)
    tree.add(0, 0, [6, 7], 1.0, half=0)
    assert tree.counts[1].n.sum() == 0


def test_a_continuation_that_ends_at_a_node_takes_no_candidate_there():
    tree = PrefixTree([[5, 6, 7]])
    tree.add_node(0, 0, [5, 4], P)
    tree.add_node(0, 2, [7, 9], P)
    tree.add(0, 0, [6], 0.0, half=0, truncated=True)
    assert tree.counts[1].n.sum() == 0
    assert tree.counts[0].leak_n.sum() == 1
    assert tree.counts[0].truncated.sum() == 1


def test_misuse_is_refused():
    tree = PrefixTree([[5, 6]])
    with pytest.raises(ValueError, match="not on spine"):
        tree.add_node(0, 2, [1], [1.0])
    with pytest.raises(ValueError, match="without repeats"):
        tree.add_node(0, 0, [1, 1], P)
    tree.add_node(0, 0, [5, 1], P)
    with pytest.raises(ValueError, match="reward"):
        tree.add(0, 0, [6], 1.5, half=0)
    tree.add(0, 0, [6], 1.0, half=0)
    with pytest.raises(ValueError, match="before the first"):
        tree.add_node(0, 1, [6], [1.0])


MEMORY = """
import numpy as np
from gradalign.branching import PrefixTree
rng = np.random.default_rng(0)
spine = rng.integers(0, 50_000, 1100)
tree = PrefixTree([spine, rng.integers(0, 50_000, 1100)])
for position in range(0, 1000, 50):
    tree.add_node(0, position, [spine[position], 7], [0.9, 0.1])
for number in range(100_000):
    tokens = rng.integers(0, 50_000, 1000)
    if number % 4 == 0:
        tokens[:300] = spine[1:301]
    tree.add(0, 0, tokens, float(number % 2), half=number % 2)
assert tree.counts[0].n.sum() == 100_000
# They stay on the spine up to and with its token 300, which is decided at node 6.
assert [int(tree.counts[node].n.sum()) for node in (3, 6, 7)] == [25_000, 25_000, 0]
# Not ru_maxrss: a process that was forked has its parent's.
with open("/proc/self/status") as status:
    (peak,) = [line.split()[1] for line in status if line.startswith("VmHWM")]
print(int(peak) // 1024)
"""


@pytest.mark.slow
def test_a_hundred_thousand_continuations_of_a_thousand_tokens_fit_in_two_gigabytes():
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=300
    )
    assert int(done.stdout) < 2000
