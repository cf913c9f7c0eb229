"""Verifiers that fail: found before work where it can be known, and no wrong responses."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from runs import SMALL, flags

import gradalign
from gradalign.config import ScoreConfig
from gradalign.contexts.sibling import pick_sibling
from gradalign.errors import UnknownNameError, UsageError, VerifierError
from gradalign.questions import Attempt, Question
from gradalign.registry import Registry, load_object
from gradalign.report.export import ExportSettings, export
from gradalign.report.terminal.question import show_question
from gradalign.stages.failures import FailureWatch, too_many
from gradalign.stages.preparation.preflight import check
from gradalign.store.splits import outcome_splits
from gradalign.verifiers import FunctionVerifier, Verdict, VerifierFactory, VerifierPool, get
from gradalign.verifiers import mathematics as mathematics_module
from gradalign.verifiers.judge import judge
from gradalign_cli.main import main
from tests.requires import require

MODULE = '''
import hashlib


def four(source, solution, truth, extra):
    return 1.0


async def later(text, question):
    return 1.0


def one(text):
    return 1.0


class Scorer:
    def __init__(self, tokenizer):
        pass

    def __call__(self, text, question):
        return 1.0


def fine(text, question, *, strict=False):
    return 1.0


def always(text, question):
    raise KeyError("score")


def record(text, question):
    return {"score": 1.0}


def odd(text, question):
    """Fails on one response in three, whatever it is worth."""
    number = int(hashlib.sha256((question.id + text).encode()).hexdigest(), 16)
    if number % 3 == 0:
        raise ValueError("cannot read this")
    return float(text.rstrip().endswith(question.answer))
'''


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Write modules of a user's own, and put them on the path."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str = MODULE) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


# --- found before work


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("four", "TypeError: missing a required argument: 'truth'"),
        ("one", "too many positional arguments"),
        ("later", "does not return a number"),
        ("Scorer", "TypeError|is a class"),
    ],
)
def test_what_cannot_be_called_with_text_and_question(modules, function, message):
    name = modules("unfit_verifier")
    with pytest.raises(VerifierError, match=message):
        get(f"{name}:{function}")
    assert get(f"{name}:fine")("", Question("a", "?")) == 1.0


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("raise SystemExit(4)", UsageError, "ended the interpreter when it was imported"),
        ("import sys\nsys.exit()", UsageError, "ended the interpreter"),
        ("def f(", UsageError, "fails when it is imported: SyntaxError"),
        ("1 / 0", UsageError, r"ZeroDivisionError.*bad_module\.py:1"),
        ("import no_such_dependency", UsageError, "ModuleNotFoundError.*no_such_dependency"),
        ("class Stop(BaseException): pass\nraise Stop('x')", UsageError, "Stop: x"),
        ("def __getattr__(name):\n    raise RuntimeError(name)", UsageError, "RuntimeError: f"),
        ("", UnknownNameError, "has no attribute 'f'"),
    ],
)
@pytest.mark.parametrize("kind", ["verifier", "method", "task"])
def test_a_module_that_fails_when_imported(modules, text, error, message, kind):
    name = modules("bad_module", text)
    with pytest.raises(error, match=message):
        load_object(f"{name}:f", kind)


def test_what_a_module_prints_is_no_record(modules, capsys):
    name = modules("chatty_module", "print('hello')\nf = len")
    assert load_object(f"{name}:f", "method") is len
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello\n")


def test_an_interrupt_during_an_import_is_an_interrupt(modules):
    name = modules("interrupted_module", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_object(f"{name}:f", "task")


def test_a_plugin_that_exits_is_left_out(monkeypatch):
    def load():
        sys.exit(2)

    point = SimpleNamespace(name="quitter", value="quitter:make", load=load)
    monkeypatch.setattr("gradalign.registry.entry_points", lambda group: [point])
    registry: Registry[int] = Registry("thing", "gradalign.things")
    with pytest.warns(UserWarning, match="quitter.*SystemExit"):
        assert registry.names() == []


def test_a_verifier_plugin_that_cannot_be_made(monkeypatch):
    def factory(argument):
        sys.exit("no licence")

    registry: Registry[VerifierFactory] = Registry("verifier", "gradalign.none")
    registry.register("licensed")(factory)
    monkeypatch.setattr("gradalign.verifiers.registry.VERIFIERS", registry)
    with pytest.raises(UsageError, match="SystemExit: no licence"):
        get("licensed:x")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("import os\nos._exit(0)", VerifierError, "ended while it was loaded"),
        (
            "import sys\nif 'pytest' not in sys.modules:\n    raise OSError('not here')\n"
            "def f(text, question):\n    return 1.0",
            VerifierError,
            "OSError: not here",
        ),
        ("raise SystemExit", UsageError, "ended the interpreter"),
    ],
)
def test_a_verifier_is_tried_before_models_are_looked_at(modules, tmp_path, text, error, message):
    name = modules("hard_module", text)
    config = ScoreConfig.build(
        {
            **SMALL,
            "student": "nowhere/at-all",
            "verifier": f"{name}:f",
            "output_dir": str(tmp_path / "run"),
        }
    )
    with pytest.raises(error, match=message):
        check(config)


# --- what a failure is


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "value",
    [{"score": 1.0}, None, [1.0], "1", b"1", 1j, np.array([True, True]), Unprintable(), object()],
)
def test_no_number_is_no_reward(value):
    verdict = judge(FunctionVerifier(lambda text, question: value), "", Question("a", "?"))
    assert verdict.reward is None
    assert verdict.error_kind == "not_a_number"


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(1), asyncio.CancelledError(), RecursionError()]
)
def test_whatever_is_raised_is_a_failure(error):
    def raises(text, question):
        raise error

    verdict = judge(FunctionVerifier(raises), "", Question("a", "?"))
    assert (verdict.reward, verdict.error_kind) == (None, "raised")
    assert verdict.detail.startswith(type(error).__name__)


def test_a_response_that_mathematics_stumbles_over_is_wrong(monkeypatch):
    require("math_verify")
    question = Question("a", "?", answer="2")

    def stumble(error):
        def raises(text, question):
            raise error

        monkeypatch.setattr(mathematics_module, "_math_equal", raises)
        return judge(get("math"), r"\boxed{?}", question)

    assert stumble(RecursionError("too deep")) == Verdict(0.0, answer="?", read_by="boxed")
    assert stumble(ImportError("no sympy")).error_kind == "raised"
    assert stumble(MemoryError()).error_kind == "memory"


@pytest.mark.parametrize(
    ("failed", "verified", "allowed", "many"),
    [
        (0, 0, 0.05, False),
        (1, 1, 0.05, True),
        (1, 2, 0.05, True),
        (1, 5, 0.05, False),
        (3, 20, 0.05, False),
        (6, 20, 0.05, True),
        (60, 1000, 0.05, False),
        (100, 1000, 0.05, True),
        (1, 1000, 0.0, True),
        (700, 1000, 0.7, True),
        (10, 20, 0.6, False),
        (20, 20, 1.0, False),
    ],
)
def test_how_many_are_too_many(failed, verified, allowed, many):
    assert too_many(failed, verified, allowed) == many


def test_the_watch_goes_on_from_what_was_verified():
    bad = [Verdict(None, "timeout", "not done in 10 s")]
    FailureWatch("own:f", 0.05, verified=100, failed=3).add(bad, {})
    with pytest.raises(VerifierError, match=r"own:f fails on 15 of 101.*1 timeout \(not done"):
        FailureWatch("own:f", 0.05, verified=100, failed=14).add(bad, {"timeout": "not done"})


def test_neither_right_nor_wrong():
    splits = outcome_splits(pd.Series([True, None, False], dtype=object))
    assert splits["correct"].tolist() == [True, False, False]
    assert splits["incorrect"].tolist() == [False, False, True]
    assert splits["all"].all()
    unknown = Attempt("q/1", "text", float("nan"))
    assert pick_sibling(Question("q", "?"), None, [unknown]) is None


# --- whole runs


@pytest.mark.parametrize("function", ["always", "record"])
def test_a_verifier_that_always_fails_stops_after_the_first_responses(
    modules, tmp_path, capsys, function
):
    name = modules("broken_verifier")
    out = tmp_path / "run"
    settings = {**SMALL, "verifier": f"{name}:{function}", "limit": 1, "output_dir": str(out)}
    with pytest.raises(SystemExit) as stop:
        main(["score", *flags(settings)])
    text = capsys.readouterr().err
    assert stop.value.code == 1
    assert "Traceback" not in text
    assert f"{name}:{function} fails on 2 of 2 responses" in text
    assert {"always": "KeyError: 'score'", "record": "dict {'score': 1.0}"}[function] in text
    assert not list(out.glob("spines/*"))
    assert not list(out.glob("continuations/*"))


@pytest.fixture
def patchy_run(modules, tmp_path):
    """A run in which the verifier fails on one response in three."""
    return gradalign.score(
        **{
            **SMALL,
            "teachers": ["demo:strong"],
            "methods": ["gkd", "dr_grpo"],
            "limit": 2,
            "num_rollouts": 4,
            "nodes": 3,
            "temperature": 1.3,
            "verifier": f"{modules('patchy_verifier')}:odd",
            "max_verifier_failures": 1.0,
            "diagnose": ["prefix"],
            "output_dir": str(tmp_path / "run"),
        }
    )


def test_failed_verifications_are_missing_everywhere(patchy_run, tmp_path):
    report = patchy_run
    spines, made = report.table("spines"), report.table("continuations")
    for table in (spines, made):
        failed = table["verifier_error"].astype(str) != ""
        assert 0 < failed.sum() < len(table)
        assert (table["reward"].isna() == failed).all()
    lost = set(spines.loc[spines["correct"].isna(), "spine_id"].astype(str))
    assert lost == set(spines.loc[spines["reward"].isna(), "spine_id"].astype(str))
    totals = report.metadata["totals"]
    assert totals["verifier_raised"] == int(
        spines["reward"].isna().sum() + made["reward"].isna().sum()
    )
    assert totals["correct_spines"] == int((spines["reward"] == 1).sum())

    # No continuation without a reward counts at any node; the others count as their rewards say.
    rows = []
    for shard in report.folder.files("passes"):
        passed = report.folder.read_table("passes", shard).to_pandas()
        own = report.folder.read_table("continuations", shard).to_pandas()
        rows.append(passed.assign(reward=own["reward"].to_numpy()[passed["continuation"]]))
    passes = pd.concat(rows)
    assert passes["reward"].notna().all()
    keys = passes["node_id"].astype(str) + "#" + passes["candidate_id"].astype(str)
    mean = passes.groupby(keys)["reward"].agg(["mean", "size"])
    branches = report.table("branches")
    branches.index = branches["node_id"].astype(str) + "#" + branches["token_id"].astype(str)
    counted = branches[branches["num_continuations"] > 0]
    assert len(counted) == len(mean)
    np.testing.assert_allclose(counted["mean_reward"], mean["mean"].reindex(counted.index))
    assert (counted["num_continuations"] == mean["size"].reindex(counted.index)).all()

    # Nodes of a response that could not be verified are in neither split.
    nodes = report.table("nodes")
    unknown = nodes["spine_id"].astype(str).isin(lost)
    assert nodes.loc[unknown, "correct"].isna().all()
    assert nodes.loc[~unknown, "correct"].notna().all()
    summary = report.summary[report.summary["method"] == "gkd"].set_index("split")["num_nodes"]
    assert summary["all"] == len(nodes)
    assert summary["correct"] + summary["incorrect"] == len(nodes) - unknown.sum()
    assert unknown.any()

    # And the outputs say so.
    name = sorted(lost)[0]
    shown = "".join(map(str, show_question(report, name.rpartition("/")[0])))
    assert "not verified (raised)" in shown
    for part in ("correct", "incorrect"):
        path = str(tmp_path / f"{part}.parquet")
        export(report, path, settings=ExportSettings(spines=part))
        kept = pd.read_parquet(path).set_index("spine_id")
        assert not kept.loc[sorted(lost), "spine_kept"].any()
    assert "missing, not wrong" in " ".join(report.footer())


# --- what is on the screen when a worker ends


# Only in the loader's interpreter: the pool's own imports the module as well.
LOADING = "if sys.argv[0] == '-c':\n    mark.touch()\n    time.sleep(1.0)\n"


@pytest.mark.parametrize("moment", ["loading", "working"])
def test_a_pool_that_is_killed_leaves_nothing_on_the_screen(tmp_path, moment):
    """The side processes find their sockets closed, in the middle of whatever they do."""
    mark = tmp_path / "mark"
    (tmp_path / "slow_verifier.py").write_text(
        "import pathlib, sys, time\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        + (LOADING if moment == "loading" else "")
        + "def f(text, question):\n    mark.touch()\n    time.sleep(0.02)\n    return 1.0\n"
    )
    script = tmp_path / "script.py"
    script.write_text(
        "from gradalign.tasks import Question\n"
        "from gradalign.verifiers import VerifierPool\n"
        "with VerifierPool('slow_verifier:f') as pool:\n"
        "    pool.score([(str(i), Question('a', '?')) for i in range(5000)])\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    # Ends when the last process that has our pipes has ended.
    out, err = process.communicate(timeout=60)
    assert (out, err) == ("", "")
    assert Path(mark).exists()


def test_a_pool_that_closes_at_once_leaves_nothing_on_the_screen(capfd):
    for _ in range(2):
        with VerifierPool("regex:(.)") as pool:
            pool.score([("1", Question("a", "?", answer="1"))] * 3)
    assert capfd.readouterr() == ("", "")
