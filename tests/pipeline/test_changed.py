"""A run is not gone on with after something behind a name of its settings has changed."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest

import gradalign
from gradalign.errors import RunError
from gradalign.order import Branch
from gradalign.pipeline import diagnose_run
from gradalign.stages import sample
from gradalign.store.folder import RunFolder
from tests.stages.made_checkpoints import copy_of, scale_weights

TINY = {
    "task": "demo:addition",
    "methods": ["gkd"],
    "limit": 2,
    "num_rollouts": 1,
    "nodes": 2,
    "continuations": 2,
    "bootstrap_resamples": 100,
    "diagnose": ["none"],
    "engine": "transformers",
}

VERIFIER = """
import graders_part
def grade(text, question):
    return float(len(text) % 2 == 0)
"""


class World:
    """A student, a teacher, questions, templates, a verifier: all of them files that can change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.student = copy_of("student", folder / "ck")
        self.teacher = copy_of("strong", folder / "teacher")
        (folder / "graders_own.py").write_text(VERIFIER)
        (folder / "graders_part.py").write_text("SCALE = 1\n")
        question = {"id": "a", "messages": [{"role": "user", "content": "12+34="}], "answer": "46"}
        (folder / "asked.jsonl").write_text(json.dumps(question) + "\n")
        (folder / "note.txt").write_text("{prompt} (mind the carries)")
        importlib.invalidate_caches()
        self.settings = {
            **TINY,
            "student": "./ck",
            "teachers": ["./teacher", "./teacher+template:@note.txt"],
            "task": "asked.jsonl",
            "verifier": "graders_own:grade",
            "output_dir": "run",
        }

    def score(self, **changed: object) -> object:
        return gradalign.score(**{**self.settings, **changed})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A world with a finished run in it; do not change it."""
    folder = tmp_path_factory.mktemp("world") / "first"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        World(folder).score()
    return folder


@pytest.fixture
def world(finished, tmp_path, monkeypatch):
    """A copy: every file has another place and another time stamp, and the same contents."""
    shutil.copytree(finished, tmp_path / "copy", copy_function=shutil.copyfile)
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.syspath_prepend(str(tmp_path / "copy"))
    importlib.invalidate_caches()
    made = object.__new__(World)
    made.folder, made.student, made.teacher = Path(), Path("ck"), Path("teacher")
    made.settings = {
        **TINY,
        "student": "./ck",
        "teachers": ["./teacher", "./teacher+template:@note.txt"],
        "task": "asked.jsonl",
        "verifier": "graders_own:grade",
        "output_dir": "run",
    }
    return made


def change_text(path: Path) -> None:
    path.write_text(path.read_text().replace("carries", "sums") + "\n")


CHANGES = {
    "student's weights": (lambda w: scale_weights(w.student, 0.9), r"\./ck \(model\.safetensors\)"),
    "teacher's weights": (lambda w: scale_weights(w.teacher, 0.9), r"\./teacher \(model"),
    "student's template": (
        lambda w: change_text(w.student / "chat_template.jinja"),
        r"\./ck \(chat_template\.jinja\)",
    ),
    "teacher's settings": (lambda w: change_text(w.teacher / "config.json"), r"config\.json"),
    "verifier": (lambda w: change_text(Path("graders_own.py")), "code of verifier graders_own"),
    "verifier's helper": (lambda w: change_text(Path("graders_part.py")), "code of verifier"),
    "questions": (lambda w: change_text(Path("asked.jsonl")), r"task asked\.jsonl"),
    "context": (lambda w: change_text(Path("note.txt")), "context template:@note"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_resume_rescore_and_diagnose_refuse(world, what, monkeypatch):
    monkeypatch.setattr(sample.Sample, "session", None)  # no rollout is made
    before = world_tables()
    change, words = CHANGES[what]
    change(world)
    with pytest.raises(RunError, match=rf"run holds a run from before .*{words}.* was changed"):
        world.score()
    with pytest.raises(RunError, match=words):
        gradalign.rescore("run", methods=["opd"])
    with pytest.raises(RunError, match=words):
        diagnose_run("run", ["overlap"])
    assert world_tables() == before


def world_tables() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


def test_a_copy_with_the_same_contents_is_the_same(world):
    before = world_tables()
    world.score()
    assert {name: data for name, data in world_tables().items() if "shard-" in name} == {
        name: data for name, data in before.items() if "shard-" in name
    }
    assert set(json.loads(Path("run/run.json").read_text())["models"]) == {
        "./ck",
        "./teacher",
    }
    gradalign.rescore("run", methods=["opd"])
    world.score(methods=["gkd", "opd"])  # rescore recorded what it was done with


def test_starting_over_answers_with_the_new_models_numbers(world):
    old = RunFolder("run").read_table("positions", "shard-00000")["student_logprob"]
    scale_weights(world.student, 0.9)
    world.score(resume=False)
    new = RunFolder("run").read_table("positions", "shard-00000")["student_logprob"]
    assert new != old


def test_prompts_that_are_rendered_otherwise_are_noticed(world, monkeypatch):
    """As by another version of a library: no file has changed."""
    from gradalign.stages.preparation import identity

    rendered = identity.render
    monkeypatch.setattr(identity, "render", lambda *a, **k: [*rendered(*a, **k), 1])
    with pytest.raises(RunError, match=r"the student's prompts; the prompts of teacher"):
        world.score()


def test_a_model_changed_between_two_stages_is_not_mixed_in(world, monkeypatch):
    done = Branch.done

    def change_then(self: Branch, run: object, shard: str) -> bool:
        if not done(self, run, shard):
            scale_weights(world.student, 0.9)
        return done(self, run, shard)

    monkeypatch.setattr(Branch, "done", change_then)
    with pytest.raises(RunError, match=r"model \./ck \(model\.safetensors\) was changed"):
        world.score(output_dir="other")
    assert not RunFolder("other").files("continuations")


def test_a_model_changed_while_it_was_loaded_is_noticed(world, monkeypatch):
    from gradalign.stages import teachers

    loaded = teachers.loaded_model

    def change_then(name: str, **options: object) -> object:
        held = loaded(name, **options)
        scale_weights(world.student, 0.9)
        return held

    monkeypatch.setattr(teachers, "loaded_model", change_then)
    with pytest.raises(RunError, match=r"model\.safetensors\) was changed"):
        world.score(output_dir="other")
    assert not RunFolder("other").files("positions")


def test_models_that_are_gone_do_not_spoil_a_finished_run(world):
    shutil.rmtree(world.teacher)
    world.score()


def test_the_hub_commit_that_a_run_began_with_stays(tmp_path):
    from gradalign.config import ScoreConfig
    from gradalign.stages.base import Resolved, Run

    config = ScoreConfig.build(
        {"student": "org/one", "teachers": ["org/two"], "task": "demo:addition",
         "output_dir": str(tmp_path), "revision": "main"}
    )  # fmt: skip
    resolved = Resolved(
        max_tokens=8,
        max_model_len=16,
        engine="transformers",
        verifier="exact",
        stop_token_ids=(0,),
        vocab_size=16,
        special_token_ids=(),
        clock="",
        commits={"org/one": "c" * 40},
        pass_dtype="float32",
        token_ranges=((0, 16),),
        common_token_ranges={"org/two": ((0, 16),)},
        warnings=(),
    )
    run = Run(config, resolved)
    assert run.model_options("org/one")["revision"] == "c" * 40
    assert run.model_options("org/two")["revision"] is None
