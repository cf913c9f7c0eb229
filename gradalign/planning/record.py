"""The plan in run.json, and the actual figures beside it."""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict
from typing import Any

import numpy as np

from gradalign.planning.figures import Figures, times_of
from gradalign.planning.plan import make_plan, scored_by
from gradalign.planning.probe import probe
from gradalign.progress import Reporter
from gradalign.stages.base import Run, teacher_file
from gradalign.stages.preparation.workload import Workload
from gradalign.store.manifest import RunLog
from gradalign.store.shard import read_questions


def record_plan(run: Run, log: RunLog, reporter: Reporter, *, with_probe: bool = False) -> None:
    """Put the plan of a run into run.json, unless it has one from before."""
    if "plan" in log.data:
        return
    calibration = probe(run.config, run.resolved, reporter) if with_probe else None
    for line in calibration.findings if calibration is not None else ():
        reporter.remark(line)
    workload = Workload(**log.data["workload"])
    log.data["plan"] = make_plan(run.config, run.resolved, workload, calibration).as_dict()
    log.save()


def record_actual(run: Run, log: RunLog) -> None:
    """Put what the run came to beside its plan."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log.data["actual"] = {
        "figures": asdict(actual_figures(run, log.data)),
        "seconds": asdict(times_of(log.data["stages"])),
        # Linux counts in KiB, macOS in bytes.
        "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
    }
    log.save()


def actual_figures(run: Run, data: dict[str, Any]) -> Figures:
    """Count what a finished run's tables hold."""
    totals, workload = data["totals"], Workload(**data["workload"])
    config = run.config
    spines, teachers = totals["spines"], len(run.read_teachers)
    prompt_tokens = workload.prompt_tokens * config.num_rollouts
    teacher_prompts = sum(workload.teacher_prompt_tokens.values()) * config.num_rollouts
    passes = _counted(data, "student_passes")
    own = prompt_tokens + totals["spine_tokens"]
    return Figures(
        questions=totals["questions"],
        spines=spines,
        spine_prompt_tokens=prompt_tokens,
        spine_tokens=totals["spine_tokens"],
        nodes=totals["nodes"],
        branches=totals["branches"],
        continuations=totals["continuations"],
        continuation_prompt_tokens=sum(_started_from(run, shard) for shard in run.shards()),
        continuation_tokens=totals["continuation_tokens"],
        student_passes=passes,
        teacher_passes=spines * teachers - totals["skipped_pairs"],
        # Contexts that show attempts are counted without these.
        forced_tokens=round(passes / spines * own)
        + teacher_prompts
        + teachers * totals["spine_tokens"],
        scored_tokens=sum(_scored(run, shard) for shard in run.shards()) if scored_by(run) else 0,
        disk_bytes=int(run.folder.fs.du(run.folder.root)),
        prefix_continuations=_counted(data, "prefix_continuations"),
        prefix_tokens=_counted(data, "prefix_tokens"),
        teacher_answers=_counted(data, "teacher_answers"),
        teacher_answer_tokens=_counted(data, "teacher_answer_tokens"),
    )


def _counted(data: dict[str, Any], name: str) -> int:
    """Sum a count over all stages."""
    return sum(int(stage["counts"].get(name, 0)) for stage in data["stages"].values())


def _started_from(run: Run, shard: str) -> int:
    """Sum the prompt, spine and candidate tokens that a shard's continuations began with."""
    prompts = {item.question.id: len(item.prompt_ids) for item in read_questions(run.folder, shard)}
    made = run.folder.read_table("continuations", shard).select(
        ["question_id", "position", "finish_reason"]
    )
    frame = made.to_pandas()
    drawn = frame[frame["finish_reason"].astype(str) != "forced"]
    lengths = drawn["question_id"].astype(str).map(prompts).to_numpy(dtype=np.int64)
    return int(lengths.sum() + (drawn["position"].to_numpy(dtype=np.int64) + 1).sum())


def _scored(run: Run, shard: str) -> int:
    labels = ["", *(teacher.label for teacher in run.read_teachers)]
    return sum(
        len(
            run.folder.read_table("continuation_scores", teacher_file(shard, label))["logprobs"]
            .combine_chunks()
            .flatten()
        )
        for label in labels
        if run.folder.has_table("continuation_scores", teacher_file(shard, label))
    )
