"""Names to checkpoints, and the errors on the way."""

from __future__ import annotations

import json

import pytest

from gradalign.errors import ModelError, UnknownNameError, UsageError
from gradalign.models import context_length, load_config, loaded_model, resolve_device
from gradalign.models.checkpoints.loading import resolve_model


def test_demo_names_are_folders():
    assert resolve_model("demo:student").endswith("student")
    with pytest.raises(UnknownNameError, match="strong"):
        resolve_model("demo:nobody")


def test_hub_ids_pass_through():
    assert resolve_model("Qwen/Qwen3-1.7B") == "Qwen/Qwen3-1.7B"


def test_a_folder_that_is_missing_or_no_checkpoint(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        resolve_model(str(tmp_path / "none"))
    with pytest.raises(ModelError, match=r"config\.json"):
        resolve_model(str(tmp_path))


def test_a_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_config("nobody/no-such-model")


def test_a_torn_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="cannot be loaded"), loaded_model(str(tmp_path)):
        pass


def test_a_configuration_of_no_known_architecture(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_config(str(tmp_path))


def test_context_length_of_the_student():
    length = context_length(load_config("demo:student"))
    assert length is not None
    assert length >= 64


def test_a_device_that_is_not_there():
    import torch

    if torch.cuda.is_available():
        assert resolve_device("cuda") == "cuda"
    else:
        with pytest.raises(UsageError, match="no GPU"):
            resolve_device("cuda")
