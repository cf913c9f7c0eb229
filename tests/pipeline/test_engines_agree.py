"""A whole run on vLLM against one on transformers; rollouts one by one are in tests/rollouts."""

from __future__ import annotations

import pytest
from requires import require
from runs import SMALL

import gradalign


@pytest.mark.vllm
@pytest.mark.slow
def test_a_whole_run_on_vllm(tmp_path):
    require("vllm")
    settings = {**SMALL, "limit": 24, "shard_size": 12, "nodes": 8, "continuations": 6}
    runs = {
        engine: gradalign.score(**{**settings, "engine": engine}, output_dir=str(tmp_path / engine))
        for engine in ("vllm", "transformers")
    }
    rows = [run.summary[run.summary["split"] == "all"] for run in runs.values()]
    joined = rows[0].merge(rows[1], on=["teacher", "method"], suffixes=("_vllm", "_transformers"))
    assert len(joined) == len(rows[0]) == len(rows[1])
    # Other random numbers, hence other spines and nodes: the intervals must meet.
    assert (joined["pooled_low_vllm"] <= joined["pooled_high_transformers"]).all()
    assert (joined["pooled_low_transformers"] <= joined["pooled_high_vllm"]).all()
    assert runs["vllm"].metadata["resolved"]["engine"] == "vllm"
    (start,) = runs["vllm"].metadata["engine_starts"]
    assert start["use"] == "sample"
    assert start["engine"] == "vllm"
    assert start["about"]["max_num_seqs"] > 0
