"""What is measured: runs of gradalign that have come as far as the branch stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gradalign.config import ScoreConfig
from gradalign.engines import Request, derive_seed
from gradalign.executors import open_executor
from gradalign.order import stages
from gradalign.progress import SilentReporter
from gradalign.stages.base import Resolved, Run
from gradalign.stages.branch.stage import Branch
from gradalign.stages.preparation.start import prepare
from gradalign.store.shard import read_shard

RANDOM_VOCABULARY = 32_000


@dataclass(frozen=True)
class Workload:
    """Questions, and how many rollouts of what length they get.

    Attributes:
        about: for the table.
        questions: number of them that are timed.
        settings: further settings of `gradalign.score`.
        prompt_tokens: length of the prompts of the random model; 0 for the bundled pair.
        plain_every: the plain script does every k-th prompt only.
        shard_size: questions per shard; all that are timed if 0.
        warm_up: questions of a last shard, which is done first and not timed.
        prepared: what its rows want done beforehand: the model and the questions alone, every
            stage before the branch stage, or also the branch stage, to record its requests.
        real: its student is a checkpoint of the caller's.
        shape: settings of the random model, where it is another than that of `medium`.
        dtype: of the random model's weights.
    """

    about: str
    questions: int
    settings: dict[str, Any]
    prompt_tokens: int = 0
    plain_every: int = 8
    shard_size: int = 0
    warm_up: int = 1
    prepared: Literal["questions", "run", "requests"] = "requests"
    real: bool = False
    shape: Mapping[str, int] = field(default_factory=dict)
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def vocabulary(self) -> int:
        """Tokens of the random model."""
        return self.shape.get("vocab_size", RANDOM_VOCABULARY)


_MEDIUM: dict[str, Any] = {"num_rollouts": 1, "nodes": 10, "max_candidates": 4}

WORKLOADS: dict[str, Workload] = {
    "bundled": Workload(
        "the bundled student (72,704 parameters), defaults but for a uniform allocation",
        questions=48,
        settings={"allocation": "uniform"},
        plain_every=36,
        shard_size=16,
        warm_up=16,
    ),
    "bundled-neyman": Workload(
        "the bundled student, all defaults: a pilot, and a round that follows from it",
        questions=48,
        settings={},
        plain_every=36,
        shard_size=16,
        warm_up=16,
    ),
    "medium": Workload(
        "a random Qwen3 of 41.6 M parameters with a vocabulary of 32k, uniform allocation",
        questions=4,
        settings={**_MEDIUM, "continuations": 4, "max_tokens": 64, "allocation": "uniform"},
        prompt_tokens=96,
    ),
    "real": Workload(
        "a checkpoint of your own (--student) on the bundled sums",
        questions=3,
        settings={
            **_MEDIUM,
            "teachers": ["self+answer"],
            "nodes": 8,
            "continuations": 4,
            "max_tokens": 64,
            "allocation": "uniform",
        },
        real=True,
    ),
    "long-prefix": Workload(
        "the same model, prompts of 768 tokens",
        questions=3,
        settings={**_MEDIUM, "continuations": 2, "max_tokens": 24, "allocation": "uniform"},
        prompt_tokens=768,
        plain_every=16,
    ),
    "prefixes": Workload(
        "the same model, prompts of 150 and responses of up to 48 tokens",
        questions=4,
        settings={**_MEDIUM, "continuations": 2, "max_tokens": 48, "allocation": "uniform"},
        prompt_tokens=150,
        plain_every=4,
    ),
    "workers": Workload(
        "the model of `medium`, short responses, two questions a shard",
        questions=144,
        settings={**_MEDIUM, "continuations": 4, "max_tokens": 24, "allocation": "uniform"},
        prompt_tokens=96,
        shard_size=2,
        prepared="run",
    ),
    "long": Workload(
        "a whole run of ten minutes with the model of `medium`, all of it timed",
        questions=144,
        settings={**_MEDIUM, "continuations": 4, "max_tokens": 64},
        prompt_tokens=96,
        shard_size=16,
        warm_up=0,
        prepared="questions",
    ),
}


_GPU: dict[str, Any] = {"engine": "vllm", "allocation": "uniform", "max_candidates": 4}
_SHAPE = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}

WORKLOADS |= {
    "gpu-real": Workload(
        "a checkpoint of your own (--student) on the bundled sums, on a GPU",
        questions=24,
        settings={
            **_GPU, "teachers": ["self+answer"], "num_rollouts": 4, "nodes": 8, "continuations": 8,
            "max_tokens": 64,
        },
        real=True,
    ),
    "gpu-1.7b": Workload(
        "a random model of Qwen3-1.7B's shape, prompts of 256 and responses of up to 128 tokens",
        questions=8,
        settings={**_GPU, "num_rollouts": 2, "nodes": 12, "continuations": 6, "max_tokens": 128},
        prompt_tokens=256,
        shape=_SHAPE,
        dtype="bfloat16",
    ),
    "gpu-small": Workload(
        "the same with the model of `medium`, to try the benchmark without a GPU",
        questions=2,
        settings={**_GPU, "num_rollouts": 1, "nodes": 6, "continuations": 4, "max_tokens": 24},
        prompt_tokens=64,
    ),
}  # fmt: skip
"""Those of `gpu.py`."""

OF_GPU = ("gpu-real", "gpu-1.7b", "gpu-small")


def make_config(name: str, folder: Path, student: str = "") -> ScoreConfig:
    """Return the configuration of a workload; its model and task are made in `folder`.

    Args:
        name: the workload.
        folder: its folder.
        student: the checkpoint of a workload that is `real`.
    """
    work = WORKLOADS[name]
    settings: dict[str, Any] = {
        "student": "demo:student",
        "teachers": ["demo:strong", "self+answer"],
        "task": "demo:addition",
    }
    if work.prompt_tokens:
        model, task = folder / "model", folder / "questions.jsonl"
        if not task.exists():
            _make_model(model, work)
            _make_task(task, work)
        settings = {
            "student": str(model),
            "teachers": ["self+other"],
            "task": str(task),
            "verifier": "exact",
        }
    return ScoreConfig.build(
        settings
        | {
            "methods": ["gkd", "opd"],
            "limit": work.questions + work.warm_up,
            "shard_size": work.shard_size or work.questions,
            "engine": "transformers",
            "control": False,
            "output_dir": str(folder / "run"),
        }
        | work.settings
        | ({"student": student} if work.real else {})
    )


def prepare_run(name: str, folder: Path, student: str = "") -> None:
    """Do what the rows of a workload want done beforehand; see `make_config`."""
    config = make_config(name, folder, student)
    if WORKLOADS[name].prepared == "questions":
        return
    run, log = prepare(config)
    with open_executor(config) as executor:
        for stage in stages(run):
            if isinstance(stage, Branch):
                break
            executor.run_stage(stage, run, log, SilentReporter())
    if WORKLOADS[name].prepared == "run":
        return
    recorded = copy_run(run, folder / "recorded")
    with Branch().session(recorded) as work:
        for shard in recorded.shards():
            work(shard, lambda done, total, new: None)


def copy_run(run: Run, folder: Path, **settings: Any) -> Run:
    """Copy a run, to go on from there with other settings that change no result."""
    shutil.copytree(run.config.output_dir, folder, dirs_exist_ok=True)
    values = run.config.model_dump() | settings | {"output_dir": str(folder)}
    resolved = replace(run.resolved, engine=values["engine"])
    return Run(ScoreConfig.build(values), resolved)


def open_run(folder: Path) -> Run:
    """Open the run that `prepare_run` made in a workload's folder."""
    data = json.loads((folder / "run" / "run.json").read_text())
    stored = data["resolved"]
    for key in ("stop_token_ids", "special_token_ids"):
        stored[key] = tuple(stored[key])
    return Run(ScoreConfig.build(data["config"]), Resolved(**stored))


def recorded_run(folder: Path) -> Run:
    """Open the run whose branch stage was done to record its requests."""
    source = open_run(folder)
    changed = {"output_dir": str(folder / "recorded")}
    return Run(source.config.model_copy(update=changed), source.resolved)


def requests_of(run: Run, shard: str) -> Iterator[Request]:
    """Yield the requests that the branch stage made for a shard, from its tables."""
    spines = {spine.spine_id: spine for spine in read_shard(run.folder, shard).spines}
    table = run.folder.read_table("continuations", shard)
    columns = ("question_id", "spine_id", "position", "candidate_id", "index", "finish_reason")
    limit = run.resolved.max_tokens
    for question, spine, position, candidate, index, reason in zip(
        *(table[name].to_pylist() for name in columns), strict=True
    ):
        prefix = (*spines[spine].token_ids[:position].tolist(), candidate)
        if reason == "forced" or len(prefix) >= limit:
            continue  # nothing to sample
        ids = (*spines[spine].prompt_ids, *prefix)
        yield Request(ids, limit - len(prefix), derive_seed(run.config.seed, question, ids, index))


def drawn_tokens(run: Run, shard: str) -> int:
    """Count the tokens that the branch stage drew for a shard."""
    return len(
        run.folder.read_table("continuations", shard)["token_ids"].combine_chunks().flatten()
    )


def _make_model(folder: Path, work: Workload) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape = {
        "vocab_size": work.vocabulary,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 64,
    }
    config = Qwen3Config(
        **{**shape, **work.shape},
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=0,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).to(getattr(torch, work.dtype)).save_pretrained(folder)
    words = ["<|end|>", *(f"w{i}" for i in range(1, work.vocabulary))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=words[0]).save_pretrained(folder)


def _make_task(path: Path, work: Workload) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(work.questions + work.warm_up):
        ids = rng.integers(1, work.vocabulary, work.prompt_tokens)
        prompt = " ".join(f"w{i}" for i in ids)
        rows.append(
            {
                "id": f"q{number}",
                "prompt": prompt,
                "answer": "w1",
                "contexts": {"other": f"w1 {prompt}"},
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
