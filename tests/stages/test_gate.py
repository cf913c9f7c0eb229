"""The gate after sampling: eight broken set-ups stop with their cause, sound runs go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import assert_same_tables, flags
from safetensors.torch import load_file, save_file

import gradalign
from gradalign.config import ScoreConfig
from gradalign.demo import addition
from gradalign.engines.transformers.engine import TransformersEngine
from gradalign.errors import GateError, RunError, TaskError, UsageError
from gradalign.executors import open_executor
from gradalign.progress import SilentReporter
from gradalign.stages.branch.flat import FlatWatch
from gradalign.stages.gate.counts import last_number_agrees
from gradalign.stages.gate.judging import Counts, Longer, Reading, Thresholds, bound, judge
from gradalign.stages.gate.keeper import pass_gate
from gradalign.stages.preparation.start import prepare
from gradalign.stages.sample import Sample, StudentTools
from gradalign.store.folder import RunFolder
from gradalign_cli.main import main
from tests.stages.made_checkpoints import copy_of

PROBLEMS = addition.generate(8, seed=5)
SETTINGS: dict[str, Any] = {
    "student": "demo:student",
    "teachers": ["demo:strong"],
    "methods": ["gkd"],
    "num_rollouts": 4,
    "nodes": 2,
    "continuations": 2,
    "shard_size": 3,
    "bootstrap_resamples": 100,
    "diagnose": ["none"],
    "engine": "transformers",
    "verify_workers": 1,
}
ALWAYS = "def grade(text, question):\n    return 1.0\n"


def rows(answer=lambda problem: problem.answer, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"q{i}", "prompt": problem.prompt, "answer": answer(problem), **more}
        for i, problem in enumerate(PROBLEMS)
    ]


def write(path: Path, questions: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in questions))
    return str(path)


def swapped_end(folder: Path, other: int) -> str:
    """A copy of the bundled student that draws token `other` where it would end."""
    copy = copy_of("student", folder)
    weights = load_file(copy / "model.safetensors")
    for name, tensor in weights.items():
        if "embed" in name or "lm_head" in name:
            tensor[[2, other]] = tensor[[other, 2]].clone()
            weights[name] = tensor.contiguous()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return str(copy)


def wrong_verifier(place: Path) -> dict[str, Any]:
    return {"task": write(place / "q.jsonl", rows()), "verifier": "exact"}


def no_answers(place: Path) -> dict[str, Any]:
    task = write(place / "q.jsonl", rows(lambda problem: "see solution"))
    return {"task": task, "verifier": "exact"}


def short(place: Path) -> dict[str, Any]:
    return {"task": "demo:addition", "limit": 8, "max_tokens": 6}


def other_end(place: Path) -> dict[str, Any]:
    student = swapped_end(place / "student", 0)
    return {"task": "demo:addition", "limit": 8, "max_tokens": 40, "student": student}


def endless(place: Path) -> dict[str, Any]:
    student = swapped_end(place / "student", 120)
    return {"task": "demo:addition", "limit": 8, "max_tokens": 40, "student": student}


def accepts_all(place: Path) -> dict[str, Any]:
    (place / "graders_gate.py").write_text(ALWAYS)
    return {"task": write(place / "q.jsonl", rows()), "verifier": "graders_gate:grade"}


def easy(place: Path) -> dict[str, Any]:
    task = [
        {"id": f"q{i}", "prompt": f"{i + 1}0+{i}1=", "answer": str(20 * i + 11)} for i in range(8)
    ]
    return {
        "task": write(place / "q.jsonl", task),
        "verifier": "demo:addition",
        "student": "demo:strong",
        "temperature": 0.01,
    }


def never(place: Path) -> dict[str, Any]:
    task = write(place / "q.jsonl", rows(lambda problem: str(int(problem.answer) + 4000)))
    return {"task": task, "verifier": "demo:addition"}


def prompts_without_questions(place: Path) -> dict[str, Any]:
    task = [{**row, "prompt": "12+34="} for row in rows()]
    return {"task": write(place / "q.jsonl", task), "verifier": "demo:addition"}


def other_notation(place: Path) -> dict[str, Any]:
    task = rows(lambda problem: f"Adding the columns gives it.\n#### {problem.answer}")
    return {"task": write(place / "q.jsonl", task), "verifier": "demo:addition"}


BROKEN = {
    wrong_verifier: ("none right", "verifier exact does not read what the student writes"),
    no_answers: ("none right", "no real answers: all of them say 'see solution'"),
    short: ("cut off", "--max-tokens is too small"),
    other_end: ("no end", "'<|pad|>', which is not taken for an end"),
    endless: ("no end", "does not end its responses: none of 6"),
    accepts_all: ("all right", "graders_gate:grade accepts anything"),
    easy: ("all right", "too easy for this student"),
    never: ("none right", "too hard for this student, or the answers of the rows are wrong"),
    prompts_without_questions: ("prompts alike", "leave out what is asked"),
    other_notation: ("none right", "right by the final answer in the row's answer"),
}
MENDS = {
    wrong_verifier: "regex:PATTERN",
    no_answers: "Give every row of --task its own `answer`",
    short: "--max-tokens 64 --no-resume",
    other_end: "--stop-token-id 0 --no-resume",
    endless: "--chat-template",
    accepts_all: "--verifier that compares",
    easy: "harder --task",
    never: "easier --task",
    prompts_without_questions: "--print-prompts 1",
    other_notation: "final answer only",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda made: made.__name__)
def test_broken_set_up_stops_before_the_first_targeted_rollout(broken, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {**SETTINGS, **broken(tmp_path), "output_dir": str(tmp_path / "run")}
    kind, cause = BROKEN[broken]
    with pytest.raises(GateError) as stopped:
        gradalign.score(**settings, display="none")
    text = str(stopped.value)
    assert cause in text.splitlines()[1]
    assert MENDS[broken] in text
    assert text.count("question ") >= 3
    assert "--go-on" in text
    assert stopped.value.exit_code == 4
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "stopped"
    assert record["gate"]["findings"][0]["kind"] == kind
    assert record["gate"]["responses"] == 32
    assert RunFolder(str(tmp_path / "run")).contents() == ["questions", "run.json", "spines"]


def test_rows_without_an_answer_are_refused_before_anything(tmp_path):
    task = write(tmp_path / "q.jsonl", rows(lambda problem: ""))
    with pytest.raises(TaskError, match="a row without an answer"):
        gradalign.score(**SETTINGS, task=task, verifier="exact", output_dir=str(tmp_path / "run"))


@pytest.mark.parametrize("template", ["", "{{- bos_token }}"])
def test_a_chat_template_without_the_question_is_refused_before_anything(template, tmp_path):
    (tmp_path / "empty.jinja").write_text(template)
    questions = rows()
    for row in questions:
        row["messages"] = [{"role": "user", "content": row.pop("prompt")}]
    settings = {**SETTINGS, "task": write(tmp_path / "q.jsonl", questions), "verifier": "exact"}
    with pytest.raises(UsageError, match=r"leaves out what message 1 .* another --chat-template"):
        gradalign.score(
            **settings,
            chat_template=str(tmp_path / "empty.jinja"),
            output_dir=str(tmp_path / "run"),
        )
    assert not (tmp_path / "run").exists()


# --- what comes after a stop -------------------------------------------------------------------


def test_responses_stay_for_another_verifier_and_for_mended_rows(tmp_path, monkeypatch, capsys):
    task = write(tmp_path / "q.jsonl", rows(lambda problem: f"It is {problem.answer}"))
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    settings = {**SETTINGS, "task": task}
    command = ["score", *flags({**settings, "verifier": "exact", "output_dir": str(run)})]
    with pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code == 4
    said = capsys.readouterr().err
    assert said.count("\n     '") == 3
    assert "wanted 'It is " in said
    assert not list(run.glob("nodes"))

    write(tmp_path / "q.jsonl", rows())
    changed = {**settings, "verifier": "demo:addition"}
    with monkeypatch.context() as patch:
        patch.setattr(StudentTools, "__init__", _no_engine)  # nothing is sampled again
        with pytest.raises(_Opened):
            gradalign.score(**changed, output_dir=str(run))  # the branch stage opens one
    with pytest.raises(RunError, match="--num-rollouts was 4"):
        gradalign.score(**{**changed, "num_rollouts": 2}, output_dir=str(run))
    gradalign.score(**changed, output_dir=str(run))
    gradalign.score(**changed, output_dir=str(fresh))
    assert_same_tables(run, fresh)
    gate = json.loads((run / "run.json").read_text())["gate"]
    assert gate["went_on"]
    assert not gate["findings"]
    assert 0 < gate["right"] < 32


class _Opened(Exception):
    pass


def _no_engine(*_: object, **__: object) -> None:
    raise _Opened


def test_more_questions_use_the_responses_that_are_there(tmp_path, monkeypatch):
    def sampled(limit: int, verifier: str, place: str) -> Path:
        config = ScoreConfig.build(
            {
                **SETTINGS,
                "task": "demo:addition",
                "limit": limit,
                "verifier": verifier,
                "output_dir": str(tmp_path / place),
            }
        )
        run, log = prepare(config)
        with open_executor(config) as executor:
            executor.run_stage(Sample(), run, log, SilentReporter())
        try:
            pass_gate(run, log, SilentReporter())
        except GateError as error:
            log.stop(error)
            raise
        return tmp_path / place

    with pytest.raises(GateError):
        sampled(8, "exact", "grown")
    write_table = RunFolder.write_table

    def cut_short(folder: RunFolder, table: str, name: str, content: Any) -> None:
        if (table, name) == ("questions", "shard-00003"):
            raise KeyboardInterrupt
        write_table(folder, table, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_table", cut_short)
        with pytest.raises(KeyboardInterrupt):
            sampled(10, "demo:addition", "grown")
    with pytest.raises(GateError, match="0 of 32 responses are right"):
        sampled(8, "exact", "grown")  # nothing is lost, and the old settings are as good
    drawn = []
    generate = TransformersEngine.generate
    with monkeypatch.context() as patch:
        patch.setattr(
            TransformersEngine,
            "generate",
            lambda engine, requests: (drawn.extend(requests), generate(engine, requests))[1],
        )
        grown = sampled(10, "demo:addition", "grown")
    assert len(drawn) == 8  # those of the two new questions
    fresh = sampled(10, "demo:addition", "fresh")
    ours, others = (
        [
            row
            for name in RunFolder(str(place)).files("spines")
            for row in RunFolder(str(place)).read_table("spines", name).to_pylist()
        ]
        for place in (grown, fresh)
    )
    assert len(ours) == 40
    assert ours == others
    assert json.loads((grown / "run.json").read_text())["num_questions"] == 10
    sizes = [
        len(RunFolder(str(grown)).read_table("questions", name))
        for name in RunFolder(str(grown)).files("questions")
    ]
    assert sizes == [3, 3, 2, 2]
    with pytest.raises(RunError, match="there are fewer of them"):
        sampled(9, "demo:addition", "grown")


def test_go_on_goes_on_and_few_responses_give_a_warning(tmp_path, capsys):
    task = write(tmp_path / "q.jsonl", rows(lambda problem: str(int(problem.answer) + 4000)))
    settings = {**SETTINGS, "task": task, "verifier": "demo:addition"}
    few = {**settings, "num_rollouts": 1, "output_dir": str(tmp_path / "few")}
    with pytest.raises(SystemExit) as left:
        main(["score", *flags(few), "--display", "plain"])
    assert left.value.code == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: of only 8 responses: 0 of 8 responses are right" in said
    report = gradalign.score(**settings, output_dir=str(tmp_path / "on"), go_on=True)
    assert report.metadata["gate"]["went_on"]
    assert report.metadata["gate"]["findings"][0]["kind"] == "none right"


def test_plan_with_a_probe_says_the_same_of_a_few_responses():
    plan = gradalign.plan(
        **{**SETTINGS, "task": "demo:addition", "limit": 8, "verifier": "exact"}, probe=True
    )
    assert any("0 of 16 responses are right" in line for line in plan.assumptions)


# --- judging -----------------------------------------------------------------------------------

LIMITS = Thresholds()


@pytest.mark.parametrize("rate", [0.03, 0.97])
def test_sound_runs_go_on(rate):
    rng = np.random.default_rng(18)
    right = rng.binomial(200, rate, size=5000)
    stopped = np.mean([judge(Counts(200, int(count)), LIMITS).stops for count in right])
    assert stopped < 0.01


@pytest.mark.parametrize("size", [30, 96, 200])
def test_bound_is_that_of_the_binomial(size):
    """Just above it none of `size` is seen in less than 5 % of all samples."""
    edge = bound(0, size)
    assert (1 - edge) ** size == pytest.approx(0.05)
    with pytest.raises(ValueError, match="0 of at least 1"):
        bound(1, size)


def kinds(counts: Counts) -> list[str]:
    return [finding.kind for finding in judge(counts, LIMITS).findings]


def test_thresholds():
    assert kinds(Counts(200, 100)) == []
    assert kinds(Counts(200, 100, cut_off=40)) == []
    assert kinds(Counts(200, 100, cut_off=41)) == ["cut off"]
    assert kinds(Counts(200, 100, empty=40)) == []
    assert kinds(Counts(200, 100, empty=41)) == ["empty"]
    assert kinds(Counts(200, 100, failed=10)) == []
    assert kinds(Counts(200, 100, failed=11)) == ["verifier fails"]
    assert kinds(Counts(200, 190, failed=10)) == ["all right"]
    assert kinds(Counts(200, 100, readings=(Reading("r", 20, "m"),))) == []
    assert kinds(Counts(200, 100, readings=(Reading("r", 21, "m"),))) == ["read otherwise"]
    assert not judge(Counts(29, 0), LIMITS).stops
    assert judge(Counts(30, 0), LIMITS).stops
    assert not judge(Counts(0, 0), LIMITS).findings


def test_causes_come_before_what_they_explain():
    counts = Counts(96, 0, cut_off=96, max_tokens=64, longer=Longer(6, 6, 320, 200))
    assert kinds(counts) == ["cut off", "none right"]
    first = judge(counts, LIMITS).findings[0]
    assert "of 6 that were continued to 320 tokens, 6 ended, the longest after 200" in first.cause
    assert "--max-tokens 256 " in first.mend
    none = judge(Counts(96, 0, readings=(Reading("by r", 19, "Do m."),), verifier="v"), LIMITS)
    (finding,) = none.findings
    assert "0 of 96 responses are right (a success rate below 0.031 at 95%" in finding.what
    assert (
        finding.cause == "the verifier v does not read what the student writes: 19 are right by r"
    )
    assert finding.mend == "Do m."


@pytest.mark.parametrize(
    ("text", "answer", "same"),
    [
        ("The answer is 10.", "10", True),
        ("5+8=13,133", "133", True),
        ("It makes 1,250 in all", "1250", True),
        ("It makes $1,250.50", "$1,250.50", True),
        ("It is 10, not 9.", "10", False),
        ("<think>10", "10", False),
        ("ten", "10", False),
        ("10", "ten", False),
        ("10", None, False),
    ],
)
def test_last_number(text, answer, same):
    assert last_number_agrees(text, answer) is same


# --- flat pilots -------------------------------------------------------------------------------


def test_a_pilot_is_hopeless_only_where_contrast_was_to_be_expected():
    flat, mixed = [[0.0, 0.0], [1.0, 1.0]] * 8, [[0.0, 1.0]]
    watch = FlatWatch(4, has_mixed=True)
    for _ in range(40):
        watch.add(flat, mixed=False)
    assert not watch.hopeless  # questions that are always or never solved say nothing
    for _ in range(3):
        assert not watch.hopeless
        watch.add(flat, mixed=True)
    assert watch.hopeless
    watch.add(mixed, mixed=True)
    assert not watch.hopeless

    for rollouts, needed in ((4, 16), (1, 50)):
        watch = FlatWatch(rollouts, has_mixed=False)
        for _ in range(needed):
            assert not watch.hopeless
            watch.add(flat, mixed=False)
        assert watch.hopeless
    with pytest.raises(GateError, match=r"all 800 nodes of the first 50 questions are flat"):
        watch.check()


def test_a_run_whose_pilot_is_flat_stops_while_branching(tmp_path):
    settings = {
        **SETTINGS,
        "task": "demo:addition",
        "verifier": "tests.graders:by_question",
        "gate_misread": 1.0,
        "limit": 24,
        "num_rollouts": 2,
        "nodes": 8,
        "coverage": 1.0,
        "shard_size": 4,
        "output_dir": str(tmp_path / "run"),
    }
    for _ in range(2):  # it stops again where it is taken up
        with pytest.raises(GateError, match="stopped while branching: all"):
            gradalign.score(**settings)
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        assert record["status"] == "stopped"
    assert len(RunFolder(str(tmp_path / "run")).files("nodes")) < 6
    folder = RunFolder(str(tmp_path / "run"))
    prepare(ScoreConfig.build({**settings, "verifier": "demo:addition"}))
    assert (len(folder.files("sampled")), folder.files("spines"), folder.files("nodes")) == (
        6,
        [],
        [],
    )
