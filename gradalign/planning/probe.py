"""A short probe: the first stages of the run on a few of its questions, and a few rollouts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gradalign.branching import BranchRequest
from gradalign.config import ScoreConfig
from gradalign.contexts import models_read
from gradalign.engines.base import Completion, Foreseen
from gradalign.engines.held import Prospect
from gradalign.engines.requests import Request
from gradalign.order import stages as every_stage
from gradalign.planning.calibration import Calibration, allowed_continuations, assumed
from gradalign.planning.figures import Figures
from gradalign.planning.memory import plan_memory
from gradalign.planning.pace import UNSIZED, Pace
from gradalign.planning.work import Work
from gradalign.progress import Reporter, SilentReporter
from gradalign.stages.base import Resolved, Run, Stage
from gradalign.stages.branch.question import QuestionWork
from gradalign.stages.branch.stage import Branch, plan_shard
from gradalign.stages.distributions import (
    StudentPositions,
    StudentSupports,
    TeacherPositions,
)
from gradalign.stages.gate.counts import read_sampled
from gradalign.stages.gate.keeper import few_words
from gradalign.stages.preparation.start import prepare
from gradalign.stages.preparation.workload import Workload
from gradalign.stages.sample import Sample
from gradalign.stages.student import open_student
from gradalign.store.shard import read_positions, read_shard

QUESTIONS = 4
SPINES = 4
ROLLOUTS = 192
"""Targeted rollouts that are drawn, spread over all nodes of the probe."""


def probe(config: ScoreConfig, resolved: Resolved, reporter: Reporter | None = None) -> Calibration:
    """Measure lengths, candidates and speeds with the run's own models, on this machine.

    The student samples from one engine, as in the run. The spines are the run's own first ones, so
    that nothing about them is assumed; they are drawn again by the run itself.

    Raises:
        GradalignError: whatever would go wrong in these stages of the run.
    """
    reporter = reporter or SilentReporter()
    with tempfile.TemporaryDirectory(prefix="gradalign-probe-") as place:
        small = config.model_copy(
            update={
                "limit": min(config.limit or _enough(config), _enough(config)),
                "num_rollouts": min(config.num_rollouts, SPINES),
                "shard_size": QUESTIONS,
                "output_dir": str(Path(place) / "run"),
                "executor": "local",
            }
        )
        prepared, log = prepare(small)
        run = Run(small, resolved)
        shard = prepared.shards()[0]
        with run.student_engine.kept(_prospect(run)):
            timed = {stage: _timed(stage, run, shard, reporter) for stage in _stages(run)}
            reporter.activity(f"probe: {ROLLOUTS} targeted rollouts")
            start = time.monotonic()
            with open_student(run, Branch.name) as tools:
                opened = time.monotonic() - start
                work = plan_shard(run, shard)
                first = [
                    (item, request) for item in work for request in item.branching.next_requests()
                ]
                requests = list(_spread(run, first))
                start = time.monotonic()
                drawn = [completion for _, completion in tools.engine.generate(requests)]
                seconds = time.monotonic() - start
        findings = few_words(run, read_sampled(run))
        measured = _Measured(
            _work(run, Workload(**log.data["workload"]), shard, drawn), timed, opened, seconds
        )
        sizes = _sizes(work, first, config.num_rollouts / small.num_rollouts)
        return replace(
            _calibration(run, config, measured, sizes),
            findings=tuple(findings),
        )


def _prospect(run: Run) -> Prospect:
    memory = plan_memory(run.config, run.resolved)
    requests, weights = QUESTIONS * SPINES + ROLLOUTS, memory.models[0].weight_bytes
    return Prospect(
        uses=(Sample.name, Branch.name),
        work=Foreseen(requests, requests * run.resolved.max_tokens // 2, weights),
        device=run.config.device,
        student_bytes=weights,
        others_bytes=memory.needed_bytes,
    )


_Ask = tuple[QuestionWork, BranchRequest]


@dataclass(frozen=True)
class _Timed:
    """Seconds to open a stage, and to do a shard with it."""

    opening: float
    working: float


def _enough(config: ScoreConfig) -> int:
    """Return how many questions the contexts need to be made; the first few are probed."""
    shown = [spec.context.partition(":") for spec in models_read(config.teachers)]
    demos = [int(number) for name, _, number in shown if name == "demos" and number.isdecimal()]
    return max([QUESTIONS, *(number + 1 for number in demos)])


def _stages(run: Run) -> list[Stage]:
    return [
        Sample(),
        StudentPositions(),
        *(TeacherPositions(model, group) for model, group in run.teachers_by_model.items()),
        StudentSupports(),
    ]


def _timed(stage: Stage, run: Run, shard: str, reporter: Reporter) -> _Timed:
    reporter.activity(f"probe: {stage.name}")
    start = time.monotonic()
    with stage.session(run) as work:
        opened = time.monotonic()
        work(shard, lambda done, total, units: None)
        done = time.monotonic()
    return _Timed(opened - start, done - opened)


def _spread(run: Run, first: list[_Ask]) -> Iterator[Request]:
    """Yield some of the rollouts that the run would begin with, from everywhere."""
    every = [(item, request) for item, request in first if not request.finished]
    step = max(1.0, len(every) / ROLLOUTS)
    for place in np.arange(0, len(every), step).astype(int).tolist():
        item, request = every[place]
        yield item.ask(request, run)


@dataclass(frozen=True)
class _Sizes:
    """Means per question, for as many spines as the run will draw."""

    num_questions: int
    nodes: float
    branches: float
    open_branches: float
    finished: float
    start: float


def _sizes(work: list[QuestionWork], first: list[_Ask], more: float) -> _Sizes:
    plans = [plan for item in work for plan in item.branching.plans]
    # Equal prefixes of a question's spines share their rollouts: counted as the run does.
    opened = {(id(item), r.node, r.slot) for item, r in first if not r.finished}
    scale = more / len(work)
    return _Sizes(
        num_questions=len(work),
        nodes=len(plans) * scale,
        branches=sum(len(plan.token_ids_C) for plan in plans) * scale,
        open_branches=len(opened) * scale,
        finished=sum(request.finished for _, request in first) * scale,
        start=float(np.mean([plan.position + 1 for plan in plans])) if plans else 0.0,
    )


@dataclass(frozen=True)
class _Measured:
    """What was timed.

    Attributes:
        work: of the probe's own run.
        timed: its first stages.
        opened: seconds until rollouts could be drawn.
        drawing: seconds in which they were.
    """

    work: Work
    timed: Mapping[Stage, _Timed]
    opened: float
    drawing: float


def _work(run: Run, workload: Workload, shard: str, drawn: list[Completion]) -> Work:
    """Return what the probe did, in the terms of a plan."""
    stored = read_shard(run.folder, shard)
    questions = len(stored.questions)
    share = questions / workload.num_questions
    counted = Workload(
        num_questions=questions,
        prompt_tokens=sum(len(item.prompt_ids) for item in stored.questions),
        teacher_prompt_tokens={
            label: round(share * tokens) for label, tokens in workload.teacher_prompt_tokens.items()
        },
    )
    spines = stored.spines
    figures = Figures(
        questions=questions,
        spines=len(spines),
        spine_prompt_tokens=sum(len(spine.prompt_ids) for spine in spines),
        spine_tokens=sum(len(spine.token_ids) for spine in spines),
        nodes=sum(len(at.chosen) for at in read_positions(run.folder, shard).values()),
        continuations=len(drawn),
        continuation_tokens=sum(len(item.token_ids) for item in drawn),
    )
    memory = plan_memory(run.config, run.resolved)
    # All rollouts are asked for at once, as those of a uniform allocation are.
    at_once = replace(run, config=run.config.model_copy(update={"allocation": "uniform"}))
    return Work(at_once, counted, figures, memory.device)


def _calibration(run: Run, config: ScoreConfig, measured: _Measured, sizes: _Sizes) -> Calibration:
    work, timed = measured.work, measured.timed
    figures = work.figures
    guess = assumed(config, run.resolved, plan_memory(run.config, run.resolved))

    def pace(guessed: Pace | None, stage: Stage, seconds: float) -> Pace:
        rows = guess.row_seconds * work.rows(stage)
        return (guessed or UNSIZED).measured(work.load(stage), seconds - rows)

    reading = {
        stage.model: pace(guess.reading.get(stage.model), stage, took.working)
        for stage, took in timed.items()
        if isinstance(stage, TeacherPositions)
    }
    own, student, sample = StudentPositions(), config.student, Sample()
    reading[student] = pace(guess.reading.get(student), own, timed[own].working)
    drawing = pace(guess.drawing, Branch(), measured.drawing) if figures.continuations else None
    return Calibration(
        measured=True,
        response_tokens=figures.spine_tokens / figures.spines,
        nodes=sizes.nodes,
        branches=sizes.branches,
        continuations=allowed_continuations(config, sizes.open_branches) + sizes.finished,
        continuation_start=sizes.start,
        continuation_tokens=figures.continuation_tokens / max(figures.continuations, 1),
        sampling=pace(guess.sampling, sample, timed[sample].working),
        drawing=drawing,
        reading=reading,
        row_seconds=guess.row_seconds,
        openings=_openings(run, measured),
        assumptions=(
            f"measured on {sizes.num_questions} questions with {run.config.num_rollouts} responses "
            f"each and {figures.continuations} targeted rollouts",
            "as many targeted rollouts as the settings allow: an upper bound",
        ),
    )


def _openings(run: Run, measured: _Measured) -> dict[str, float]:
    """Return the seconds that stages open in; those that were not tried open like others."""
    opened = {stage.name: took.opening for stage, took in measured.timed.items()}
    of_model = {
        getattr(stage, "model", None) or run.config.student: took.opening
        for stage, took in measured.timed.items()
        if not isinstance(stage, Sample)
    }
    found = {}
    for stage in every_stage(run):
        if stage.kind == "analysis":
            continue
        model = getattr(stage, "model", None) or run.config.student
        found[stage.name] = opened.get(stage.name, of_model[model])
    # Where the engine was kept it is only woken; where it is not, it starts once more.
    found[Branch.name] = max(measured.opened, opened[Sample.name])
    return found
