"""The bundled models under other tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from gradalign.models import resolve_model


def renumbered(name: str, folder: Path, *, merge: bool = False, seed: int = 0) -> str:
    """Write a bundled model with its tokens under other ids; return the folder.

    Args:
        name: such as `demo:strong`.
        folder: to write to.
        merge: give the tokenizer a further token, "zz", which the model has no row for: a text is
            then cut otherwise, though not one of the task's.
        seed: of the order.
    """
    source = resolve_model(name)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source)
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = settings["model"]["vocab"]
    order = np.random.default_rng(seed).permutation(len(vocabulary))
    new = {text: int(order[token]) for text, token in vocabulary.items()}
    moved = torch.from_numpy(np.argsort(order))
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table.copy_(table[moved].clone())
        out = model.get_output_embeddings().weight
        if out.data_ptr() != table.data_ptr():
            out.copy_(out[moved].clone())
    for item in settings["added_tokens"]:
        item["id"] = new[item["content"]]
    for item in settings["post_processor"]["special_tokens"].values():
        item["ids"] = [new[text] for text in item["tokens"]]
    if merge:
        new["zz"] = len(new)
        settings["model"]["merges"] = [["z", "z"]]
    settings["model"]["vocab"] = new
    for field in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for place in (model.config, model.generation_config):
            old = getattr(place, field, None)
            if isinstance(old, int):
                setattr(place, field, int(order[old]))
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(settings)),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)
    return str(folder)
