"""What only the embedded engine does: its caches, its memory, its manners."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradalign.engines import Completion, Request, SamplingSettings
from gradalign.engines.transformers.engine import TransformersEngine
from gradalign.engines.transformers.sampler import uniforms
from gradalign.errors import EngineError
from tests.rollouts.conftest import make_model, tree_requests

STOPS = SamplingSettings(stop_token_ids=(3, 7, 90))


def run(engine: TransformersEngine, requests: list[Request]) -> list[Completion]:
    found = dict(engine.generate(requests))
    assert sorted(found) == list(range(len(requests)))
    return [found[index] for index in range(len(requests))]


def by_hand(model: torch.nn.Module, request: Request, stops: tuple[int, ...]) -> list[int]:
    """Sample token by token from whole forward passes, without cache, batch or padding."""
    ids = list(request.prompt_ids)
    for step in range(request.max_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1].double()
        cdf = torch.softmax(logits, 0).cumsum(0)
        u = float(uniforms(np.array([request.seed], np.uint64), np.array([step]))[0])
        ids.append(int((cdf <= u * float(cdf[-1])).sum()))
        if ids[-1] in stops:
            break
    return ids[len(request.prompt_ids) :]


@pytest.mark.parametrize(
    ("kind", "store"),
    [
        ("qwen3", "SlicedStore"),
        ("llama", "SlicedStore"),
        ("mistral", "SlicedStore"),
        ("gemma3", "SlicedStore"),
        ("gpt2", "SlicedStore"),
        ("lfm2", "UniformStore"),
        ("mamba", None),
    ],
)
def test_every_architecture_samples_its_own_distribution(kind: str, store: str | None) -> None:
    model = make_model(kind)
    engine = TransformersEngine(model, sampling=STOPS, max_model_len=256, max_rows=16)
    if store:
        assert engine.usage.extra["store"] == store
    requests = tree_requests(count=2, max_tokens=14)
    for request, completion in zip(requests, run(engine, requests), strict=True):
        expected = by_hand(model, request, STOPS.stop_token_ids)
        assert completion.token_ids.tolist() == expected
    engine.close()


def test_batch_size_does_not_matter() -> None:
    model = make_model("qwen3")
    requests = tree_requests(count=2)
    results = []
    for max_rows in (1, 5, 64, 512):
        with TransformersEngine(model, sampling=STOPS, max_rows=max_rows) as engine:
            results.append([c.token_ids.tolist() for c in run(engine, requests)])
    assert all(result == results[0] for result in results)


def test_a_prefix_is_computed_once() -> None:
    """All nodes of one spine, in one batch: the longest prompt less its candidate."""
    with TransformersEngine(make_model("qwen3")) as engine:
        run(engine, tree_requests(count=5))
        assert engine.usage.prefilled_tokens == 60
        assert engine.usage.prompt_tokens > 3000


@pytest.mark.parametrize("kind", ["qwen3", "lfm2"])
def test_requests_with_the_same_tokens_share_a_row(kind: str, monkeypatch: Any) -> None:
    """One prompt, 64 seeds: the rows are the different beginnings, however they part."""
    model = make_model(kind)
    with torch.no_grad():  # a peaked distribution, as of a trained model
        model.get_output_embeddings().weight.mul_(12)
    requests = [Request((5, 9, 77, 31), 12, seed) for seed in range(64)]
    with TransformersEngine(model, sampling=STOPS, max_rows=64) as engine:
        fed = []
        step = type(engine._store).step
        monkeypatch.setattr(
            type(engine._store),
            "step",
            lambda store, token_B: fed.append(len(token_B)) or step(store, token_B),
        )
        drawn = [tuple(c.token_ids.tolist()) for c in run(engine, requests)]
    assert list(map(list, drawn)) == [by_hand(model, r, STOPS.stop_token_ids) for r in requests]
    different = {ids[:length] for ids in drawn for length in range(len(ids))}
    assert len(different) < 0.8 * sum(map(len, drawn))
    # Idle rows stay until a new layout is worth it.
    assert len(different) <= sum(fed) <= 1.5 * len(different)
    assert fed[0] == 1


def test_rows_that_there_is_no_room_for_wait() -> None:
    """More requests share a prompt than there are rows for them when they have parted."""
    model = make_model("qwen3")
    requests = [Request((5, 9, i % 3), 20, i) for i in range(90)]
    with TransformersEngine(model, max_rows=12) as engine:
        most = 0
        for _ in engine.generate(requests):
            most = max(most, engine._batch.num_rows)
        assert 6 <= most <= 12
        found = [c.token_ids.tolist() for c in run(engine, requests)]
    assert found[::7] == [by_hand(model, request, ()) for request in requests[::7]]


@pytest.mark.parametrize("kind", ["qwen3", "lfm2"])
def test_little_cache_memory_changes_nothing(kind: str) -> None:
    model = make_model(kind)
    requests = [Request((4, 9, i % 7), 48, i) for i in range(16)]
    with TransformersEngine(model, max_model_len=256) as engine:
        expected = [c.token_ids.tolist() for c in run(engine, requests)]
        once = engine.usage.prefilled_tokens
    # Room for the first tokens of many rows, not for their last: rows are paused on the way.
    per_cell = 2 * 2 * 2 * 32 * 4
    with TransformersEngine(model, max_model_len=256, cache_bytes=4 * 100 * per_cell) as engine:
        assert [c.token_ids.tolist() for c in run(engine, requests)] == expected
        assert engine.usage.generated_tokens == 16 * 48
        assert engine.usage.prefilled_tokens > once  # the paused rows, again


def test_growth_beyond_the_memory_pauses_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradalign.engines.transformers.engine._ROOM_TOKENS", 8)
    model = make_model("qwen3")
    requests = [Request((4, 9, i % 7), 60, i) for i in range(12)]
    with TransformersEngine(model) as engine:
        expected = [c.token_ids.tolist() for c in run(engine, requests)]
        once = engine.usage.prefilled_tokens
    per_cell = 2 * 2 * 2 * 32 * 4
    with TransformersEngine(model, cache_bytes=8 * 50 * per_cell) as engine:
        assert [c.token_ids.tolist() for c in run(engine, requests)] == expected
        # Paused rows are taken up again by a prefill of what they had.
        assert engine.usage.prefilled_tokens > 8 * once


class Cramped(torch.nn.Module):
    """A real model on a device that is out of memory beyond some rows."""

    def __init__(self, model: Any, limit: int) -> None:
        super().__init__()
        self.inner, self.limit, self.refused = model, limit, 0
        self.config = model.config

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> Any:
        if attention_mask.shape[0] > self.limit and attention_mask.shape[1] > 40:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.inner(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
        )


def test_out_of_memory_halves_the_batch() -> None:
    requests = [Request((4, 9, i % 7), 60, i) for i in range(40)]
    model = make_model("qwen3")
    with TransformersEngine(model) as engine:
        expected = [c.token_ids.tolist() for c in run(engine, requests)]
    cramped = Cramped(model, limit=6)
    with TransformersEngine(cramped) as engine:
        assert [c.token_ids.tolist() for c in run(engine, requests)] == expected
        assert engine.max_rows <= 6
        assert 1 <= cramped.refused <= 4
    with (
        TransformersEngine(Cramped(model, limit=0)) as engine,
        pytest.raises(EngineError, match="single sequence"),
    ):
        run(engine, requests)


def test_other_failures_of_the_model_are_not_taken_for_memory() -> None:
    model = make_model("qwen3")
    with TransformersEngine(model) as engine:

        def broken(*args: Any) -> None:
            raise RuntimeError("shape mismatch")

        handle = model.register_forward_pre_hook(broken)
        with pytest.raises(RuntimeError, match="shape mismatch"):
            run(engine, [Request((4,), 4, 1)])
        handle.remove()
        assert len(run(engine, [Request((4,), 4, 1)])) == 1


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002, the legacy generator is what is being watched
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with TransformersEngine(make_model_quietly()) as engine:
        run(engine, tree_requests(count=1))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


def make_model_quietly() -> torch.nn.Module:
    with torch.random.fork_rng():
        return make_model("qwen3")


def test_close_frees_a_loaded_model_and_returns_a_lent_one(qwen: Path) -> None:
    engine = TransformersEngine(qwen)
    model = weakref.ref(engine._call.model)
    run(engine, tree_requests(count=1))
    engine.close()
    gc.collect(2)
    assert model() is None
    lent = make_model("qwen3")
    with TransformersEngine(lent) as engine:
        assert lent.config._attn_implementation != "sdpa"
        run(engine, tree_requests(count=1))
    assert lent.config._attn_implementation == "sdpa"
    assert lent(torch.tensor([[1, 2]])).logits.shape[1] == 2


def test_bfloat16_keeps_to_its_own_seeds() -> None:
    model = make_model("qwen3").to(torch.bfloat16)
    with TransformersEngine(model) as engine:
        assert engine.usage.extra["store"] == "SlicedStore"
        first = run(engine, tree_requests(count=1))
        again = run(engine, tree_requests(count=1))
    assert all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
def test_a_sequence_too_long_for_one_pass_is_scored_in_pieces(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [tuple(map(int, np.random.default_rng(4).integers(0, 128, 90)))]
    with TransformersEngine(make_model(kind)) as engine:
        whole = [engine.logprobs(ids, [start])[0] for start in (1, 40, 90)]
        monkeypatch.setattr("gradalign.engines.transformers.scoring._LOGITS", 20 * 128)
        pieces = [engine.logprobs(ids, [start])[0] for start in (1, 40, 90)]
    for left, right in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5, rtol=0)
