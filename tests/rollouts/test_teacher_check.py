"""`check-teacher`: each fault is made, and found; what is sound is called so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import gradalign
from gradalign.demo import model_path
from gradalign.errors import UsageError
from gradalign_cli.main import main
from tests.requires import require
from tests.rollouts.servers import FARM, FaultyProxy, api_key

STUDENT, STRONG, WEAK = (str(model_path(name)) for name in ("student", "strong", "weak"))


def levels(found):
    return [(item.name, item.level) for item in found.findings]


def the(found, name):
    return [item for item in found.findings if item.name == name]


def copy_of(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(model_path(name), folder))


def test_a_sound_teacher_has_no_fault_and_its_distance_is_told(capsys):
    found = gradalign.check_teacher(student="demo:student", teacher="demo:strong", device="cpu")
    assert found.sound
    assert {item.level for item in found.findings} == {"ok"}
    assert the(found, "signal")[0].numbers["mean_difference"] > 0.5
    with pytest.raises(SystemExit):
        main(["check-teacher", "--student", STUDENT, "--teacher", STRONG])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [f"{item.level} {item.name}: {item.text}" for item in found.findings]
    with pytest.raises(SystemExit) as stop:
        main(["check-teacher", "--student", STUDENT, "--teacher", STRONG, "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["findings"] == found.to_dict()["findings"]


def test_ids_that_mean_something_else_are_a_fault(tmp_path, capsys):
    other = copy_of("strong", tmp_path / "other")
    file = other / "tokenizer.json"
    table = json.loads(file.read_text())
    vocab = table["model"]["vocab"]
    one, two = sorted(vocab, key=lambda token: vocab[token])[100:102]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    file.write_text(json.dumps(table))
    with pytest.raises(SystemExit) as stop:
        main(["check-teacher", "--student", STUDENT, "--teacher", str(other)])
    assert stop.value.code == 3
    out = " ".join(capsys.readouterr().out.split())
    assert "fault vocabulary:" in out
    assert "2 ids differ" in out
    assert "end tokens" not in out


def test_the_same_weights_under_another_name_teach_nothing(tmp_path):
    twin = copy_of("student", tmp_path / "twin")
    found = gradalign.check_teacher(student=STUDENT, teacher=str(twin), device="cpu")
    assert not found.sound
    assert "same weights" in the(found, "signal")[0].text
    # Of a self-teacher that is as it should be: its prompt is what differs.
    assert gradalign.check_teacher(student=STUDENT, teacher=STUDENT, device="cpu").sound


def test_templates_ends_and_padding_are_compared(tmp_path):
    other = copy_of("strong", tmp_path / "other")
    (other / "chat_template.jinja").write_text("{{ messages[0].content }}")
    generation = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": 5}))
    settings = other / "tokenizer_config.json"
    table = json.loads(settings.read_text())
    settings.write_text(json.dumps(table | {"eos_token": None}))
    found = gradalign.check_teacher(student=STUDENT, teacher=str(other), device="cpu")
    assert the(found, "chat template")[0].level == "note"
    student = copy_of("student", tmp_path / "padded")
    settings = student / "tokenizer_config.json"
    table = json.loads(settings.read_text())
    settings.write_text(json.dumps(table | {"pad_token": table["eos_token"]}))
    found = gradalign.check_teacher(student=str(student), teacher=STRONG, device="cpu")
    assert the(found, "padding")[0].level == "note"
    assert found.sound


def test_texts_without_two_tokens_are_refused():
    with pytest.raises(UsageError, match="no text has two tokens"):
        gradalign.check_teacher(student=STUDENT, teacher=STRONG, texts=[""], device="cpu")


def shifted(content: bytes) -> bytes:
    """Answer with the log-probabilities of the position before."""
    answer = json.loads(content)
    for choice in answer.get("choices", []):
        rows = choice.get("prompt_logprobs")
        if rows and len(rows) > 3:
            own = [next(iter(row)) for row in rows[1:]]
            moved = [rows[1], *rows[1:-1]]
            choice["prompt_logprobs"] = [
                rows[0],
                # Under the right ids, with the numbers of the place before.
                *(
                    {**{k: v for k, v in row.items() if k != key}, key: _first(row)}
                    for key, row in zip(own, moved, strict=True)
                ),
            ]
    return json.dumps(answer).encode()


def _first(row):
    return next(iter(row.values()))


@pytest.mark.vllm
@pytest.mark.server
@pytest.mark.slow
def test_faults_behind_an_address_are_found(tmp_path, capsys):
    """Real servers: replicas in two precisions, another checkpoint, positions one off."""
    require("vllm")
    exact, rounded = FARM.get_as(STRONG, "float32", "bfloat16")
    (weak,) = FARM.get(WEAK)
    with (
        FaultyProxy(exact.url, change=shifted) as late,
        FaultyProxy(weak.url, rename=(STRONG, WEAK)) as other,
        api_key(),
    ):
        both = {"student": STUDENT, "teacher": STRONG, "device": "cpu", "top_k": 16}
        sound = gradalign.check_teacher(**both, base_urls=[exact.url])
        assert sound.sound, str(sound)
        own = the(sound, exact.url)
        assert [item.level for item in own] == ["ok", "ok"]
        assert "weights of this checkpoint in float32" in own[1].text

        replicas = gradalign.check_teacher(**both, base_urls=[exact.url, rounded.url])
        assert not replicas.sound
        assert "bfloat16" in the(replicas, rounded.url)[1].text
        assert the(replicas, rounded.url)[1].level == "note"
        assert "not replicas" in the(replicas, rounded.url)[2].text

        found = gradalign.check_teacher(**both, base_urls=[other.url])
        assert the(found, other.url)[-1].level == "fault"
        assert "not this checkpoint" in the(found, other.url)[-1].text

        found = gradalign.check_teacher(**both, base_urls=[late.url])
        assert the(found, late.url)[0].level == "fault"
        assert "1 position too late" in the(found, late.url)[0].text

        few = gradalign.check_teacher(**both | {"top_k": 257}, base_urls=[exact.url])
        assert the(few, exact.url)[0].level == "fault"
        assert "--max-logprobs" in the(few, exact.url)[0].text
        with pytest.raises(SystemExit) as stop:
            main(["check-teacher", "--student", STUDENT, "--teacher", STRONG, "--no-local",
                  "--top-k", "16", "--base-url", exact.url])  # fmt: skip
        assert stop.value.code == 0
        assert "another checkpoint would not show" in " ".join(capsys.readouterr().out.split())
