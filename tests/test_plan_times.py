"""A plan's time against what runs compute: tokens, passes, and the seconds of every stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from runs import SMALL

import gradalign
from gradalign.engines.base import Request
from gradalign.engines.registry import open_engine
from gradalign.models import loaded_model
from gradalign.models.output_layer import repeats_logits
from gradalign.order import stages
from gradalign.planning.figures import Figures
from gradalign.planning.machine import Machine, this_machine
from gradalign.planning.opening import assumed_openings
from gradalign.planning.pace import TRIALS, Load, Pace, drawing_pace
from gradalign.planning.work import Work
from gradalign.stages.base import Resolved, Run
from gradalign.stages.branch.stage import Branch
from gradalign.stages.distributions import StudentPositions, TeacherPositions
from gradalign.stages.preparation.workload import Workload
from gradalign.stages.sample import Sample


def work_of(report: gradalign.Report, **settings: object) -> Work:
    """The work of a finished run by what it counted, as if its settings were these."""
    resolved = Resolved(**report.metadata["resolved"])
    engine = settings.pop("engine", resolved.engine)
    run = Run(report.config.model_copy(update=settings), replace(resolved, engine=engine))
    figures = Figures(**report.metadata["actual"]["figures"])
    return Work(run, Workload(**report.metadata["workload"]), figures, "cpu")


@contextmanager
def counted(model: torch.nn.Module) -> Iterator[list[int]]:
    """Collect the tokens of every pass in the block."""
    found: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, given, named: found.append(named.get("input_ids", *given[:1]).numel()),
        with_kwargs=True,
    )
    try:
        yield found
    finally:
        hook.remove()


def test_passes_read_the_tokens_that_are_planned(small_run):
    work = work_of(small_run)
    read = [s for s in stages(work.run) if isinstance(s, StudentPositions | TeacherPositions)]
    assert len(read) == 3  # the student, its teacher, and itself with two contexts
    tokens = sum(work.load(stage).tokens - TRIALS.tokens for stage in read)
    assert tokens == small_run.metadata["actual"]["figures"]["forced_tokens"]


def test_a_model_is_tried_by_as_much_as_is_planned():
    with loaded_model("demo:student", device="cpu") as model, counted(model) as tokens:
        repeats_logits(model)
    assert len(tokens) == pytest.approx(TRIALS.passes, abs=1)
    assert sum(tokens) == pytest.approx(TRIALS.tokens, rel=0.25)


def test_spines_take_the_passes_of_the_longest(small_run):
    work, spines = work_of(small_run), small_run.spines
    load = work.load(Sample())
    assert load.tokens == spines["num_tokens"].sum() + work.workload.prompt_tokens
    # A shard is one question, whose spines are drawn side by side, and one pass for its prompt.
    steps = spines.groupby("question_id", observed=True)["num_tokens"].max().sum() + work.shards
    assert load.passes == pytest.approx(steps, rel=0.3)


def test_a_few_spines_are_scored_for_the_noise_floor(small_run):
    figures = small_run.metadata["actual"]["figures"]
    own = figures["spine_prompt_tokens"] + figures["spine_tokens"]
    without, with_floor = (
        work_of(small_run, engine=engine).load(Sample()) for engine in ("transformers", "vllm")
    )
    assert with_floor.tokens - without.tokens == own  # fewer than eight spines in each shard
    warm = work_of(small_run, engine="vllm", temperature=0.7).load(Sample())
    assert warm == without


def test_rollouts_read_their_beginnings_again(small_run):
    figures = small_run.metadata["actual"]["figures"]
    made, generated = figures["continuations"], figures["continuation_tokens"]
    vllm = work_of(small_run, engine="vllm").load(Branch())
    assert vllm.tokens == generated + 16 * made
    smaller = work_of(small_run, engine="vllm", engine_args={"block_size": 16}).load(Branch())
    assert smaller.tokens == generated + 8 * made
    narrow = work_of(small_run, engine="vllm", engine_args={"max_num_seqs": 1}).load(Branch())
    assert narrow.passes >= generated


def test_trunks_are_read_once_by_the_engine():
    """What `transformers` computes of prompts is what the plan says: each spine once."""
    spine = tuple(range(5, 13))
    requests = [
        Request((*spine[:cut], token), 1, 100 * cut + token)
        for cut in range(1, 8)
        for token in (5, 6)
    ]
    with open_engine("transformers", "demo:student", device="cpu") as engine:
        drawn = list(engine.generate(requests))
        read = engine.usage.prefilled_tokens
    assert len(drawn) == len(requests)
    assert read <= 2 * len(spine) < sum(len(request.prompt_ids) for request in requests)


def test_a_measured_pace_gives_the_seconds_that_were_measured():
    pace, load = Pace(2.0, 30.0), Load(100.0, 4.0)
    assert pace.seconds(load) == 320.0
    slower = pace.measured(load, 640.0)
    assert slower.seconds(load) == pytest.approx(640.0)
    assert slower.pass_seconds / slower.token_seconds == pytest.approx(15.0)


def test_a_product_takes_what_its_rows_and_its_matrix_take():
    """Seconds of r rows by one weight matrix, against the pace of a model of that one matrix."""
    machine = this_machine("cpu", "auto")
    size = 4096
    weights = torch.ones((size, size))
    for rows in (1, 16, 128):
        some = torch.ones((rows, size))
        torch.mm(some, weights)
        begin, count = time.process_time(), 5
        for _ in range(count):
            torch.mm(some, weights)
        took = (time.process_time() - begin) / count
        expected = weights.nbytes / machine.bytes_per_second + 2 * rows * size**2 / machine.flops
        assert expected / machine.crowding / 4 < took < 4 * expected, rows


def test_the_machine_is_measured_as_it_is():
    machine = this_machine("cpu", "auto")
    assert 1e9 < machine.flops < 1e14
    assert 1e8 < machine.bytes_per_second < 1e13
    assert machine.crowding >= 1.0


def test_starting_an_engine_is_in_the_plan(small_run):
    quiet, busy = Machine(1e11, 1e10, 1.0), Machine(1e11, 1e10, 3.0)
    memory = gradalign.plan(**small_run.config.model_dump(include={"student", "teachers", "task"}))
    run = work_of(small_run, engine="vllm").run
    at_rest = assumed_openings(run, memory.memory, quiet)
    assert at_rest["sample"] > 5 * at_rest["distribute support"]
    crowded = assumed_openings(run, memory.memory, busy)
    assert crowded["sample"] > 2.5 * at_rest["sample"]


def test_a_larger_model_is_slower_by_its_size(small_run):
    plan = gradalign.plan(**small_run.config.model_dump(include={"student", "teachers", "task"}))
    machine = Machine(1e11, 1e10, 1.0)
    small = plan.memory.models[0]
    large = replace(small, parameters=100 * small.parameters, weight_bytes=100 * small.weight_bytes)
    load = Load(1e6, 0.0)
    slow, quick = (drawing_pace(model, "cpu", "vllm", machine) for model in (large, small))
    assert slow.seconds(load) == pytest.approx(100 * quick.seconds(load))


@pytest.mark.slow
def test_a_probe_foretells_the_seconds_of_a_run(tmp_path):
    given = {**SMALL, "limit": 12, "shard_size": 12, "num_rollouts": 4, "nodes": 8}
    given |= {"diagnose": ["none"], "bootstrap_resamples": 100}
    planned = gradalign.plan(**given, probe=True).likely
    actual = gradalign.score(**given, output_dir=str(tmp_path / "run")).metadata["actual"]
    assert planned.seconds.total / 2 < actual["seconds"]["total"] < 2 * planned.seconds.total
