"""The throughput benchmark measures what it says, on a workload of seconds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from requires import require
from speed.rows import measure
from speed.workloads import WORKLOADS, drawn_tokens, open_run, prepare_run, requests_of

from gradalign.stages.base import Run

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
    source = open_run(workload)
    changed = {"output_dir": str(workload / "recorded")}
    recorded = Run(source.config.model_copy(update=changed), source.resolved)
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
    found = {row: measured(row, workload) for row in ("stage, transformers", "stage, vllm")}
    one, other = found.values()
    assert one["requests"] == other["requests"]
    assert 0.6 < one["tokens"] / other["tokens"] < 1.6
