"""What only the server engine does: many servers, dead servers, keys, and checks beforehand."""

from __future__ import annotations

import json
import shutil
import threading
import time
import warnings
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from gradalign.demo import model_path
from gradalign.engines import Completion, Engine, Request, SamplingSettings
from gradalign.engines.server.http import parse_addresses
from gradalign.errors import EngineError, GradalignError, UsageError
from tests.requires import require
from tests.rollouts.conftest import EnginePool, tree_requests
from tests.rollouts.servers import FARM, KEY, FaultyProxy, Server, api_key, open_on

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.server,
    pytest.mark.slow,
]

STOPS = SamplingSettings(stop_token_ids=(3, 7, 90, 91))


@pytest.fixture(autouse=True)
def _needs_vllm() -> None:
    require("vllm")


@pytest.fixture
def server(qwen: Path) -> Server:
    return FARM.get(qwen)[0]


@pytest.fixture(scope="module")
def expected(qwen: Path) -> list[Completion]:
    """What one server answers to `tree_requests`, undisturbed."""
    with open_on([FARM.get(qwen)[0].url], qwen, sampling=STOPS) as engine:
        return run(engine, tree_requests())


def run(engine: Engine, requests: list[Request]) -> list[Completion]:
    found = dict(engine.generate(requests))
    return [found[index] for index in range(len(requests))]


def assert_same(found: list[Completion], wanted: list[Completion]) -> None:
    for left, right in zip(found, wanted, strict=True):
        assert left.finish_reason == right.finish_reason
        np.testing.assert_array_equal(left.token_ids, right.token_ids)


def test_same_tokens_as_in_process(
    engines: EnginePool, server: Server, expected: list[Completion]
) -> None:
    assert_same(run(engines.get("vllm", STOPS), tree_requests()), expected)


def test_same_scores_as_in_process(engines: EnginePool, server: Server, qwen: Path) -> None:
    rng = np.random.default_rng(3)
    sequences = [tuple(map(int, rng.integers(0, 128, n))) for n in (2, 100, 255, 256)]
    here = engines.get("vllm").logprobs(sequences, [1] * 4)
    with open_on([server.url], qwen) as engine:
        there = engine.logprobs(sequences, [1] * 4)
    for left, right in zip(here, there, strict=True):
        np.testing.assert_allclose(left, right, atol=2e-5, rtol=0)


def test_a_server_that_says_busy_hangs_up_or_fails_is_asked_again(
    server: Server, qwen: Path, expected: list[Completion]
) -> None:
    # Number 0 is the check when the engine is opened.
    faults = {1: 429, 2: 503, 5: 500, 9: 0, 20: 0, 21: 502}
    with FaultyProxy(server.url, lambda number, _: faults.get(number)) as proxy:
        options = {"sampling": STOPS, "engine_args": {"concurrency": 8}}
        with open_on([proxy.url], qwen, **options) as engine:
            assert_same(run(engine, tree_requests()), expected)
        assert proxy.seen == 1 + len(tree_requests()) + len(faults)


def test_a_request_that_always_fails_ends_the_run(server: Server, qwen: Path) -> None:
    bad = Request((9, 9, 9), 5, 1)

    def fault(_: int, body: bytes) -> int | None:
        return 500 if json.loads(body)["prompt"] == [9, 9, 9] else None

    with FaultyProxy(server.url, fault) as proxy, open_on([proxy.url], qwen) as engine:
        begin = time.monotonic()
        with pytest.raises(EngineError, match=r"failed 4 times.*made up by the test"):
            run(engine, [bad])
        assert time.monotonic() - begin < 20
        assert len(run(engine, [Request((4, 5), 3, 1)])) == 1  # the engine itself lives on


def test_a_refused_request_is_an_error_with_the_servers_words(server: Server, qwen: Path) -> None:
    with (
        FaultyProxy(server.url, lambda number, _: 422 if number > 2 else None) as proxy,
        open_on([proxy.url], qwen) as engine,
        pytest.raises(EngineError, match=r"HTTP 422: made up by the test"),
    ):
        run(engine, tree_requests())


def test_the_least_loaded_server_gets_the_next(server: Server, qwen: Path) -> None:
    """A server that answers slowly is given fewer requests."""

    def slow(_: int, __: bytes) -> None:
        time.sleep(0.5)

    with (
        FaultyProxy(server.url, slow) as first,
        FaultyProxy(server.url, lambda *_: None) as second,
        open_on([first.url, second.url], qwen, engine_args={"concurrency": 4}) as engine,
    ):
        run(engine, tree_requests(max_tokens=2))
        assert 4 <= first.seen < second.seen
        assert first.seen + second.seen == len(tree_requests()) + 2  # and a check each


@pytest.mark.parametrize("key", [None, "wrong"])
def test_the_key_is_demanded_and_never_shown(key: str | None, server: Server, qwen: Path) -> None:
    with pytest.raises(UsageError, match=r"HTTP 401.*GRADALIGN_API_KEY") as caught:
        open_on([server.url], qwen, key=key)
    assert "wrong" not in str(caught.value)
    with api_key("a-secret"):
        (address,) = parse_addresses([server.url])
        assert address.key == "a-secret"
        assert "a-secret" not in repr(address)


def test_a_server_that_does_not_answer_is_left_out_where_another_does(
    server: Server, qwen: Path, expected: list[Completion]
) -> None:
    with pytest.warns(UserWarning, match="left out"):
        engine = open_on(["http://127.0.0.1:9", server.url], qwen, sampling=STOPS)
    with engine:
        assert_same(run(engine, tree_requests()), expected)


def test_what_is_no_such_server(qwen: Path, tmp_path: Path) -> None:
    def handler(*args: object) -> SimpleHTTPRequestHandler:
        return SimpleHTTPRequestHandler(*args, directory=str(tmp_path))

    files = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=files.serve_forever, daemon=True).start()
    begin = time.monotonic()
    with pytest.raises(UsageError, match="not an OpenAI-compatible server"):
        open_on([f"http://127.0.0.1:{files.server_address[1]}"], qwen)
    files.shutdown()
    files.server_close()
    with pytest.raises(EngineError, match=r"no answer from http://127\.0\.0\.1:9/v1.*--base-url"):
        open_on(["http://127.0.0.1:9"], qwen)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        ([], "needs --base-url"),
        (["localhost:8000"], "not of the form"),
        (["http://[bad"], "not of the form"),
        (["http://a:1", "http://a:1/v1/"], "given twice"),
        (["http://me:hunter2@host:1"], "GRADALIGN_API_KEY"),
        (["http://host:1/v1?key=hunter2"], "GRADALIGN_API_KEY"),
    ],
)
def test_addresses_that_cannot_be_used(urls: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_addresses(urls)
    assert "hunter2" not in str(caught.value)


def test_arguments_are_checked(qwen: Path) -> None:
    for arguments, words in (
        ({"no_such": 1}, "no argument 'no_such'"),
        ({"concurrency": 1.5}, "positive"),
        ({"give_up_seconds": 0}, "positive"),
    ):
        with pytest.raises(UsageError, match=words):
            open_on(["http://127.0.0.1:9"], qwen, engine_args=arguments)


def changed_copy(source: Path, target: Path, **settings: object) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | settings))
    return target


def test_another_model_context_or_vocabulary_is_found_out_beforehand(tmp_path: Path) -> None:
    student = model_path("student")
    (server,) = FARM.get(student)
    same_name = {"served_model_name": str(student)}
    with pytest.raises(UsageError, match="does not serve"):
        open_on([server.url], model_path("weak"))

    longer = changed_copy(student, tmp_path / "longer", max_position_embeddings=512)
    with pytest.raises(UsageError, match=r"context of 256 tokens.*need 300.*--max-model-len 300"):
        open_on([server.url], longer, max_model_len=300, engine_args=same_name)

    bigger = changed_copy(student, tmp_path / "bigger", vocab_size=300)
    with pytest.raises(UsageError, match=r"smaller vocabulary.*299"):
        open_on([server.url], bigger, engine_args=same_name)

    other = changed_copy(student, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    a, b = (token for token in ("A", "n"))
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UsageError, match="another vocabulary"):
        open_on([server.url], other, engine_args=same_name)

    with open_on([server.url], student, max_model_len=256) as engine:
        assert run(engine, [Request((1, 20, 30), 4, 5)])


def test_errors_are_gradaligns_own(qwen: Path) -> None:
    """A caller who catches GradalignError gets all of them."""
    with pytest.raises(GradalignError):
        open_on(["http://127.0.0.1:9"], qwen)


def test_seeds_in_a_row_are_samples_of_one_request(engines: EnginePool, server: Server) -> None:
    """Ten continuations of each prompt: the same tokens as from ten requests, in one."""
    prompts = [(3, 4, 5), (3, 4, 5, 6), (9, 9)]
    requests = [
        Request(prompt, 20, 1000 * n + i) for n, prompt in enumerate(prompts) for i in range(10)
    ]
    requests.append(Request((3, 4, 5), 20, 77))  # of no row
    requests.append(Request((9, 9), 21, 2010))  # in a row, but longer
    expected = run(engines.get("vllm", STOPS), requests)
    with (
        FaultyProxy(server.url, lambda *_: None) as proxy,
        open_on([proxy.url], server.model, sampling=STOPS) as engine,
    ):
        assert_same(run(engine, requests), expected)
        assert proxy.seen == 1 + 5
    assert len({tuple(item.token_ids.tolist()) for item in expected[:10]}) > 5


def test_one_of_two_servers_killed_then_both(
    server: Server, qwen: Path, expected: list[Completion]
) -> None:
    """All results arrive and are right; then an error in seconds."""
    first, second = FARM.get(qwen, 2)
    arguments = {"concurrency": 8, "give_up_seconds": 0.5}
    options = {"sampling": STOPS, "engine_args": arguments}
    rounds = 12  # so that there is work left when the first one is given up
    with open_on([first.url, second.url], qwen, **options) as engine:
        found: dict[int, Completion] = {}

        def consume() -> None:
            for index, completion in engine.generate(tree_requests() * rounds):
                found[index] = completion
                if len(found) == 20:
                    second.kill()

        with pytest.warns(UserWarning, match=second.url):
            consume()
        assert sorted(found) == list(range(len(expected) * rounds))
        assert_same([found[index] for index in range(len(found))], expected * rounds)
        assert second.url in engine.usage.extra["dropped"][0]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = engine.generate(tree_requests() * rounds)
            next(results)
            first.kill()
            begin = time.monotonic()
            with pytest.raises(EngineError, match="no server is left") as caught:
                list(results)
            assert time.monotonic() - begin < 20
        assert "run the same command again" in str(caught.value)
        assert first.url in str(caught.value)
        assert KEY not in str(caught.value)
    begin = time.monotonic()
    with pytest.raises(EngineError, match="no answer from"):
        open_on([first.url, second.url], qwen)
    assert time.monotonic() - begin < 5
