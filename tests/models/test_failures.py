"""Whatever a library raises while it loads something becomes our error, with the cause."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import gradalign
from gradalign.engines.base import EngineSpec
from gradalign.errors import ModelError, UsageError
from gradalign.models import config_number, load_config, load_model, vocab_size
from gradalign.models.checkpoints.failures import explained
from gradalign.models.checkpoints.generation import end_token_ids
from gradalign.models.checkpoints.tokenizers import load_tokenizer
from gradalign.planning.memory import kv_numbers_per_token
from tests.models.made_checkpoints import copy_of, set_config


class Panic(BaseException):
    """What a parser in another language raises."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("shapes differ\nsecond line"), r"cannot be loaded: shapes differ\."),
        (KeyError("rope_theta"), "KeyError: 'rope_theta'"),
        (AttributeError("no heads"), "AttributeError: no heads"),
        (ImportError("needs a kernel"), "needs a kernel"),
        (AssertionError(), "AssertionError"),
        (Panic("entered unreachable code"), "Panic: entered unreachable code"),
        (SystemExit(3), "SystemExit: 3"),
        (MemoryError(), "does not fit into memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "does not fit into memory"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_any_failure_is_explained(error: BaseException, told: str) -> None:
    with pytest.raises(ModelError, match=told) as caught, explained("some/model"):
        raise error
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)
    assert "some/model" in str(caught.value)


def test_our_own_errors_and_an_interrupt_go_through() -> None:
    with pytest.raises(UsageError, match="as it was"), explained("m"):
        raise UsageError("as it was")
    with pytest.raises(KeyboardInterrupt), explained("m"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "entries",
    [
        {"num_attention_heads": "four"},
        {"num_hidden_layers": None},
        {"hidden_act": "no_such_function"},
        {"rope_parameters": {"rope_type": "nonsense", "rope_theta": 1.0}},
        {"model_type": "t5"},
    ],
    ids=str,
)
def test_a_configuration_that_makes_no_model(entries: dict[str, object], tmp_path: Path) -> None:
    set_config(copy_of(tmp_path), **entries)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(tmp_path), device="cpu")


def test_a_tokenizer_of_an_unknown_kind(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["model"]["vocab"] = 7
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="the tokenizer of"):
        load_tokenizer(str(folder))


def test_an_invalid_generation_config_changes_nothing(tmp_path: Path) -> None:
    folder = copy_of(tmp_path / "m")
    set_config(folder, "generation_config.json", max_new_tokens=-1, temperature="warm")
    dots = []
    for name, student in (("own", str(folder)), ("demo", "demo:student")):
        report = gradalign.score(
            student=student,
            teachers=["demo:strong"],
            task="demo:addition",
            output_dir=str(tmp_path / name),
            limit=2,
            num_rollouts=1,
            nodes=2,
            continuations=2,
            max_tokens=60,
            methods=["gkd"],
            diagnose=["none"],
        )
        dots.append(report.alignment["dot"].tolist())
    assert dots[0] == dots[1] != []


def ends(folder: Path) -> tuple[int, ...]:
    return end_token_ids(str(folder), str(folder), load_config(str(folder)))


def test_end_tokens_of_either_file(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    set_config(folder, "config.json", eos_token_id=7)
    set_config(folder, "generation_config.json", eos_token_id=[5, 2], max_new_tokens=-1)
    assert ends(folder) == (5, 2)
    set_config(folder, "generation_config.json", eos_token_id=None)
    assert ends(folder) == ()
    (folder / "generation_config.json").unlink()
    assert ends(folder) == (7,)


@pytest.mark.parametrize("text", ['{"eos_token_id": "2"}', '{"eos_token_id": [true]}', "{", "[]"])
def test_end_tokens_that_are_none(text: str, tmp_path: Path) -> None:
    (copy_of(tmp_path) / "generation_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        ends(tmp_path)


def test_figures_that_a_configuration_lacks_are_unknown() -> None:
    import transformers

    mamba = transformers.MambaConfig(num_hidden_layers=2)
    assert kv_numbers_per_token(mamba) is None
    assert config_number(mamba, "num_attention_heads") is None
    assert vocab_size("m", mamba) == mamba.vocab_size

    class ByLayer:
        @property
        def head_dim(self) -> int:
            raise RuntimeError("it varies across layers")

    nested = SimpleNamespace(get_text_config=lambda decoder: ByLayer())
    assert config_number(nested, "head_dim") is None
    with pytest.raises(ModelError, match="no vocab_size"):
        vocab_size("m", nested)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_plan_of_a_model_without_heads(role: str, tmp_path: Path) -> None:
    import transformers

    folder = copy_of(tmp_path / "mamba")
    (folder / "model.safetensors").unlink()
    config = transformers.MambaConfig(
        vocab_size=259, hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=2
    )
    transformers.MambaForCausalLM(config).save_pretrained(folder)
    student, teacher = ("demo:student", str(folder))
    if role == "student":
        student, teacher = str(folder), student
    plan = gradalign.plan(
        student=student, teachers=[teacher], task="demo:addition", limit=1, methods=["gkd"]
    )
    unknown = {model.name: model.kv_bytes_per_token is None for model in plan.memory.models}
    assert unknown == {str(folder): True, "demo:student": False}


def test_vllm_may_not_draw_its_weights() -> None:
    from gradalign.engines.vllm.engine import VllmEngine

    with pytest.raises(UsageError, match="at random"):
        VllmEngine(EngineSpec("demo:student", engine_args={"load_format": "dummy"}))
