"""How far a run is: its arithmetic, its lines at every width, and libraries that are quiet."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time

import pytest
from tqdm.auto import tqdm

from gradalign.progress import PlainReporter, make_reporter, spoken
from gradalign.progress.overall import Overall
from gradalign.progress.quiet import SWITCHES, quiet_bars
from gradalign.progress.state import Watcher
from gradalign.progress.words import cut_middle, short_names

LONG = "some-organisation/Quite-Long-Model-Name-8B-Instruct-2507"


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Still(Watcher):
    """Shows nothing by itself."""

    def changed(self):
        pass

    def opened(self, stage):
        pass

    def finished(self, stage):
        pass

    def remark(self, text):
        pass

    def close(self):
        pass


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "under 1 s"),
        (45, "45 s"),
        (480, "8 min"),
        (7800, "2 h 10 min"),
        (7200, "2 h"),
        (15 * 3600, "15 h"),
        (19 * 86400, "19 days"),
        (166_749 * 3600, "19 years"),
    ],
)
def test_times_are_said_as_people_say_them(seconds, text):
    assert spoken(seconds) == text


def test_names_are_short_and_tell_models_apart():
    models = ["a/first/model", "b/other/model", "hub/Small", "demo:strong", "hub/Small"]
    assert short_names(models) == {
        "a/first/model": "first/model",
        "b/other/model": "other/model",
        "hub/Small": "Small",
        "demo:strong": "demo:strong",
    }
    assert short_names(["model", "x/model"]) == {"model": "model", "x/model": "x/model"}
    assert cut_middle("abcdefghij", 7) == "abc…hij"


def test_time_left_is_the_plan_scaled_by_what_was_measured():
    clock = Clock()
    overall = Overall(clock)
    assert overall.left() is None
    overall.expect({"draw": 10.0, "read": 20.0, "branch": 70.0})
    assert overall.left() == pytest.approx(100.0)
    overall.open("draw", 0.0)
    clock.now = 40.0  # four times as slow as planned
    overall.advance("draw", 1.0)
    overall.close("draw")
    # The plan's own pace weighs as 5 of its 100 seconds do.
    assert overall.left() == pytest.approx(90.0 * (40 + 5) / (10 + 5))
    overall.open("read", 0.0)
    clock.now = 60.0
    overall.advance("read", 0.5)  # 20 s for half of it: its own pace counts
    pace = (60 + 5) / (20 + 5)
    assert overall.left() == pytest.approx(20.0 + 70.0 * pace)
    assert overall.share() == pytest.approx(60.0 / (60.0 + 20.0 + 70.0 * pace))


def test_the_share_never_goes_back_and_ends_at_one():
    clock = Clock()
    overall = Overall(clock)
    overall.expect({"a": 1.0, "b": 1.0})
    seen = []
    for name, seconds in (("a", 1.0), ("b", 50.0)):
        overall.open(name, 0.0)
        for step in range(1, 5):
            clock.now += seconds / 4
            overall.advance(name, step / 4)
            seen.append(overall.share())
        overall.close(name)
        seen.append(overall.share())
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)


def test_a_run_that_is_taken_up_begins_where_it_was():
    overall = Overall(Clock())
    overall.expect({"a": 60.0, "b": 40.0})
    overall.open("b", 0.5)
    assert overall.left() == pytest.approx(20.0)
    assert overall.share() == pytest.approx(0.8)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("stage", ["sample", f"score continuations: {LONG}"])
def test_bars_fit(width, stage):
    clock = Clock()
    reporter = Still(clock)
    reporter.activity("importing")
    assert reporter.lines(width) == ["importing (under 1 s)"]
    reporter.expect({"sample": 100.0, f"score continuations: {LONG}": 300.0}, [LONG, "o/Other"])
    with reporter.stage(stage, "continuations", 4, 0) as progress:
        clock.now = 100.0
        progress.shard(16, 16, 160_000)
        progress.finish_shard()
        whole, part = reporter.lines(width)
    assert max(len(whole), len(part)) <= width
    assert whole.startswith("whole run")
    assert "left" in whole
    assert " 25%" in part
    assert ("━" in part) == (width >= 60)
    if stage != "sample":
        assert "some-organisation" not in part
        assert "2507" in part
    if width >= 80:
        assert "/s" in part


def test_without_colour_or_unicode_the_bar_can_be_read():
    reporter = Still(Clock())
    with reporter.stage("sample", "spines", 2, 1):
        (line,) = reporter.lines(80, ascii_only=True)
    assert line.isascii()
    assert "##" in line
    assert "--" in line


def test_lines_come_every_half_minute_with_share_and_time_left():
    clock, out = Clock(), io.StringIO()
    reporter = PlainReporter(out, changes=False, clock=clock)
    try:
        reporter.activity("importing")
        reporter.expect({"sample": 100.0, "branch": 100.0})
        with reporter.stage("sample", "spines", 10, 0) as progress:
            for step in range(1, 11):
                clock.now = 10.0 * step
                progress.shard(1, 1, 4)
                progress.finish_shard()
    finally:
        reporter.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 3  # at 30, 60 and 90 seconds
    for line in lines:
        assert re.fullmatch(
            r"\d+% done, about \d+ (s|min) left; sample: \d+%, \d+ spines, \d of 10 shards", line
        )


def test_lines_tell_what_begins_and_ends_where_they_should():
    out = io.StringIO()
    reporter = PlainReporter(out)
    try:
        reporter.activity("importing")
        reporter.expect({"sample": 1.0, f"distribute {LONG}": 1.0}, [LONG])
        with reporter.stage(f"distribute {LONG}", "spines", 3, 2) as progress:
            progress.shard(4, 4, 4)
            progress.finish_shard()
    finally:
        reporter.close()
    first, second, third = out.getvalue().splitlines()
    assert first == "importing"
    short = LONG.partition("/")[2]
    assert second == f"distribute {short}: 2 of 3 shards are there already"
    assert third.startswith(f"distribute {short}: 4 spines in ")


def test_a_line_comes_where_nothing_ticks():
    """While a model is opened nothing is reported for minutes."""
    out = io.StringIO()
    reporter = PlainReporter(out, changes=False, every=0.1)
    try:
        reporter.activity("opening a model")
        until = time.monotonic() + 10
        while not out.getvalue() and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        reporter.close()
    assert out.getvalue().startswith("opening a model (")


def test_displays(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    kinds = {}
    for name, out, term in (
        ("terminal", Terminal(), "xterm"),
        ("dumb", Terminal(), "dumb"),
        ("pipe", io.StringIO(), "xterm"),
    ):
        monkeypatch.setattr(sys, "stderr", out)
        monkeypatch.setenv("TERM", term)
        reporter = make_reporter("auto")
        kinds[name] = type(reporter).__name__
        reporter.close()
    assert kinds == {"terminal": "RichReporter", "dumb": "PlainReporter", "pipe": "PlainReporter"}
    assert type(make_reporter("none")).__name__ == "SilentReporter"


def test_bars_of_libraries_are_not_drawn():
    class Own(tqdm):
        """As libraries derive their own."""

    before = {name: os.environ.get(name) for name in SWITCHES}

    def draw():
        out = io.StringIO()
        for kind in (tqdm, Own):
            list(kind(range(3), desc="Loading weights", file=out, disable=False))
        return out.getvalue()

    with quiet_bars():
        assert draw() == ""
        code = "import sys; from tqdm import tqdm; print(list(tqdm(range(3))))"
        child = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    assert (child.stdout, child.stderr) == ("[0, 1, 2]\n", "")
    assert "Loading weights" in draw()
    assert {name: os.environ.get(name) for name in SWITCHES} == before


def test_blocks_may_end_in_the_order_in_which_they_began():
    one, other = quiet_bars(), quiet_bars()
    for block in (one, other):
        block.__enter__()
    one.__exit__(None, None, None)
    hidden = io.StringIO()
    list(tqdm(range(2), file=hidden, disable=False))
    other.__exit__(None, None, None)
    out = io.StringIO()
    list(tqdm(range(2), file=out, disable=False))
    assert (hidden.getvalue(), bool(out.getvalue())) == ("", True)


def test_errors_pass_and_bars_come_back():
    with pytest.raises(ZeroDivisionError), quiet_bars():
        raise ZeroDivisionError
    out = io.StringIO()
    list(tqdm(range(2), file=out, disable=False))
    assert out.getvalue()
