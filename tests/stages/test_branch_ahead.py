"""The branch stage begins with the next shard early: the engine is never idle, nothing changes."""

from __future__ import annotations

import itertools
import threading
from contextlib import suppress

import pytest
from runs import SMALL, assert_same_tables

from gradalign.config import ScoreConfig
from gradalign.engines.transformers.engine import TransformersEngine
from gradalign.errors import EngineError, RunError
from gradalign.executors import open_executor
from gradalign.order import stages
from gradalign.progress import SilentReporter
from gradalign.stages.base import Run, announce
from gradalign.stages.branch import stage as branch
from gradalign.stages.branch.stage import Branch
from gradalign.stages.preparation.start import prepare
from gradalign.store.shard import read_questions


def ready_to_branch(folder, **settings):
    """A run with everything that comes before the branch stage, a question a shard."""
    # Few rows at once: an engine that takes a whole shard in one step cannot be early.
    fewer = {"teachers": ["demo:strong"], "methods": ["gkd"], "diagnose": ["none"]}
    settings = {**SMALL, **fewer, "engine_args": {"max_rows": 8}, **settings}
    config = ScoreConfig.build({**settings, "output_dir": str(folder)})
    run, log = prepare(config)
    with open_executor(config) as executor:
        for stage in stages(run):
            if isinstance(stage, Branch):
                return run
            executor.run_stage(stage, run, log, SilentReporter())
    raise AssertionError("no branch stage")


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
    """What the engine was asked and when it answered, in order: ("ask" or "answer", prompt)."""
    events, calls = [], []
    generate = TransformersEngine.generate

    def watching(self, requests):
        asked = []

        def source():
            for request in requests:
                if request is not None:
                    asked.append(request)
                    events.append(("ask", request.prompt_ids))
                yield request

        calls.append(self)
        for index, completion in generate(self, source()):
            events.append(("answer", asked[index].prompt_ids))
            yield index, completion

    monkeypatch.setattr(TransformersEngine, "generate", watching)
    return events, calls


@pytest.mark.parametrize("settings", [{}, {"target_se": 0.05}, {"allocation": "uniform"}])
def test_the_next_shard_is_under_way_before_a_shard_is_done(tmp_path, watched, settings):
    events, calls = watched
    runs = {}
    for ahead in (False, True):
        runs[ahead] = run = ready_to_branch(tmp_path / str(ahead), **settings)
        events.clear()
        calls.clear()
        counts = dict(do(run, ahead=ahead))
        assert len(calls) == 1  # one stream of requests, whatever the shards
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


def test_a_shard_that_cannot_be_begun_is_refused_when_it_is_asked_for(tmp_path):
    run: Run = ready_to_branch(tmp_path)
    torn = tmp_path / "positions" / "shard-00001.parquet"
    torn.write_bytes(torn.read_bytes()[:-20])
    done = []
    with pytest.raises(RunError, match=r"shard-00001\.parquet is torn"):
        done += do(run, ahead=True)
    assert run.folder.files("nodes") == ["shard-00000"]


def test_a_failure_of_the_next_shard_does_not_lose_the_one_that_is_written(tmp_path, monkeypatch):
    run = ready_to_branch(tmp_path)
    first, second = run.shards()[:2]
    prompt = read_questions(run.folder, second)[0].prompt_ids
    writing, failed = threading.Event(), threading.Event()
    generate, write = TransformersEngine.generate, branch.write_branch_tables

    def failing(self, requests):
        asked = []

        def source():
            for request in requests:
                asked.extend([] if request is None else [request])
                yield request

        with suppress(EngineError):  # all answers were kept back: the engine wants to be asked more
            for index, completion in generate(self, source()):
                if asked[index].prompt_ids[: len(prompt)] != prompt:
                    yield index, completion
                elif writing.is_set():
                    break
        failed.set()
        raise EngineError("the engine broke.", "Buy another.")

    def slow(*arguments):
        writing.set()
        assert failed.wait(60)
        return write(*arguments)

    monkeypatch.setattr(TransformersEngine, "generate", failing)
    monkeypatch.setattr(branch, "write_branch_tables", slow)
    with Branch().session(run) as work:
        announce(work, second)
        counts = work(first, no_tick)
        assert counts["continuations"] > 0
        assert run.folder.files("nodes") == [first]
        with pytest.raises(EngineError, match="the engine broke"):
            work(second, no_tick)
