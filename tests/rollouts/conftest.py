"""Tiny random models, saved as checkpoints, and engines on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from gradalign.engines import Engine, Request, SamplingSettings, open_engine
from gradalign.errors import EngineError
from tests.requires import require
from tests.rollouts.servers import FARM, open_on

VOCAB = 128

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

CONFIGS: dict[str, Callable[[], Any]] = {
    "qwen3": lambda: transformers.Qwen3Config(**_SIZES, head_dim=32),
    "llama": lambda: transformers.LlamaConfig(**_SIZES),
    "mistral": lambda: transformers.MistralConfig(**_SIZES, head_dim=16, sliding_window=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **_SIZES,
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=4, n_positions=256, eos_token_id=2
    ),
    "lfm2": lambda: transformers.Lfm2Config(**_SIZES, layer_types=["conv", "full_attention"]),
    "mamba": lambda: transformers.MambaConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=8
    ),
}


def make_model(kind: str) -> torch.nn.Module:
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]())
    for weight in model.parameters():
        if weight.dim() == 2:  # far from uniform, so that draws depend on the context
            weight.data.mul_(3)
    return model.eval()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            model = make_model(kind)
            # Ids that must NOT end a response unless they are asked for.
            model.generation_config.eos_token_id = [5, 6]
            model.save_pretrained(made[kind])
        return made[kind]

    return get


@pytest.fixture(scope="session")
def qwen(checkpoints: Callable[[str], Path]) -> Path:
    return checkpoints("qwen3")


ENGINE_PARAMS = [
    "transformers",
    pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.slow]),
    pytest.param("server", marks=[pytest.mark.vllm, pytest.mark.server, pytest.mark.slow]),
]


class EnginePool:
    """Opens engines on the small Qwen3 and keeps them: a vLLM start takes many seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: dict[str, Any] = {}

    def get(self, name: str, sampling: SamplingSettings | None = None) -> Engine:
        if name != "transformers":
            require("vllm")
        if name == "server" and name not in self._open:
            (server,) = FARM.get(self._path)
            self._open[name] = open_on([server.url], self._path)
        if name not in self._open:
            self._open[name] = open_engine(name, self._path)
        engine = self._open[name]
        engine.sampling = sampling or SamplingSettings()
        return engine

    def close(self) -> None:
        for engine in self._open.values():
            engine.close()


@pytest.fixture(scope="session")
def engines(qwen: Path) -> Iterator[EnginePool]:
    pool = EnginePool(qwen)
    yield pool
    pool.close()


def assert_closed(engine: Engine) -> None:
    """Everything that is asked of a closed engine is refused; closing it again is not."""
    engine.close()
    for call in (
        lambda: list(engine.generate([])),
        lambda: list(engine.generate([Request((5,), 5, 1)])),
        lambda: engine.logprobs([(1, 2)], [1]),
        lambda: engine.submit([Request((4, 5), 4, 1)]),
        engine.receive,
    ):
        with pytest.raises(EngineError, match="closed"):
            call()


def tree_requests(count: int = 3, seed: int = 0, max_tokens: int = 24) -> list[Request]:
    """Continuations of nodes along one spine: prompts that are prefixes of one another."""
    rng = np.random.default_rng(seed)
    spine = tuple(map(int, rng.integers(0, VOCAB, 60)))
    return [
        Request((*spine[:depth], int(candidate)), max_tokens, int(rng.integers(2**63)))
        for depth in (0, 1, 2, 31, 32, 33, 40, 60)
        for candidate in (*rng.integers(0, VOCAB, 2), spine[min(depth, 59)])
        for _ in range(count)
    ]
