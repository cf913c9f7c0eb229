"""A plan against what the same run came to, and what it says of the machine."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from runs import SMALL, TINY, flags

import gradalign
from gradalign.alignment.weights import how_many_questions
from gradalign.config import ScoreConfig
from gradalign.errors import ContextOverflowError, RunError, UsageError
from gradalign.models import loaded_model
from gradalign.planning.engine import EngineStarts, foreseen_starts
from gradalign.planning.memory import count_parameters, kv_numbers_per_token
from gradalign.stages.base import Run
from gradalign.stages.preparation.preflight import check
from gradalign_cli.main import main

EXACT = ("questions", "spines", "spine_prompt_tokens", "student_passes", "teacher_passes")

ASKED = ("prefix_continuations", "prefix_tokens", "teacher_answers", "teacher_answer_tokens")
"""What is sampled only where it is asked for."""


def figures(report, name):
    return report.metadata[name]["figures"]


def test_without_a_probe_counts_are_exact_or_upper_bounds(small_run):
    plan, actual = figures(small_run, "plan"), figures(small_run, "actual")
    assert plan.keys() == actual.keys()
    for name in EXACT:
        assert plan[name] == actual[name], name
    for name in ASKED:
        assert plan[name] == actual[name] == 0
    for name in set(plan) - set(EXACT) - set(ASKED):
        assert plan[name] >= actual[name] > 0, name
    assert small_run.metadata["plan"]["measured"] is False
    assert "upper bound" in " ".join(small_run.metadata["plan"]["assumptions"])


def test_what_else_samples_is_in_the_plan(tmp_path):
    settings = {**SMALL, "limit": 2, "nodes": 2, "continuations": 2, "methods": ["gkd"]}
    more = {"diagnose": ["prefix"], "teacher_accuracy": 1}
    report = gradalign.score(**settings, **more, output_dir=str(tmp_path / "run"))
    plan, actual = figures(report, "plan"), figures(report, "actual")
    for name in ASKED:
        assert plan[name] >= actual[name] > 0
    assert plan["teacher_answers"] == len(report.table("teacher_answers")) == 2
    assert actual["prefix_continuations"] == len(report.table("diagnostics_prefix"))


def test_passes_in_the_weights_are_in_the_plan():
    """Sums and derivatives cost the same for any arms; gradients go by arms and quarters."""
    plans = [
        gradalign.plan(**SMALL, alignment=["weights"], weights_adamw="first", **more)
        for more in ({}, {"weights_quarters": True})
    ]
    once, quarters = (plan.stages for plan in plans)
    # Two forward passes are what derivatives have and sums have not.
    forward = (once["derivatives"] - once["ideal updates"]) / 2
    arms = 1 + (once["adamw steps"] - once["ideal updates"]) / (2 * forward)
    passes = (quarters["gradients"] - once["gradients"]) / (3 * 2 * forward)
    assert arms == pytest.approx(2 + 2 * 3)  # two without a teacher, three of two teachers
    # Each arm by itself and with random signs; those of rollouts (minillm, dr_grpo) by halves too.
    assert passes == pytest.approx(2 * arms + 3 * (2 + 1))
    assert quarters["derivatives"] == pytest.approx(once["derivatives"])
    assert plans[1].figures.disk_bytes > plans[0].figures.disk_bytes
    assert how_many_questions() in plans[0].assumptions
    assert how_many_questions() not in gradalign.plan(**SMALL).assumptions


def test_actual_figures_are_those_of_the_tables(small_run):
    actual = figures(small_run, "actual")
    assert actual["spine_tokens"] == small_run.spines["num_tokens"].sum()
    assert actual["nodes"] == len(small_run.nodes)
    made = small_run.continuations
    assert actual["continuations"] == len(made)
    assert actual["continuation_tokens"] == made["token_ids"].map(len).sum()
    scores = small_run.table("continuation_scores")
    assert actual["scored_tokens"] == scores["logprobs"].map(len).sum()
    prompts = small_run.table("questions").set_index("question_id")["prompt_ids"].map(len)
    drawn = made[made["finish_reason"] != "forced"]
    started = drawn["question_id"].astype(str).map(prompts) + drawn["position"] + 1
    assert actual["continuation_prompt_tokens"] == started.sum()
    files = [path for path in Path(small_run.path).rglob("*") if path.is_file()]
    on_disk = sum(path.stat().st_size for path in files)
    assert actual["disk_bytes"] == pytest.approx(on_disk, rel=0.05)  # run.json was written since
    seconds = small_run.metadata["actual"]["seconds"]
    assert seconds["total"] == pytest.approx(
        sum(stage["seconds"] for stage in small_run.metadata["stages"].values()), abs=0.01
    )
    assert seconds["branch"] > 0
    assert small_run.metadata["actual"]["peak_memory_bytes"] > 1e8


@pytest.mark.slow
def test_a_probe_comes_close(small_run):
    plan = gradalign.plan(**SMALL, probe=True)
    planned, actual = asdict(plan.figures), figures(small_run, "actual")
    assert plan.measured
    for name in EXACT:
        assert planned[name] == actual[name], name
    # The probe looks at all three questions: its spines are the run's own.
    assert planned["spine_tokens"] == actual["spine_tokens"]
    assert planned["nodes"] == actual["nodes"]
    assert planned["branches"] == actual["branches"]
    assert actual["continuations"] <= planned["continuations"] <= 2.5 * actual["continuations"]
    for name in ("continuation_tokens", "continuation_prompt_tokens", "scored_tokens"):
        assert actual[name] / 2 < planned[name] < 3 * actual[name], name
    assert actual["disk_bytes"] / 3 < planned["disk_bytes"] < 10 * actual["disk_bytes"]
    assert plan.seconds.total > 0


def test_weights_and_cache_are_those_of_the_model():
    with loaded_model("demo:student", device="cpu") as model:
        assert count_parameters(model.config, trust_remote_code=False) == model.num_parameters()
        with torch.no_grad():
            cache = model(torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
        numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
        assert kv_numbers_per_token(model.config) == numbers / 3


def test_a_machine_without_gpu():
    plan = gradalign.plan(**{**SMALL, "device": "cpu"})
    memory = plan.memory
    assert (memory.device, memory.num_devices) == ("cpu", 0)
    assert [model.name for model in memory.models] == ["demo:student", "demo:strong"]
    for model in memory.models:
        assert model.weight_bytes == 4 * model.parameters  # float32 on CPU
    assert memory.fits is True
    assert memory.needed_bytes < memory.total_bytes
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="torch sees no GPU"):
            gradalign.plan(**{**SMALL, "device": "cuda"})


def starts(memory, *, engine="transformers", workers=1, **settings):
    """What is foretold for a machine with that memory."""
    given = {**SMALL, **settings, "output_dir": "nowhere"}
    if workers > 1:
        given |= {"executor": "ray", "num_workers": workers}
    checked = check(ScoreConfig.build(given))
    run = Run(checked.config, replace(checked.resolved, engine=engine))
    return foreseen_starts(run, memory, workers)


def test_openings_of_the_engine_are_foretold():
    memory = gradalign.plan(**{**SMALL, "device": "cpu"}).memory
    gib = 2**30
    roomy = replace(memory, free_bytes=16 * gib, host_free_bytes=16 * gib, needed_bytes=gib)
    assert starts(roomy) == EngineStarts(1, "idles while other models are read")
    assert starts(roomy, workers=3).number == 3
    assert starts(roomy, engine="server").number == 1
    tight = starts(replace(roomy, needed_bytes=16 * gib))
    assert (tight.number, "20.5 GiB where 16.0 GiB" in tight.reason) == (2, True)
    assert starts(replace(roomy, needed_bytes=None)).number == 2
    # vLLM keeps its cache of keys and values on CPU: two fifths of what is free at most.
    close = replace(roomy, needed_bytes=9 * gib)
    greedy = replace(close, models=(replace(close.models[0], kv_bytes_per_token=gib),))
    assert starts(close).number == starts(close, engine="vllm").number == 1
    assert starts(greedy, engine="vllm").number == 2
    # On a GPU it sleeps, whatever the others need there, if its weights have room outside.
    gpu = replace(roomy, device="cuda", free_bytes=gib, needed_bytes=16 * gib)
    assert starts(gpu).number == 2
    assert starts(gpu, engine="vllm") == EngineStarts(1, "sleeps while other models are read")
    assert starts(replace(gpu, host_free_bytes=1000), engine="vllm").number == 2
    prefixes = {"diagnose": ["prefix"]}
    assert starts(replace(roomy, needed_bytes=16 * gib), **prefixes).number == 3


def test_a_budget_bounds_the_rollouts():
    plan = gradalign.plan(**{**SMALL, "budget": 2000})
    assert plan.figures.continuations == 3 * 2000
    tight = gradalign.plan(**{**SMALL, "budget": 10})
    assert tight.figures.continuations == 2 * tight.figures.branches  # every candidate gets two


def test_workers_share_the_time():
    one = gradalign.plan(**SMALL).seconds
    four = gradalign.plan(**SMALL, executor="ray", num_workers=4).seconds
    assert four.branch < one.branch


def test_a_dry_run_leaves_nothing(capsys, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(["score", *flags(SMALL), "--output-dir", str(folder), "--dry-run", "--json"])
    assert stop.value.code == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["figures"]["spines"] == 6
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_makes_the_checks(small_run, tmp_path):
    with pytest.raises(ContextOverflowError):
        gradalign.plan(**SMALL, max_tokens=100_000)
    with pytest.raises(RunError, match="--seed was 0, now 1"):
        gradalign.plan(**SMALL, seed=1, output_dir=small_run.path)
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not empty"):
        gradalign.plan(**SMALL, output_dir=str(tmp_path))
    assert gradalign.plan(**SMALL, output_dir=small_run.path).figures.spines == 6


def test_the_command_prints_a_table(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", *flags(SMALL), "--full"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for text in (
        "targeted rollouts",
        "teacher passes",
        "time: branch",
        "upper bounds",
        "fits",
        "opened once",
    ):
        assert text in out
    if not torch.cuda.is_available():
        assert "models run in the machine's memory" in out


def test_a_limit_above_what_a_task_has_is_said() -> None:
    plan = gradalign.plan(**{**TINY, "limit": 100})
    assert "the task has 64 questions: --limit 100 takes all" in plan.assumptions
    assert not any("takes all" in line for line in gradalign.plan(**TINY).assumptions)
