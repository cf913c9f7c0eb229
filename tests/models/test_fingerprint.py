"""A checkpoint is identified by what it holds, not by where it lies or when it was written."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from gradalign.errors import ModelError
from gradalign.models.checkpoints import fingerprint
from gradalign.models.checkpoints.fingerprint import model_fingerprint, model_signature
from tests.stages.made_checkpoints import copy_of, scale_weights


@pytest.fixture
def folder(tmp_path):
    return copy_of("student", tmp_path / "ck")


def test_spelling_place_and_time_do_not_matter(folder, tmp_path, monkeypatch):
    before = model_fingerprint(str(folder))
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= before.keys()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    moved = shutil.copytree(folder, tmp_path / "elsewhere[1]")
    os.utime(moved / "model.safetensors", (1, 1))
    for name in ("ck", "./ck", "ck/", "link", str(moved)):
        assert model_fingerprint(name) == before
    for name in ("README.md", "trainer_state.json", "training_args.bin", "eval_results.json"):
        (folder / name).write_text("not what a model is made of")
    assert model_fingerprint(str(folder)) == before


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "additional_chat_templates/tool.jinja",
        "modeling_own.py",
        "adapter_config.json",
    ],
)
def test_every_file_that_a_loader_reads_counts(folder, name):
    before = model_fingerprint(str(folder))
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "{}") + "\n")
    after = model_fingerprint(str(folder))
    assert {key for key in after if after[key] != before.get(key)} == {name}


@pytest.mark.parametrize("whole_bytes", [fingerprint.WHOLE_BYTES, 0])
def test_one_layer_of_the_same_size_and_time_is_found(folder, whole_bytes, monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE_BYTES", whole_bytes)
    before = model_fingerprint(str(folder))
    assert before["model.safetensors"].startswith("sampled:") == (whole_bytes == 0)
    scale_weights(folder, 1.001, only="layers.1.mlp.up_proj")
    after = model_fingerprint(str(folder))
    assert {key for key in after if after[key] != before[key]} == {"model.safetensors"}


def test_every_tensor_of_a_large_file_is_looked_at(tmp_path, monkeypatch):
    """Also where the share that is read is small against the largest tensor."""
    monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 0)
    monkeypatch.setattr(fingerprint, "SAMPLED_BYTES", 1)
    path = tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text("{}")
    weights = {"embed": torch.zeros(2_000_000)}
    weights |= {f"layer.{index}": torch.zeros(3000) for index in range(40)}
    seen = set()
    for name in [None, *weights]:
        changed = {key: value + (key == name) for key, value in weights.items()}
        save_file(changed, path)
        seen.add(model_fingerprint(str(tmp_path))["model.safetensors"])
    assert len(seen) == len(weights) + 1


def test_weights_saved_by_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 0)
    monkeypatch.setattr(fingerprint, "SAMPLED_BYTES", 1)
    monkeypatch.setattr(fingerprint, "LEAST_BYTES", 1)
    (tmp_path / "config.json").write_text("{}")
    seen = set()
    for place in range(3):
        weight = torch.zeros(500_000)
        weight[place * 100_000] = 1.0  # a single number: the checksum of the tensor tells
        torch.save({"weight": weight}, tmp_path / "pytorch_model.bin")
        seen.add(model_fingerprint(str(tmp_path))["pytorch_model.bin"])
    assert len(seen) == 3


def test_the_model_under_an_adapter_counts(folder, tmp_path):
    base = copy_of("strong", tmp_path / "base")
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(base), "peft_type": "LORA"})
    )
    before = model_fingerprint(str(folder))
    scale_weights(base, 0.5)
    after = model_fingerprint(str(folder))
    assert {key for key in after if after[key] != before[key]} == {"base model's model.safetensors"}


def test_torn_weights_have_a_fingerprint_too(folder, monkeypatch):
    """What is wrong with them is for the loader to say."""
    monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 0)
    path = folder / "model.safetensors"
    whole, seen = path.read_bytes(), set()
    for data in (b"", b"\xff" * 8, whole[:100], whole[:-1000], whole):
        path.write_bytes(data)
        seen.add(model_fingerprint(str(folder))["model.safetensors"])
    assert len(seen) == 5


def test_a_signature_changes_with_the_files(folder):
    before = model_signature(str(folder))
    weights = load_file(folder / "model.safetensors")
    scale_weights(folder, 2.0)
    assert weights
    assert model_signature(str(folder)) != before


def test_no_model():
    with pytest.raises(ModelError, match="does not exist"):
        model_fingerprint("./no/such/folder")
