"""What only the vLLM engine does: its worker process, and agreement with transformers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gradalign.demo import model_path
from gradalign.engines import (
    Request,
    SamplingSettings,
    open_engine,
    start_engine_ahead,
)
from gradalign.engines.vllm import engine as vllm_engine
from gradalign.errors import EngineError, MissingDependencyError, UsageError
from tests.requires import require
from tests.rollouts.conftest import VOCAB, EnginePool, assert_closed, tree_requests

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _needs_vllm() -> None:
    require("vllm")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_engines_agree_on_log_probabilities(engines: EnginePool) -> None:
    rng = np.random.default_rng(0)
    sequences = [tuple(map(int, rng.integers(0, VOCAB, n))) for n in (5, 60, 200, 256)]
    both = [engines.get(name).logprobs(sequences, [1] * 4) for name in ("transformers", "vllm")]
    for left, right in zip(*both, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4, rtol=0)


def test_engines_agree_on_success_probabilities(engines: EnginePool) -> None:
    """The chance that a response ends in time, from independent samples of both."""
    count = 600
    shares = []
    for number, name in enumerate(("transformers", "vllm")):
        engine = engines.get(name, SamplingSettings(stop_token_ids=tuple(range(0, 128, 20))))
        seeds = np.random.default_rng(number).integers(2**63, size=count)
        requests = [Request((8, 30, 7), 12, int(seed)) for seed in seeds]
        done = [c.finish_reason == "stop" for _, c in engine.generate(requests)]
        shares.append(np.mean(done))
    pooled = np.mean(shares)
    assert 0.1 < pooled < 0.9
    assert abs(shares[0] - shares[1]) < 4 * np.sqrt(2 * pooled * (1 - pooled) / count)


def test_an_engine_takes_the_process_that_was_started_ahead_and_agrees() -> None:
    """The bundled student on both engines: the same prompts, tokens scored alike.

    A failure inside vLLM then ends the engine: ids that the parent's check would have refused.
    """
    student = model_path("student")
    with open_engine("transformers", student) as engine:
        vocab = engine.limits.vocab_size
        rng = np.random.default_rng(2)
        prompts = [tuple(map(int, rng.integers(0, vocab, 12))) for _ in range(8)]
        requests = [Request(ids, 40, i) for i, ids in enumerate(prompts)]
        sequences = [
            prompts[i] + tuple(map(int, c.token_ids)) for i, c in engine.generate(requests)
        ]
        left = engine.logprobs(sequences, [12] * 8)
    start_engine_ahead("vllm")
    first = spare_pid()
    start_engine_ahead("vllm")
    assert spare_pid() == first, "one is enough"
    with open_engine("vllm", student, engine_args={"max_num_seqs": 4}) as engine:
        assert engine.worker_pid == first
        right = engine.logprobs(sequences, [12] * 8)
        for a, b in zip(left, right, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4, rtol=0)
        engine.limits = type(engine.limits)(vocab_size=10**6, max_model_len=10**6)
        with pytest.raises(EngineError, match="vLLM failed"):
            list(engine.generate([Request((5,) * 400, 5, 1)]))
        assert gone(first)
        assert_closed(engine)


def test_other_variables_need_another_process_which_leaves_the_caller_alone(
    engines: EnginePool, qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is to see other variables cannot have the process started ahead.

    Its own process is killed at last, which is an error.
    """
    request = Request((4, 5), 8, 1)
    ((_, expected),) = engines.get("vllm").generate([request])
    start_engine_ahead("vllm")
    spare = spare_pid()
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    torch.manual_seed(11)
    before = torch.get_rng_state(), torch.get_num_threads(), dict(os.environ)
    with open_engine("vllm", qwen, max_model_len=128, engine_args={"max_num_seqs": "4"}) as engine:
        assert engine.worker_pid != spare
        assert gone(spare), "it does not stay behind"
        assert engine.usage.extra["max_num_seqs"] == 4
        assert engine.usage.extra["max_model_len"] == 129
        ((_, found),) = engine.generate([request])
        assert found.token_ids.tolist() == expected.token_ids.tolist()
        results = engine.generate(tree_requests(count=60, max_tokens=60))
        next(results)
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1:] == (torch.get_num_threads(), dict(os.environ))
        threading.Timer(0.2, os.kill, (engine.worker_pid, signal.SIGKILL)).start()
        begin = time.monotonic()
        with pytest.raises(EngineError, match="killed by SIGKILL"):
            list(results)
        assert time.monotonic() - begin < 20
        with pytest.raises(EngineError, match="SIGKILL"):
            list(engine.generate([Request((1, 2), 3, 4)]))
        pid = engine.worker_pid
    assert gone(pid)


def test_unknown_argument_names_it(qwen: Path) -> None:
    with pytest.raises(UsageError, match="no_such_thing"):
        open_engine("vllm", qwen, engine_args={"no_such_thing": "1"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="a vllm that is not for this machine")
def test_a_device_that_this_vllm_does_not_run_on(qwen: Path) -> None:
    with pytest.raises(MissingDependencyError, match="--engine transformers") as caught:
        open_engine("vllm", qwen, device="cuda")
    assert "--device cpu, or install gradalign[vllm]" in caught.value.hint


def test_a_model_that_vllm_cannot_load(tmp_path: Path, checkpoints: Callable[[str], Path]) -> None:
    folder = tmp_path / "unknown"
    shutil.copytree(checkpoints("gpt2"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Nope"]}))
    with pytest.raises(EngineError, match=r"architecture \(Nope\)") as caught:
        open_engine("vllm", folder)
    assert "--engine transformers" in str(caught.value)
    with open_engine("vllm", folder, or_transformers=True) as engine:
        assert engine.name == "transformers"
        assert "architecture (Nope)" in engine.instead_of


def test_ctrl_c_leaves_nothing_behind(qwen: Path) -> None:
    code = f"""
from gradalign.engines import Request, open_engine
with open_engine("vllm", {str(qwen)!r}) as engine:
    requests = (Request((4, i % 9), 8, i) for i in range(10**9))
    for number, _ in enumerate(engine.generate(requests)):
        if number == 0:
            print(engine.worker_pid, flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    worker = int(child.stdout.readline())
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert gone(worker)


def spare_pid() -> int:
    assert vllm_engine._spare is not None
    return vllm_engine._spare[1].pid


def test_a_process_that_was_started_ahead_in_vain_ends_at_once() -> None:
    code = """
from gradalign.engines import start_engine_ahead
from gradalign.engines.vllm import engine as vllm_engine
start_engine_ahead("vllm")
print(vllm_engine._spare[1].pid, flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert gone(int(done.stdout))
