"""What `gradalign plan` says of Qwen3-1.7B learning from Qwen3-8B, without their weights.

Two folders are made with the published shapes of the models (`config.json`) and a stand-in
tokenizer that makes one token of every word; questions of 100 words and solutions of 150 stand
in for GSM8K and MATH-500. The plan reads nothing else: its counts, tokens, disk and memory are
those of a run with the real ones, but for the lengths of prompts. Time is of the device it runs on.

Run: python benchmarks/qwen_plan.py [further options of `gradalign plan`]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config

SHAPES = {
    "Qwen3-1.7B": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "Qwen3-8B": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
}
"""What the two differ in; from their config.json."""

SHARED = {
    "vocab_size": 151936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "dtype": "bfloat16",
}
PROMPT_WORDS, SOLUTION_WORDS, QUESTIONS = 100, 150, 200
TEMPLATE = (
    "{%- for message in messages %}{{- '<im_start> ' + message['role'] + ' ' + message['content'] "
    "+ ' <im_end> ' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<im_start> assistant ' }}{%- endif %}"
)


def make_folder(folder: Path, name: str) -> None:
    """Write a model's configuration and the stand-in tokenizer."""
    words = ["<unk>", "<im_end>", "<im_start>", "word"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<im_end>", pad_token="<im_end>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / name)
    config = Qwen3Config(**SHAPES[name], **SHARED, eos_token_id=1)
    config.architectures = ["Qwen3ForCausalLM"]
    config.save_pretrained(folder / name)


def main() -> int:
    """Make the stand-ins and run the command on them."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        for name in SHAPES:
            make_folder(folder, name)
        questions = [
            {
                "id": f"q{number}",
                "prompt": " ".join(["word"] * PROMPT_WORDS),
                "answer": "1",
                "solution": " ".join(["word"] * SOLUTION_WORDS),
            }
            for number in range(QUESTIONS)
        ]
        task = folder / "questions.jsonl"
        task.write_text("".join(json.dumps(question) + "\n" for question in questions))
        command = [sys.executable, "-m", "gradalign_cli.main", "plan", "--verifier", "math"]
        command += ["--student", str(folder / "Qwen3-1.7B"), "--teacher", str(folder / "Qwen3-8B")]
        command += ["--teacher", "self+solution", "--teacher", "self+wrong-answer"]
        for method in ("gkd:beta=0", "gkd", "opd", "dr_grpo"):
            command += ["--method", method]
        command += ["--alignment", "update", "--max-tokens", "1024", "--task", str(task)]
        return subprocess.run([*command, *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
