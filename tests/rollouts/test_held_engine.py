"""One engine for several uses: when it stays, when it is opened anew, and what is said of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradalign.engines import Engine, Foreseen, Request, open_engine
from gradalign.engines.held import HeldEngine, Prospect, shortage
from gradalign.errors import EngineError
from tests.rollouts.conftest import assert_closed, tree_requests

HUGE = 2**60


def prospect(*uses: str, others: int | None = 1, student: int | None = 1) -> Prospect:
    work = Foreseen(requests=1, tokens=1, weight_bytes=student)
    return Prospect(uses, work, device="cpu", student_bytes=student, others_bytes=others)


class Opener:
    """Opens engines on a small model, and keeps them to be looked at."""

    def __init__(self, path: Path, max_model_len: int = 128) -> None:
        self.path, self.max_model_len = path, max_model_len
        self.opened: list[Engine] = []

    def __call__(self) -> Engine:
        engine = open_engine("transformers", self.path, max_model_len=self.max_model_len)
        self.opened.append(engine)
        return engine


@pytest.fixture
def opener(qwen: Path) -> Opener:
    return Opener(qwen)


def drawn(engine: Engine) -> dict[int, list[int]]:
    return {i: c.token_ids.tolist() for i, c in engine.generate(tree_requests(max_tokens=12))}


def is_closed(engine: Engine) -> bool:
    try:
        engine.submit([Request((1, 2), 1, 1)])
    except EngineError as error:
        return "closed" in error.message
    engine.abort()
    return False


def test_two_uses_have_one_engine_which_draws_as_a_fresh_one_does(opener: Opener) -> None:
    held = HeldEngine()
    with held.kept(prospect("sample", "branch")):
        with held.lent(opener, "sample") as first:
            drawn(first)
            first.submit(tree_requests())  # left under way
        assert held.is_open
        with held.lent(opener, "branch") as second:
            assert second is first
            found = drawn(second)
        assert not held.is_open, "nobody comes after the last use"
    assert_closed(first)
    (start,) = held.taken_starts()
    assert (start["use"], start["reason"]) == ("sample", "no engine was open yet")
    assert start["seconds"] > 0
    assert (start["engine"], start["about"]) == ("transformers", {"store": "SlicedStore"})
    assert held.taken_starts() == []
    with opener() as fresh:
        assert drawn(fresh) == found


@pytest.mark.parametrize(
    ("others", "words"),
    [(HUGE, r"other models would need [\d.]+ GiB where [\d.]+ GiB are free"), (None, "unknown")],
)
def test_it_is_closed_where_there_is_no_memory_for_the_others(
    opener: Opener, others: int | None, words: str
) -> None:
    held = HeldEngine()
    with held.kept(prospect("sample", "branch", others=others)):
        with held.lent(opener, "sample") as first:
            pass
        assert_closed(first)
        with held.lent(opener, "branch") as second:
            assert second is not first
    _, start = held.taken_starts()
    assert start["use"] == "branch"
    assert re.search(words, start["reason"])


def test_outside_of_a_run_every_use_has_its_own(opener: Opener) -> None:
    held = HeldEngine()
    for _ in range(2):
        with held.lent(opener, "sample") as engine:
            assert not is_closed(engine)
        assert is_closed(engine)
    assert [start["reason"] for start in held.taken_starts()] == [
        "no engine was open yet",
        "every use opens its own",
    ]


def test_longer_sequences_want_another_engine(opener: Opener, qwen: Path) -> None:
    held, longer = HeldEngine(), Opener(qwen, 256)
    with held.kept(prospect("sample", "branch")):
        with held.lent(opener, "sample", max_model_len=128) as first:
            pass
        with held.lent(longer, "sample", max_model_len=200) as second:
            assert is_closed(first)
        with held.lent(opener, "branch", max_model_len=128) as third:
            assert third is second
    assert [start["reason"] for start in held.taken_starts()][1] == "longer sequences were wanted"


def test_nothing_stays_open_after_a_failure_or_the_end(opener: Opener) -> None:
    held = HeldEngine()
    with held.kept(prospect("sample", "branch")):
        with pytest.raises(KeyError), held.lent(opener, "sample"):
            raise KeyError
        assert is_closed(opener.opened[0])
        with held.lent(opener, "sample"):
            pass
        assert not is_closed(opener.opened[1])
    assert is_closed(opener.opened[1])
    assert held.taken_starts()[1]["reason"] == "sample failed"


class Sleeper(Opener):
    """Opens engines that leave their memory, as vLLM does on a GPU, and may not get it back."""

    wakes = True

    def __call__(self) -> Engine:
        engine = super().__call__()
        opener, self.heard = self, []
        kind = type(engine)

        class Sleeping(kind):  # type: ignore[misc, valid-type]
            can_sleep = True

            def _fall_asleep(self) -> None:
                opener.heard.append("asleep")

            def _wake_up(self) -> None:
                if not opener.wakes:
                    raise EngineError("no memory is left.\nmore", "")
                opener.heard.append("awake")

        engine.__class__ = Sleeping
        return engine


def test_one_that_can_sleep_does_so_whatever_the_others_need(qwen: Path) -> None:
    held, sleeper = HeldEngine(), Sleeper(qwen)
    with held.kept(prospect("sample", "branch", others=HUGE)):
        with held.lent(sleeper, "sample"):
            pass
        assert sleeper.heard == ["asleep"]
        with held.lent(sleeper, "branch"):
            assert sleeper.heard == ["asleep", "awake"]
    assert len(held.taken_starts()) == 1


def test_one_whose_weights_have_no_room_to_sleep_in_is_closed(qwen: Path) -> None:
    held, sleeper = HeldEngine(), Sleeper(qwen)
    with held.kept(prospect("sample", "branch", student=HUGE)):
        with held.lent(sleeper, "sample") as engine:
            pass
        assert is_closed(engine)


def test_one_that_does_not_wake_up_is_opened_anew(qwen: Path) -> None:
    held, sleeper = HeldEngine(), Sleeper(qwen)
    with held.kept(prospect("sample", "branch")):
        with held.lent(sleeper, "sample") as first:
            pass
        sleeper.wakes = False
        with held.lent(sleeper, "branch") as second:
            assert is_closed(first)
            assert not is_closed(second)
    assert held.taken_starts()[1]["reason"] == "it did not wake up: no memory is left."


def test_some_memory_has_to_stay_free() -> None:
    assert shortage("others", 2**30, 2 * 2**30) == ""
    assert shortage("others", 2**30, 2**30) == ("others would need 1.8 GiB where 1.0 GiB are free")
