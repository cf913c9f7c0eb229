"""The throughput benchmark measures what it says, on a workload of seconds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from requires import require
from speed.raw import planned_requests
from speed.rows import measure
from speed.workloads import (
    WORKLOADS,
    drawn_tokens,
    open_run,
    prepare_run,
    recorded_run,
    requests_of,
)

SMALL = {"num_rollouts": 1, "nodes": 3, "max_candidates": 3, "continuations": 4}


@pytest.fixture
def workload(monkeypatch, tmp_path):
    small = replace(
        WORKLOADS["bundled"],
        questions=4,
        shard_size=2,
        warm_up=1,
        settings={**WORKLOADS["bundled"].settings, **SMALL},
        plain_every=1,
    )
    monkeypatch.setitem(WORKLOADS, "bundled", small)
    prepare_run("bundled", tmp_path)
    return tmp_path


def measured(row, folder):
    work_folder = folder / row
    work_folder.mkdir()
    return measure(row, "bundled", folder, work_folder)


@pytest.mark.slow
def test_rows_answer_the_recorded_requests(workload):
    recorded = recorded_run(workload)
    timed = recorded.shards()[:2]
    requests = [request for shard in timed for request in requests_of(recorded, shard)]
    stage = measured("stage, transformers", workload)
    # The same engine draws the same tokens: nothing is lost on the way from table to request.
    assert stage["requests"] == len(requests) > 20
    assert stage["tokens"] == sum(drawn_tokens(recorded, shard) for shard in timed)
    assert stage["cpu_seconds"] > 0
    plain = measured("plain script", workload)
    assert plain["requests"] == len(requests)
    assert plain["share_of_requests"] == 1
    assert 0.6 < plain["tokens"] / stage["tokens"] < 1.6
    score = measured("score, transformers", workload)
    assert 0 < score["model_seconds"] + score["opening_seconds"] < score["seconds"]


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_rows_answer_the_same(workload):
    require("vllm")
    rows = ("stage, transformers", "stage, vllm", "raw LLM.generate")
    found = [measured(row, workload) for row in rows]
    assert len({row["requests"] for row in found}) == 1
    # The same seeds in the same engine.
    assert len({row["tokens"] for row in found[1:]}) == 1
    assert 0.6 < found[0]["tokens"] / found[1]["tokens"] < 1.6
    assert 0 < found[1]["model_seconds"] < found[1]["seconds"]


def test_the_requests_of_bare_processes_are_those_that_were_recorded(workload):
    run, recorded = open_run(workload), recorded_run(workload)
    for shard in run.shards():
        planned = sorted(map(str, planned_requests(run, shard)))
        assert planned == sorted(map(str, requests_of(recorded, shard)))
