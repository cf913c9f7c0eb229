"""What must hold for every engine, on real models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from scipy.stats import chisquare
from transformers import LogitsProcessorList, TemperatureLogitsWarper
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from gradalign.engines import Completion, Engine, Request, SamplingSettings
from gradalign.errors import ContextOverflowError, EngineError
from tests.rollouts.conftest import ENGINE_PARAMS, VOCAB, EnginePool, tree_requests

pytestmark = [
    pytest.mark.parametrize("name", ENGINE_PARAMS),
]

STOPS = SamplingSettings(stop_token_ids=(3, 7, 90, 91))


def run(engine: Engine, requests: list[Request]) -> list[Completion]:
    found = dict(engine.generate(requests))
    assert sorted(found) == list(range(len(requests)))
    return [found[index] for index in range(len(requests))]


def same(left: Completion, right: Completion) -> bool:
    return left.finish_reason == right.finish_reason and np.array_equal(
        left.token_ids, right.token_ids
    )


def plain_logprobs(path: Path, ids: tuple[int, ...]) -> torch.Tensor:
    """Log-softmax at every position, from one forward of the model alone."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)


def test_result_depends_on_the_request_alone(name: str, engines: EnginePool) -> None:
    engine = engines.get(name, STOPS)
    requests = tree_requests()
    together = run(engine, requests)
    assert {c.finish_reason for c in together} == {"stop", "length"}
    shuffle = np.random.default_rng(1).permutation(len(requests))
    shuffled = run(engine, [requests[i] for i in shuffle])
    assert all(same(shuffled[k], together[i]) for k, i in enumerate(shuffle))
    for i in range(0, len(requests), 7):
        assert same(run(engine, [requests[i]])[0], together[i])
    assert len({tuple(c.token_ids) for c in together}) > len(requests) // 2


def test_completions_keep_their_contract(name: str, engines: EnginePool) -> None:
    engine = engines.get(name, STOPS)
    ends_in_foreign_eos = False
    for request, completion in zip(tree_requests(), run(engine, tree_requests()), strict=True):
        ids = completion.token_ids
        assert ids.dtype == np.int32
        assert 1 <= ids.size <= request.max_tokens
        assert not np.isin(ids[:-1], STOPS.stop_token_ids).any()
        if completion.finish_reason == "stop":
            assert ids[-1] in STOPS.stop_token_ids
        else:
            assert ids.size == request.max_tokens
            assert ids[-1] not in STOPS.stop_token_ids
        # 2 is the model's eos, 5 and 6 are in its generation_config: none was asked for.
        ends_in_foreign_eos |= bool(np.isin(ids[:-1], [2, 5, 6]).any())
    assert ends_in_foreign_eos


def test_stop_at_the_last_allowed_token_is_a_stop(name: str, engines: EnginePool) -> None:
    engine = engines.get(name, SamplingSettings(stop_token_ids=tuple(range(VOCAB))))
    found = run(engine, [Request((4, 5), 1, 9), Request((4, 5), 8, 9)])
    assert [c.finish_reason for c in found] == ["stop", "stop"]
    assert [c.token_ids.size for c in found] == [1, 1]


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingSettings(),
        SamplingSettings(temperature=0.7, top_k=12),
        SamplingSettings(temperature=1.3, top_p=0.8),
        SamplingSettings(temperature=1.1, top_k=20, top_p=0.9),
    ],
    ids=["plain", "top-k", "top-p", "both"],
)
def test_draws_follow_the_model(
    name: str, sampling: SamplingSettings, engines: EnginePool, qwen: Path
) -> None:
    """First and second tokens against transformers' own warpers on an exact softmax."""
    engine = engines.get(name, sampling)
    prompt = (11, 42, 9, 77)
    firsts = np.random.default_rng(5).integers(2**62, size=400)
    # Ten seeds in a row, as candidates' continuations have them: one request to a server.
    requests = [Request(prompt, 2, int(first) + i) for first in firsts for i in range(10)]
    drawn = np.array([c.token_ids for c in run(engine, requests)])
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))

    def exact(ids: tuple[int, ...]) -> np.ndarray:
        logits = plain_logprobs(qwen, ids)[-1][None]
        return torch.softmax(warpers(None, logits), dim=-1)[0].numpy()

    def check(tokens: np.ndarray, p: np.ndarray) -> None:
        counts = np.bincount(tokens, minlength=VOCAB)
        assert counts[p == 0].sum() == 0
        # Tokens in order of probability, in bins that expect enough of them each.
        order = np.argsort(-p)
        bins = np.floor(np.cumsum(p[order]) * min(len(tokens) / 8, 60) - 1e-9).astype(int)
        expected = np.bincount(bins, weights=p[order] * len(tokens))
        observed = np.bincount(bins, weights=counts[order])
        keep = expected > 0
        assert keep.sum() >= 5
        assert chisquare(observed[keep], expected[keep], sum_check=False).pvalue > 1e-4

    check(drawn[:, 0], exact(prompt))
    common = int(np.bincount(drawn[:, 0]).argmax())
    check(drawn[drawn[:, 0] == common, 1], exact((*prompt, common)))


def test_logprobs_match_a_plain_forward(name: str, engines: EnginePool, qwen: Path) -> None:
    engine = engines.get(name)
    rng = np.random.default_rng(3)
    lengths = (2, 3, 17, 64, 255, 256)  # 256 fills the context
    sequences = [tuple(map(int, rng.integers(0, VOCAB, n))) for n in lengths]
    starts = [1, 3, 9, 1, 250, 1]
    tolerance = 1e-5 if name == "transformers" else 1e-4
    for ids, start, found in zip(
        sequences, starts, engine.logprobs(sequences, starts), strict=True
    ):
        truth_TV = plain_logprobs(qwen, ids)
        truth = [float(truth_TV[t - 1, ids[t]]) for t in range(start, len(ids))]
        assert found.dtype == np.float32
        assert found.shape == (len(ids) - start,)
        np.testing.assert_allclose(found, truth, atol=tolerance, rtol=0)
    assert engine.logprobs([], []) == []


def test_bad_requests_are_refused_before_any_work(name: str, engines: EnginePool) -> None:
    engine = engines.get(name)
    before = engine.usage.generated_tokens
    good = Request((4, 5), 4, 1)
    with pytest.raises(ContextOverflowError, match="request 1 needs 250"):
        list(engine.generate([good, Request((4,) * 250, 7, 1)]))
    for bad in (
        Request((), 4, 1),
        Request((4, VOCAB), 4, 1),
        Request((4, -1), 4, 1),
        Request((4,), 0, 1),
        Request((4,), 4, 2**63),
    ):
        with pytest.raises(ValueError, match="request 1"):
            list(engine.generate([good, bad]))
    with pytest.raises(ValueError, match="start 0"):
        engine.logprobs([(4, 5)], [0])
    with pytest.raises(ContextOverflowError, match="257 tokens"):
        engine.logprobs([(4,) * 257], [1])
    assert engine.usage.generated_tokens == before


def test_a_lazy_source_is_refused_where_it_goes_wrong(name: str, engines: EnginePool) -> None:
    engine = engines.get(name)

    def source() -> Iterator[Request]:
        yield Request((4, 5), 4, 1)
        yield Request((4, VOCAB), 4, 1)

    with pytest.raises(ValueError, match="request 1"):
        list(engine.generate(source()))
    assert len(run(engine, [Request((4, 5), 4, 1)])) == 1


def test_many_long_prompts_at_once(name: str, engines: EnginePool) -> None:
    """More prompt tokens than fit into one step of vLLM, none of them shared."""
    rng = np.random.default_rng(8)
    prompts = [tuple(map(int, ids)) for ids in rng.integers(0, VOCAB, (60, 240))]
    requests = [Request(prompt, 4, i) for i, prompt in enumerate(prompts)]
    found = run(engines.get(name), requests)
    assert all(c.token_ids.size == 4 for c in found)
    assert same(run(engines.get(name), requests[33:34])[0], found[33])


def test_nothing_in_nothing_out(name: str, engines: EnginePool) -> None:
    assert list(engines.get(name).generate([])) == []


def test_later_requests_may_depend_on_earlier_results(name: str, engines: EnginePool) -> None:
    """An answer of the first round is continued as soon as it is there, under its own key."""
    engine = engines.get(name, STOPS)
    first = run(engine, tree_requests(count=1))
    ready = [replace(request, key=("first", i)) for i, request in enumerate(tree_requests(count=1))]
    second: dict[int, Request] = {}
    found: dict[tuple[str, int], Completion] = {}
    while len(found) < 2 * len(first):
        room = engine.room
        engine.submit(ready[:room])
        del ready[:room]
        for (kind, i), completion in engine.receive():
            assert (kind, i) not in found
            found[kind, i] = completion
            if kind == "first":
                prompt = tree_requests(count=1)[i].prompt_ids
                ids = (*prompt, *map(int, completion.token_ids))
                second[i] = Request(ids, 5, i, key=("second", i))
                ready.append(second[i])
    assert all(same(found["first", i], completion) for i, completion in enumerate(first))
    again = run(engine, [second[i] for i in range(len(first))])
    assert all(same(found["second", i], completion) for i, completion in enumerate(again))


def test_an_engine_takes_what_it_has_room_for(name: str, engines: EnginePool) -> None:
    """Of a source without an end it takes what can be under way; what is more than that waits."""
    engine = engines.get(name)
    taken = 0

    def source() -> Iterator[Request]:
        nonlocal taken
        for seed in count():
            taken += 1
            yield Request((4, seed % 9), 3, seed)

    room = engine.room
    assert room >= 1
    for done, _ in enumerate(engine.generate(source()), start=1):
        assert taken <= 16 * room + done  # several requests may share a row of a batch
        if done == 50:
            break
    crowd = [Request((4, 5), 2, seed, key=seed) for seed in range(room + 10)]
    engine.submit(crowd)
    assert engine.room == 0
    keys = set()
    while len(keys) < len(crowd):
        keys |= {key for key, _ in engine.receive()}
    assert keys == set(range(len(crowd)))


def test_receiving_nothing_is_an_error(name: str, engines: EnginePool) -> None:
    engine = engines.get(name)
    engine.submit([])
    with pytest.raises(EngineError, match="nothing is running"):
        engine.receive()
    engine.submit([Request((4, 5), 40, 1, key="dropped")])
    engine.abort()
    with pytest.raises(EngineError, match="nothing is running"):
        engine.receive()
    engine.submit([Request((4, 5), 4, 1, key="kept")])
    found = []
    while not found:
        found = engine.receive()
    ((key, completion),) = found
    assert key == "kept"
    assert same(completion, run(engine, [Request((4, 5), 4, 1)])[0])


def test_a_refused_request_is_named_by_its_key(name: str, engines: EnginePool) -> None:
    engine = engines.get(name)
    good = Request((4, 5), 4, 1, key="the first")
    with pytest.raises(ValueError, match="request the second holds token id"):
        engine.submit([good, Request((4, VOCAB), 4, 1, key="the second")])
    with pytest.raises(EngineError, match="nothing is running"):
        engine.receive()


def test_who_begins_last_has_the_engine(name: str, engines: EnginePool) -> None:
    engine = engines.get(name, STOPS)
    results = engine.generate(tree_requests(seed=6))
    next(results)
    with pytest.raises(EngineError, match="meanwhile"):
        engine.receive()
    engine.submit([Request((4, 5), 4, 1, key="mine")])
    with pytest.raises(EngineError, match="meanwhile"):
        list(results)
    found = []
    while not found:
        found = engine.receive()
    assert [key for key, _ in found] == ["mine"]
    engine.submit([Request((4, 5), 4, 1, key="mine")])
    assert len(run(engine, tree_requests(count=1))) == len(tree_requests(count=1))
    with pytest.raises(EngineError, match="nothing is running"):
        engine.receive()


def test_a_failing_consumer_leaves_the_engine_usable(name: str, engines: EnginePool) -> None:
    engine = engines.get(name, STOPS)
    expected = run(engine, tree_requests())

    def consume() -> None:
        for _ in engine.generate(tree_requests(seed=5)):
            raise RuntimeError("consumer")

    with pytest.raises(RuntimeError, match="consumer"):
        consume()
    abandoned = engine.generate(tree_requests(seed=6))
    next(abandoned)
    assert all(map(same, run(engine, tree_requests()), expected))
    with pytest.raises(EngineError, match="meanwhile"):
        list(abandoned)


def test_usage_counts_what_was_done(name: str, engines: EnginePool) -> None:
    engine = engines.get(name, STOPS)
    before = (
        engine.usage.num_requests,
        engine.usage.prompt_tokens,
        engine.usage.prefilled_tokens,
        engine.usage.generated_tokens,
        engine.usage.seconds,
    )
    requests = tree_requests(seed=11)
    found = run(engine, requests)
    after = engine.usage
    assert after.num_requests - before[0] == len(requests)
    assert after.prompt_tokens - before[1] == sum(len(r.prompt_ids) for r in requests)
    assert after.generated_tokens - before[3] == sum(c.token_ids.size for c in found)
    assert after.seconds > before[4]
    # One spine of 60 tokens and shorter ones along it: far less than all prompts.
    assert 60 <= after.prefilled_tokens - before[2] < (after.prompt_tokens - before[1]) * 0.7
