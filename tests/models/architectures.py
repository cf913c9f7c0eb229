"""Tiny random causal language models of many architectures: two layers, 48 tokens.

Sliding windows have 8 tokens where an architecture has them: short sequences reach past them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 48

_IDS: dict[str, Any] = {
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_PLAIN = _IDS | {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_GROUPED = _PLAIN | {"num_key_value_heads": 2}
_HEAD = _GROUPED | {"head_dim": 8}
_SLIDING = _HEAD | {
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MAMBA2 = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}


def _config(name: str, **settings: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, f"{name}Config")(**settings)


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "bamba": _config("Bamba", **_GROUPED, **_MAMBA2, attn_layer_indices=[1], attn_rotary_emb=4),
    "biogpt": _config("BioGpt", **_PLAIN),
    "bloom": _config("Bloom", **_IDS, hidden_size=32, n_layer=2, n_head=4),
    "codegen": _config(
        "CodeGen", **_IDS, n_embd=32, n_layer=2, n_head=4, n_positions=128, rotary_dim=4
    ),
    "cohere": _config("Cohere", **_GROUPED),
    "cohere2": _config("Cohere2", **_SLIDING),
    "deepseek_v3": _config(
        "DeepseekV3",
        **_PLAIN,
        num_key_value_heads=4,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
    ),
    "ernie4_5": _config("Ernie4_5", **_HEAD),
    "exaone4": _config("Exaone4", **_GROUPED, sliding_window=8, sliding_window_pattern=2),
    "falcon_alibi": _config(
        "Falcon",
        **_IDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        alibi=True,
        max_position_embeddings=128,
    ),
    "falcon_h1": _config("FalconH1", **_HEAD, **_MAMBA2, mamba_d_ssm=64),
    "gemma": _config("Gemma", **_HEAD),
    "gemma2": _config("Gemma2", **_SLIDING, query_pre_attn_scalar=8),
    "gemma3": _config("Gemma3Text", **_SLIDING, query_pre_attn_scalar=8),
    "glm4": _config("Glm4", **_HEAD),
    "gpt2": _config("GPT2", **_IDS, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "gpt_neo": _config(
        "GPTNeo",
        **_IDS,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
        max_position_embeddings=128,
    ),
    "gpt_neox": _config("GPTNeoX", **_PLAIN),
    "gpt_oss": _config("GptOss", **_SLIDING, num_local_experts=4, num_experts_per_tok=2),
    "gptj": _config("GPTJ", **_IDS, n_embd=32, n_layer=2, n_head=4, n_positions=128, rotary_dim=4),
    "granite": _config("Granite", **_GROUPED, logits_scaling=2.0, residual_multiplier=0.5),
    "hunyuan": _config("HunYuanDenseV1", **_HEAD),
    "jamba": _config(
        "Jamba",
        **_GROUPED,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=4,
        num_experts_per_tok=2,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "lfm2": _config("Lfm2", **_GROUPED, layer_types=["conv", "full_attention"]),
    "llama4": _config(
        "Llama4Text",
        **_HEAD,
        intermediate_size_mlp=32,
        num_local_experts=4,
        attention_chunk_size=8,
        no_rope_layers=[1, 0],
    ),
    "mamba2": _config(
        "Mamba2",
        **_IDS,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=8,
        num_heads=8,
        head_dim=8,
        n_groups=1,
        chunk_size=8,
    ),
    "minimax": _config(
        "MiniMax",
        **_HEAD,
        layer_types=["linear_attention", "full_attention"],
        num_local_experts=4,
        num_experts_per_tok=2,
        block_size=8,
    ),
    "mistral": _config("Mistral", **_HEAD, sliding_window=8),
    "mpt": _config("Mpt", **_IDS, d_model=32, n_layers=2, n_heads=4, max_seq_len=128),
    "nemotron": _config("Nemotron", **_GROUPED),
    "olmo2": _config("Olmo2", **_GROUPED),
    "olmoe": _config("Olmoe", **_GROUPED, num_experts=4, num_experts_per_tok=2),
    "opt": _config(
        "OPT",
        **_IDS,
        hidden_size=32,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=128,
    ),
    "persimmon": _config("Persimmon", **_PLAIN),
    "phi": _config("Phi", **_GROUPED),
    "phi3": _config("Phi3", **_GROUPED, sliding_window=8),
    "qwen2": _config("Qwen2", **_GROUPED),
    "qwen2_moe": _config("Qwen2Moe", **_GROUPED, **_EXPERTS, shared_expert_intermediate_size=16),
    "qwen3_moe": _config("Qwen3Moe", **_HEAD, **_EXPERTS),
    "qwen3_next": _config(
        "Qwen3Next",
        **_HEAD,
        **_EXPERTS,
        shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"],
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "seed_oss": _config("SeedOss", **_HEAD),
    "smollm3": _config("SmolLM3", **_GROUPED),
    "stablelm": _config("StableLm", **_GROUPED),
    "starcoder2": _config("Starcoder2", **_GROUPED, sliding_window=8),
}
"""Those that give the same numbers alone and in a padded batch."""

OTHERS: dict[str, Callable[[], Any]] = {
    "mamba": _config("Mamba", **_IDS, hidden_size=32, num_hidden_layers=2, state_size=8),
    "recurrent_gemma": _config(
        "RecurrentGemma",
        **_HEAD,
        lru_width=32,
        attention_window_size=8,
        block_types=["recurrent", "attention"],
    ),
    "rwkv": _config("Rwkv", **_IDS, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32),
    "xglm": _config(
        "XGLM",
        **_IDS,
        d_model=32,
        ffn_dim=32,
        num_layers=2,
        attention_heads=4,
        max_position_embeddings=128,
    ),
    "xlnet": _config("XLNet", **_IDS, d_model=32, n_layer=2, n_head=4, d_inner=32),
    "bert": _config("Bert", **_PLAIN),
}
"""Those that have ways of their own."""


def long_rope_config(original: int, *, vocab: int = VOCAB, context: int = 512) -> Any:
    """Return a Phi-3 whose frequencies change beyond `original` tokens."""
    return transformers.Phi3Config(
        **(_GROUPED | {"vocab_size": vocab, "max_position_embeddings": context}),
        original_max_position_embeddings=original,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "factor": context / original,
            "original_max_position_embeddings": original,
            "short_factor": [1.0, 1.0, 1.1, 1.1],
            "long_factor": [2.0, 3.0, 5.0, 8.0],
        },
    )


def make(name: str) -> Any:
    """Return a random model of an architecture."""
    return make_from({**ARCHITECTURES, **OTHERS}[name]())


def make_from(config: Any, seed: int = 0) -> Any:
    """Return a random model whose distributions are far from uniform."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.data.normal_(0, 0.3)
    return model.eval()


def save(config: Any, folder: Path) -> str:
    """Save a random model with the bundled tokenizer, whose 259 tokens it must have."""
    from gradalign.demo import model_path

    make_from(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_path("student") / name, folder)
    return str(folder)
