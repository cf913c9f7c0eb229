"""What vLLM is opened with on a GPU: worked out from plain numbers, so no GPU is needed."""

from __future__ import annotations

from typing import Any

import pytest

from gradalign.engines import Foreseen
from gradalign.engines.vllm.settings import (
    Card,
    Sizes,
    cpu_cache_bytes,
    gpu_arguments,
    gpu_rows,
    graph_sizes,
)

GIB = 2**30


def card(gib: float, capability: tuple[int, int] = (9, 0), number: int = 1) -> Card:
    return Card(int(number * gib * GIB), int(gib * GIB), capability, can_sleep=True)


# 135 M and 1.7 G parameters in bfloat16, as SmolLM2-135M and Qwen3-1.7B have them.
SMALL = Sizes(270 * 2**20, 2 * 30 * 3 * 64 * 2, 49_152, 1024)
MIDDLE = Sizes(int(3.4 * 10**9), 2 * 28 * 8 * 128 * 2, 151_936, 2048)
LARGE = Sizes(65 * 10**9, 2 * 64 * 8 * 128 * 2, 151_936, 8192)


def test_rows_are_those_that_have_memory_at_full_length() -> None:
    assert gpu_rows(card(80), SMALL) == 1024
    # 224 MiB a sequence and 1.7 MiB of logits: 280 of them in 62.8 GiB.
    assert gpu_rows(card(80), MIDDLE) == 256
    assert gpu_rows(card(141), MIDDLE) == 512
    assert gpu_rows(card(24, (8, 6)), SMALL) == 512
    # Less than what was taken before is never taken: vLLM lets rows wait.
    assert gpu_rows(card(80), LARGE) == 256
    assert gpu_rows(card(80, number=8), LARGE) == 256
    for unknown in (
        Sizes(None, 1, 1, 1),
        Sizes(1, None, 1, 1),
        Sizes(SMALL.weight_bytes, 0, 1, 1),
    ):
        assert gpu_rows(card(80), unknown) == 256
    assert gpu_rows(card(80, (7, 5)), SMALL) == 256, "an old card"


def test_without_work_foreseen_everything_is_compiled() -> None:
    found = gpu_arguments(card(80), SMALL, None, {})
    assert found == {
        "max_num_seqs": 1024,
        "max_num_batched_tokens": 16384,
        "enable_sleep_mode": False,
        "compilation_config": {"cudagraph_capture_sizes": graph_sizes(1024)},
    }
    assert gpu_arguments(card(24), SMALL, None, {})["max_num_batched_tokens"] == 8192


@pytest.mark.parametrize(
    ("requests", "tokens", "rows", "eager"),
    [
        (96, 96 * 100, 128, True),  # 100 steps
        (30, 30 * 2000, 64, False),  # few at once, but 2,000 steps
        (30_000, 900_000, 1024, False),  # 879 steps
        (30_000, 300_000, 1024, True),
    ],
)
def test_short_work_is_not_compiled_for(requests: int, tokens: int, rows: int, eager: bool) -> None:
    found = gpu_arguments(card(80), SMALL, Foreseen(requests, tokens, SMALL.weight_bytes), {})
    assert found["max_num_seqs"] == rows
    assert found["enable_sleep_mode"]
    assert found.get("enforce_eager", False) is eager
    assert ("compilation_config" in found) is not eager


def test_the_users_arguments_are_fitted_to() -> None:
    def found(**given: Any) -> dict[str, Any]:
        return gpu_arguments(card(80), SMALL, Foreseen(96, 9600, 1), given) | given

    sizes = {"cudagraph_capture_sizes": graph_sizes(40)}
    assert found(max_num_seqs=40, enforce_eager=False)["compilation_config"] == sizes
    assert "compilation_config" not in found(enforce_eager=True)
    given = found(cudagraph_capture_sizes=[1, 2], enforce_eager=False)
    assert "compilation_config" not in given
    assert found(max_num_seqs=20_000)["max_num_batched_tokens"] == 20_000


@pytest.mark.parametrize("rows", [1, 40, 64, 256, 512, 1024, 3000])
def test_a_graph_serves_every_batch_without_much_waste(rows: int) -> None:
    sizes = graph_sizes(rows)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == rows
    assert len(sizes) <= 27
    for batch in range(17, min(rows, 1024) + 1):
        padded = next(size for size in sizes if size >= batch)
        assert padded <= 1.5 * batch


def test_a_cpus_cache_has_room_for_all_rows_twice_but_not_for_more_than_there_is() -> None:
    assert cpu_cache_bytes(128, 200, 10_000, 10**12) == 2 * 128 * 200 * 10_000
    assert cpu_cache_bytes(128, 200, 10_000, 10**9) == 4 * 10**8
    assert cpu_cache_bytes(128, 10_000, 10_000, 1) == 2 * 10_000 * 10_000
    assert cpu_cache_bytes(1, 1, 1, 10**12) == 64 * 2**20
