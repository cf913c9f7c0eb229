"""A real model with sliding windows and a vocabulary of 262,144, without a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradalign
from gradalign.report.report import Report
from tests.real.packaged import GEMMA3, model_folder
from tests.requires import require

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.vllm]

PROMPT = "8 + 3 = 11\n9 - 4 = 5\n{} ="

SETTINGS: dict[str, Any] = {
    "teachers": ["self+template:The answer is {answer}.\n{prompt}"],
    "verifier": r"regex:^\s*(\d+)",
    "methods": ["gkd", "dr_grpo"],
    "num_rollouts": 2,
    "nodes": 2,
    "max_candidates": 3,
    "continuations": 2,
    "max_tokens": 8,
    "stop_token_ids": [107],  # the end of a line
    "diagnose": ["none"],
    "bootstrap_resamples": 100,
    "go_on": True,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    require("vllm")
    student, folder = model_folder(GEMMA3), tmp_path_factory.mktemp("gemma3")
    rows = [
        {"id": f"{a} + {b}", "prompt": PROMPT.format(f"{a} + {b}"), "answer": str(a + b)}
        for a, b in ((12, 5), (27, 16))
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"student": str(student), "task": str(folder / "sums.jsonl"), **SETTINGS}
    return {
        engine: gradalign.score(**settings, engine=engine, output_dir=str(folder / engine))
        for engine in ("transformers", "vllm")
    }


def test_it_is_the_model_that_is_meant(runs: dict[str, Report]) -> None:
    run = runs["transformers"]
    config = json.loads(Path(run.metadata["config"]["student"], "config.json").read_text())
    assert config["vocab_size"] == 262_144 == run.metadata["resolved"]["vocab_size"]
    assert {"sliding_attention", "full_attention"} == set(config["layer_types"])
    prompts = run.questions["prompt_ids"].map(tuple)
    assert all(ids[0] == 2 and 2 not in ids[1:] for ids in prompts)  # one begin token


def test_both_engines_say_the_same(runs: dict[str, Report]) -> None:
    asked = [run.questions.set_index("question_id")["prompt_ids"] for run in runs.values()]
    assert asked[0].map(tuple).to_dict() == asked[1].map(tuple).to_dict()
    floor = runs["vllm"].metadata["noise_floor"]
    assert floor["tokens"] >= 8
    assert floor["mean"] < 2e-3
    assert floor["largest"] < 5e-2


def test_every_node_has_both_models_and_values(runs: dict[str, Report]) -> None:
    for run in runs.values():
        assert len(run.nodes) >= 4
        assert run.branches["value"].notna().all()
        held = run.distributions["token_ids"].map(len) + run.distributions["num_tail"]
        assert (held <= 262_144).all()
        for name in ("student", "teacher"):
            kept = run.distributions[f"{name}_logprobs"].map(lambda row: np.exp(row).sum())
            total = kept + np.exp(run.distributions[f"{name}_log_tail"])
            np.testing.assert_allclose(total, 1.0, atol=1e-4)
