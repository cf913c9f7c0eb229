"""Weights that do not fit their configuration are refused, from headers alone and when loaded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import gradalign
from gradalign.errors import EngineError, ModelError
from gradalign.models import load_config, load_model
from gradalign.models.checkpoints import weight_check as weight_check_module
from gradalign.models.checkpoints.weight_check import check_weights, judge
from gradalign.models.checkpoints.weight_files import find_weights, read_by_vllm
from gradalign_cli.main import main
from tests.models.made_checkpoints import copy_of, set_config, weights_of, write_weights
from tests.requires import require

LAYER = "model.layers.1."


def check(folder: Path, **options: object) -> tuple[str, ...]:
    return check_weights(str(folder), str(folder), load_config(str(folder)), **options)  # type: ignore[arg-type]


def without_layer(folder: Path) -> str:
    weights = weights_of(folder)
    write_weights(folder, {k: v for k, v in weights.items() if not k.startswith(LAYER)})
    return r"11 tensors that the model has are not in its file: model\.layers\.1\."


def without_head(folder: Path) -> str:
    set_config(folder, tie_word_embeddings=False)
    return r"1 tensor that the model has is not in its file: lm_head\.weight"


def compiled(folder: Path) -> str:
    write_weights(folder, {f"_orig_mod.{k}": v for k, v in weights_of(folder).items()})
    return r"not in its file.*it has 24 tensors \(_orig_mod\."


def gathered_badly(folder: Path) -> str:
    name = f"{LAYER}mlp.up_proj.weight"
    write_weights(folder, weights_of(folder) | {name: torch.zeros(0)})
    return rf"{re.escape(name)} is \[0\] in the file and \[144, 48\] in the model.*ZeRO-3"


def other_vocabulary(folder: Path) -> str:
    set_config(folder, vocab_size=300)
    return r"embed_tokens\.weight is \[259, 48\] in the file and \[300, 48\] in the model"


def fewer_layers(folder: Path) -> str:
    kinds = json.loads((folder / "config.json").read_text()).get("layer_types")
    set_config(folder, num_hidden_layers=1, **({"layer_types": kinds[:1]} if kinds else {}))
    return r"11 tensors more of the layers.*num_hidden_layers"


def further_bias(folder: Path) -> str:
    name = "model.layers.0.self_attn.q_proj.bias"
    write_weights(folder, weights_of(folder) | {name: torch.ones(48)})
    return re.escape(f"would be left out: {name}")


def tied_apart(folder: Path) -> str:
    weights = weights_of(folder)
    write_weights(folder, weights | {"lm_head.weight": weights["model.embed_tokens.weight"] + 1})
    return r"ties lm_head\.weight.*two different ones"


def adapter_beside(folder: Path) -> str:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    write_weights(folder, {"lora_A.weight": torch.ones(2, 2)}, "adapter_model.safetensors")
    return r"adapter \(adapter_config\.json, adapter_model\.safetensors\) beside whole weights"


def adapter_only(folder: Path) -> str:
    (folder / "adapter_config.json").write_text("{}")
    (folder / "model.safetensors").unlink()
    return "an adapter only.*merge_and_unload"


def two_sets(folder: Path) -> str:
    weights = weights_of(folder)
    write_weights(folder, weights, "model-00001-of-00001.safetensors")
    index = dict.fromkeys(weights, "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return r"two sets of weights: model\.safetensors, and 1 files"


def lost_shard(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return r"names files that are not there: model-00001-of-00002\.safetensors"


def pointer(folder: Path) -> str:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    (folder / "model.safetensors").write_text(text)
    return "pointer of Git LFS"


def half_of_bin(folder: Path) -> str:
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    torch.save({k: v for k, v in weights.items() if LAYER not in k}, folder / "pytorch_model.bin")
    return "11 tensors that the model has are not in its file"


FAULTS = [
    without_layer,
    without_head,
    compiled,
    gathered_badly,
    other_vocabulary,
    fewer_layers,
    further_bias,
    tied_apart,
    adapter_beside,
    adapter_only,
    two_sets,
    lost_shard,
    pointer,
    half_of_bin,
]


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_a_fault_is_refused_from_headers_and_when_loading(
    spoil: Callable[[Path], str], tmp_path: Path
) -> None:
    message = spoil(copy_of(tmp_path))
    with pytest.raises(ModelError, match=message):
        check(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_model(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    "spoil", [without_layer, without_head, other_vocabulary], ids=lambda spoil: spoil.__name__
)
def test_what_the_loader_itself_reports_is_judged(
    spoil: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a hub model that is downloaded only when it is loaded."""
    message = spoil(copy_of(tmp_path))
    monkeypatch.setattr(weight_check_module, "checkpoint_folder", lambda *_: None)
    with pytest.raises(ModelError, match=message):
        load_model(str(tmp_path), device="cpu")


def test_a_hub_model_in_the_cache_is_checked_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    commit = "0" * 40
    snapshot = tmp_path / "models--somebody--half" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    message = without_layer(copy_of(snapshot))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    config = load_config(str(snapshot))
    with pytest.raises(ModelError, match=f"somebody/half: {message}"):
        check_weights("somebody/half", "somebody/half", config, commit=commit)
    (snapshot / "model.safetensors").unlink()
    assert check_weights("somebody/half", "somebody/half", config, commit=commit) == ()
    assert check_weights("somebody/none", "somebody/none", config, commit=commit) == ()


def test_weights_that_others_have_may_be_absent(tmp_path: Path) -> None:
    (copy_of(tmp_path) / "model.safetensors").unlink()
    assert check(tmp_path, complete=False) == ()
    with pytest.raises(ModelError, match="holds no weights"):
        check(tmp_path)


def test_other_parts_of_a_file_are_said_and_left_out(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    others = {"vision_tower.patches.weight": torch.ones(2, 2), "mtp.norm.weight": torch.ones(2)}
    computed = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    write_weights(folder, weights_of(folder) | others | computed)
    with pytest.warns(UserWarning, match=r"2 tensors \(mtp.norm.weight, vision_tower") as said:
        assert check(folder) == ("model.safetensors",)
    assert "inv_freq" not in str(said[0].message)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.safetensors"])
def test_a_second_form_of_the_weights_is_named(name: str, tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    shutil.copy(folder / "model.safetensors", folder / name)
    (folder / "original").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "original")
    with pytest.warns(UserWarning, match=rf"read from model\.safetensors; not from {name}"):
        assert check(folder) == ("model.safetensors",)


def test_vllm_has_to_read_the_same_files(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    files = find_weights("m", folder, load_config(str(folder)))
    assert files is not None
    assert read_by_vllm("m", folder) == set(files.read)
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    with pytest.warns(UserWarning, match="not from model-00001-of-00002"):
        check(folder)
    with pytest.raises(ModelError, match=r"vLLM would read model-00001.*transformers model\.saf"):
        check(folder, vllm=True)


def test_vllm_reads_what_the_index_names_beside_consolidated_files(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    weights = weights_of(folder)
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    write_weights(folder, weights, "model-00001-of-00001.safetensors")
    index = dict.fromkeys(weights, "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.warns(UserWarning, match="not from consolidated"):
        assert check(folder, vllm=True) == ("model-00001-of-00001.safetensors",)


def test_bin_and_sharded_checkpoints_load(tmp_path: Path) -> None:
    model = load_model("demo:student", device="cpu")
    sharded = copy_of(tmp_path / "sharded")
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size="100KB")  # type: ignore[operator]
    single = copy_of(tmp_path / "bin")
    torch.save(weights_of(single), single / "pytorch_model.bin")
    (single / "model.safetensors").unlink()
    assert len(check(sharded)) > 1
    assert check(single) == ("pytorch_model.bin",)
    for folder in (sharded, single):
        again = load_model(str(folder), device="cpu").state_dict()
        assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())


SIZES = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = SIZES | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SHORT = SIZES | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}

ARCHITECTURES = {
    "llama": WIDE,
    "gemma": WIDE | {"head_dim": 8},
    "gemma2": WIDE | {"head_dim": 8},
    "gemma3_text": WIDE | {"head_dim": 8},
    "phi3": WIDE,
    "qwen2": WIDE,
    "qwen2_moe": WIDE | EXPERTS | {"shared_expert_intermediate_size": 16},
    "qwen3_moe": WIDE | EXPERTS,
    "mixtral": WIDE | {"num_local_experts": 4},
    "deepseek_v3": WIDE | LATENT,
    "gpt_neox": WIDE,
    "falcon": {k: v for k, v in WIDE.items() if k != "intermediate_size"},
    "gpt2": SHORT,
    "gptj": SHORT | {"rotary_dim": 4},
    "bloom": SIZES | {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "opt": WIDE | {"word_embed_proj_dim": 32, "ffn_dim": 48},
    "xglm": SIZES | {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
    "mamba": SIZES | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}


def made(kind: str, folder: Path) -> dict[str, torch.Tensor]:
    config = transformers.AutoConfig.for_model(kind, **ARCHITECTURES[kind])
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return weights_of(folder)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_whole_checkpoints_of_every_architecture_pass(kind: str, tmp_path: Path) -> None:
    """Renamed, merged and tied tensors are no missing ones; nothing is drawn on the way."""
    made(kind, tmp_path)
    state = torch.get_rng_state()
    assert check(tmp_path) == ("model.safetensors",)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("kind", "prefix", "mask"),
    [
        ("gpt2", "transformer.", "h.0.attn.bias"),
        ("gptj", "", "transformer.h.0.attn.bias"),
        ("bloom", "transformer.", None),
        ("opt", "model.", None),
    ],
)
def test_files_of_older_versions_pass(
    kind: str, prefix: str, mask: str | None, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """They lack the prefix of the whole model, and hold masks that are computed today."""
    weights = {k.removeprefix(prefix): v for k, v in made(kind, tmp_path).items()}
    masks = {mask: torch.ones(1, 1, 8, 8)} if mask else {}
    write_weights(tmp_path, weights | masks)
    load_model(str(tmp_path), device="cpu")
    assert not [item for item in recwarn if "has no use" in str(item.message)]


def test_layers_that_predict_further_tokens_are_no_cut_layers(tmp_path: Path) -> None:
    weights = made("deepseek_v3", tmp_path)
    more = {
        key.replace(".1.", ".2.", 1): value
        for key, value in weights.items()
        if key.startswith(LAYER)
    }
    write_weights(tmp_path, weights | more)
    with pytest.raises(ModelError, match=r"more of the layers.*model\.layers\.2"):
        check(tmp_path)
    write_weights(tmp_path, weights | more | {"model.layers.2.eh_proj.weight": torch.ones(2, 2)})
    with pytest.warns(UserWarning, match="has no use for"):
        check(tmp_path)


def test_an_expert_that_is_missing_is_named(tmp_path: Path) -> None:
    weights = made("qwen3_moe", tmp_path)
    lost = next(key for key in weights if key.endswith("1.mlp.experts.2.up_proj.weight"))
    write_weights(tmp_path, {k: v for k, v in weights.items() if k != lost})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.experts"):
        check(tmp_path)


def test_quantised_files_are_checked_by_module(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    set_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    packed = {
        key.replace("proj.weight", "proj.qweight"): value
        for key, value in weights_of(folder).items()
    }
    write_weights(folder, packed)
    assert check(folder) == ("model.safetensors",)
    write_weights(folder, {k: v for k, v in packed.items() if LAYER not in k})
    with pytest.raises(ModelError, match=r"of 11 modules that the model has: model\.layers\.1"):
        check(folder)
    write_weights(folder, packed | {"model.layers.2.mlp.up_proj.qweight": torch.ones(2, 2)})
    with pytest.raises(ModelError, match=r"more of the layers.*layers\.2"):
        check(folder)


def test_buffers_that_a_model_computes_may_be_missing() -> None:
    info = {"missing_keys": {"model.rotary_emb.inv_freq"}, "mismatched_keys": set()}
    judge("m", info | {"unexpected_keys": set()})
    info["missing_keys"].add("model.norm.weight")
    with pytest.raises(ModelError, match=r"1 tensor that the model has is not in its file: model"):
        judge("m", info | {"unexpected_keys": set()})


SCORE = {
    "task": "demo:addition",
    "limit": 1,
    "num_rollouts": 1,
    "nodes": 2,
    "continuations": 2,
    "max_tokens": 40,
    "methods": ["gkd"],
    "diagnose": ["none"],
}


PLAN = {"task": "demo:addition", "limit": 1, "methods": ["gkd"]}
NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize("engine", ["transformers", "vllm", "server"])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_it_is_found_before_anything_runs(role: str, engine: str, tmp_path: Path) -> None:
    if engine == "vllm":
        require("vllm.version")
    broken = copy_of(tmp_path)
    message = without_layer(broken)
    student, teacher = (
        (str(broken), "demo:strong") if role == "student" else ("demo:student", str(broken))
    )
    urls = [NOWHERE] if engine == "server" else []
    with pytest.raises(ModelError, match=message):
        gradalign.plan(student=student, teachers=[teacher], engine=engine, base_urls=urls, **PLAN)  # type: ignore[arg-type]


def test_a_run_is_refused_before_its_folder_is_written(tmp_path: Path) -> None:
    message = without_head(copy_of(tmp_path / "broken", "strong"))
    with pytest.raises(ModelError, match=message):
        gradalign.score(
            student="demo:student",
            teachers=[str(tmp_path / "broken")],
            output_dir=str(tmp_path / "run"),
            **SCORE,  # type: ignore[arg-type]
        )
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_teacher_on_a_server_needs_no_weights_here(tmp_path: Path) -> None:
    (copy_of(tmp_path, "strong") / "model.safetensors").unlink()
    with pytest.raises(EngineError, match="no answer"):
        gradalign.plan(
            student="demo:student",
            teachers=[str(tmp_path)],
            teacher_base_urls=[f"{tmp_path}={NOWHERE}"],
            **PLAN,  # type: ignore[arg-type]
        )


def test_the_command_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_sets(copy_of(tmp_path / "m"))
    with pytest.raises(SystemExit) as left:
        main(
            f"plan --student demo:student --teacher {tmp_path / 'm'} --task demo:addition "
            "--limit 1 --method gkd".split()
        )
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert "two sets of weights" in said
    assert "Traceback" not in said


def test_run_json_says_which_files_were_read(tmp_path: Path) -> None:
    report = gradalign.score(
        student="demo:student",
        teachers=["demo:strong"],
        output_dir=str(tmp_path / "run"),
        **SCORE,  # type: ignore[arg-type]
    )
    data = json.loads((tmp_path / "run" / "run.json").read_text())
    assert report is not None
    assert {entry["weights"][0] for entry in data["models"].values()} == {"model.safetensors"}
