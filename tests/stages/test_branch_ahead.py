"""The branch stage begins with the next shard early: the engine is never idle, nothing changes."""

from __future__ import annotations

import itertools
import re
import shutil
import threading

import pytest
from runs import SMALL, assert_same_tables

from gradalign.config import ScoreConfig
from gradalign.engines.transformers.engine import TransformersEngine
from gradalign.errors import EngineError, RunError
from gradalign.executors import open_executor
from gradalign.models.numbers import NotNumbersError
from gradalign.order import stages
from gradalign.progress import SilentReporter
from gradalign.stages.base import Run, announce
from gradalign.stages.branch import stage as branch
from gradalign.stages.branch.stage import Branch
from gradalign.stages.preparation.start import prepare
from gradalign.store.shard import read_questions

SETTINGS = {
    **SMALL,
    "teachers": ["demo:strong"],
    "methods": ["gkd"],
    "diagnose": ["none"],
    # Few rows at once: an engine that takes a whole shard in one step cannot be early.
    "engine_args": {"max_rows": 8},
}


@pytest.fixture(scope="module")
def ready_to_branch(tmp_path_factory):
    """Make a run with everything that comes before the branch stage, a question a shard."""
    made = {}

    def get(folder, **changed):
        settings = {**SETTINGS, **changed}
        key = str(changed)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("ready") / "run"
            config = ScoreConfig.build({**settings, "output_dir": str(made[key])})
            run, log = prepare(config)
            with open_executor(config) as executor:
                for stage in itertools.takewhile(
                    lambda stage: not isinstance(stage, Branch), stages(run)
                ):
                    executor.run_stage(stage, run, log, SilentReporter())
        shutil.copytree(made[key], folder)
        run, _ = prepare(ScoreConfig.build({**settings, "output_dir": str(folder)}))
        return run

    return get


def no_tick(done, total, new):
    assert 0 <= done <= total
    assert new == 1


def do(run, *, ahead):
    """Do the stage; tell it of the following shard or not."""
    shards = run.shards()
    with Branch().session(run) as work:
        for shard, following in zip(shards, [*shards[1:], None], strict=True):
            announce(work, following if ahead else None)
            yield shard, work(shard, no_tick)


@pytest.fixture
def watched(monkeypatch):
    """What the engine was asked and what it answered, in order: ("ask" or "answer", prompt)."""
    events, prompts = [], {}
    submit, receive = TransformersEngine.submit, TransformersEngine.receive

    def watched_submit(self, requests):
        assert len(requests) <= self.room
        prompts.update((request.key, request.prompt_ids) for request in requests)
        events.extend(("ask", request.prompt_ids) for request in requests)
        submit(self, requests)

    def watched_receive(self):
        done = receive(self)
        events.extend(("answer", prompts[key]) for key, _ in done)
        return done

    monkeypatch.setattr(TransformersEngine, "submit", watched_submit)
    monkeypatch.setattr(TransformersEngine, "receive", watched_receive)
    return events


@pytest.mark.parametrize("settings", [{}, {"target_se": 0.05}, {"allocation": "uniform"}])
def test_the_next_shard_is_under_way_before_a_shard_is_done(
    ready_to_branch, tmp_path, watched, settings
):
    events = watched
    runs = {}
    for ahead in (False, True):
        runs[ahead] = run = ready_to_branch(tmp_path / str(ahead), **settings)
        events.clear()
        counts = dict(do(run, ahead=ahead))
        assert set(counts) == set(run.shards())
        prompts = [read_questions(run.folder, shard)[0].prompt_ids for shard in run.shards()]

        def of(kind, prompt):
            return [
                place
                for place, (what, ids) in enumerate(events)
                if what == kind and ids[: len(prompt)] == prompt
            ]

        for one, other in itertools.pairwise(prompts):
            assert (of("ask", other)[0] < of("answer", one)[-1]) == ahead
        answers = sum(what == "answer" for what, _ in events)
        forced = sum(
            (run.folder.read_table("continuations", shard)["finish_reason"].to_pylist()).count(
                "forced"
            )
            for shard in run.shards()
        )
        assert answers + forced == sum(count["continuations"] for count in counts.values())
    assert_same_tables(tmp_path / "False", tmp_path / "True")


def test_a_shard_that_cannot_be_begun_is_refused_when_it_is_asked_for(ready_to_branch, tmp_path):
    run: Run = ready_to_branch(tmp_path / "run")
    torn = tmp_path / "run" / "positions" / "shard-00001.parquet"
    torn.write_bytes(torn.read_bytes()[:-20])
    done = []
    with pytest.raises(RunError, match=r"shard-00001\.parquet is torn"):
        done += do(run, ahead=True)
    assert run.folder.files("nodes") == ["shard-00000"]


def test_a_failure_of_the_next_shard_does_not_lose_the_one_that_is_written(
    ready_to_branch, tmp_path, monkeypatch
):
    run = ready_to_branch(tmp_path / "run")
    first, second = run.shards()[:2]
    writing, failed = threading.Event(), threading.Event()
    receive, write = TransformersEngine.receive, branch.write_branch_tables

    def failing(self):
        """Keep all answers of the second shard back, and break while the first is written."""
        if writing.is_set():
            failed.set()
            raise EngineError("the engine broke.", "Buy another.")
        return [(key, done) for key, done in receive(self) if key.work.name != second]

    def slow(*arguments):
        writing.set()
        assert failed.wait(60)
        return write(*arguments)

    monkeypatch.setattr(TransformersEngine, "receive", failing)
    monkeypatch.setattr(branch, "write_branch_tables", slow)
    with Branch().session(run) as work:
        announce(work, second)
        counts = work(first, no_tick)
        assert counts["continuations"] > 0
        assert run.folder.files("nodes") == [first]
        with pytest.raises(EngineError, match="the engine broke"):
            work(second, no_tick)


def test_the_question_of_a_broken_request_is_named(ready_to_branch, tmp_path, monkeypatch):
    run = ready_to_branch(tmp_path / "run", limit=1)
    (question,) = read_questions(run.folder, run.shards()[0])
    submit, keys = TransformersEngine.submit, []

    def watched_submit(self, requests):
        keys.extend(request.key for request in requests)
        submit(self, requests)

    def broken(self):
        raise NotNumbersError(keys[-1], "at token 2 of a response")

    monkeypatch.setattr(TransformersEngine, "submit", watched_submit)
    monkeypatch.setattr(TransformersEngine, "receive", broken)
    words = f"question {question.question.id}: the logits of student demo:student are not numbers"
    with Branch().session(run) as work, pytest.raises(NotNumbersError, match=re.escape(words)):
        work(run.shards()[0], no_tick)
