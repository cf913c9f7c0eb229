"""`gradalign lint` as a command: formats, statuses, files of every kind, and what is refused."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from gradalign.lint import RULES
from gradalign_cli.main import main

ZERO = "python miles/train.py --use-opd \\\n  --opd-log-prob-top-k 16\n"
SOUND = "[orchestrator.algo]\ntype = 'opd'\n"
GATE = ["--fail-on", "error"]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["lint", *map(str, arguments)])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


@pytest.fixture
def zero(tmp_path):
    (path := tmp_path / "run.sh").write_text(ZERO)
    return path


@pytest.fixture
def sound(tmp_path):
    (path := tmp_path / "sound.toml").write_text(SOUND)
    return path


def test_text(capsys, zero, sound):
    status, out, _ = run(capsys, zero, sound)
    assert status == 0
    assert "error zero-signal (line 2)" in out
    assert "not in the file, by default: opd_kl_coef=1.0" in out
    assert "applies dr_grpo+1*miles/opd_topk" in out
    assert out.rstrip().endswith("nothing found")


@pytest.mark.parametrize(("level", "status"), [("error", 3), ("warning", 3)])
def test_the_gate(capsys, zero, sound, level, status):
    assert run(capsys, sound, "--fail-on", level)[0] == 0
    assert run(capsys, sound, zero, "--fail-on", level)[0] == status


def test_a_warning_is_no_error(capsys, tmp_path):
    (path := tmp_path / "a.json").write_text('{"kl_direction": "reverse"}')
    assert run(capsys, path, "--fail-on", "error")[0] == 0
    assert run(capsys, path, "--fail-on", "warning")[0] == 3


def test_json(capsys, zero, sound):
    _, out, _ = run(capsys, zero, sound, "--json")
    first, second = json.loads(out)
    assert first["trainer"] == "miles"
    assert first["version"].startswith("miles at ")
    assert first["against_promise"]["zero"] == 1.0
    assert first["noise"] is None
    hit = first["hits"][0]
    assert (hit["rule"], hit["level"], hit["line"]) == ("zero-signal", "error", 2)
    assert hit["source"]
    assert second["hits"] == []
    right, wrong = (second["towards_success"][f"teacher is {word}"] for word in ("right", "wrong"))
    assert right > 0.5 > 0.0 > wrong


def test_sarif(capsys, zero):
    _, out, _ = run(capsys, zero, "--format", "sarif")
    log = json.loads(out)
    assert log["version"] == "2.1.0"
    (ran,) = log["runs"]
    rules = [rule["id"] for rule in ran["tool"]["driver"]["rules"]]
    assert rules == [rule.name for rule in RULES]
    first = ran["results"][0]
    assert (first["ruleId"], first["level"], first["kind"]) == ("zero-signal", "error", "fail")
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == zero.as_posix()
    assert place["region"]["startLine"] == 2
    assert {result["ruleId"] for result in ran["results"]} <= set(rules)


def test_github(capsys, zero):
    _, out, _ = run(capsys, zero, "--format", "github")
    first, *rest = out.splitlines()
    assert first.startswith(f"::error file={zero},line=2,title=gradalign zero-signal::The teacher")
    assert all(line.startswith("::notice ") for line in rest)


def test_list(capsys):
    _, out, _ = run(capsys, "--list", "--json")
    listed = json.loads(out)
    assert [one["name"] for one in listed] == [rule.name for rule in RULES]
    assert all(one["source"] for one in listed)
    assert run(capsys, "--list")[0] == 0


def test_overrides_alone_and_on_top(capsys, zero):
    loss = "distillation.distillation_loss."
    words = [f"{loss}loss_mode=k3", f"{loss}use_task_rewards=false"]
    _, out, _ = run(capsys, "distillation.enabled=true", *words)
    assert out.startswith("the overrides: verl")
    assert "other-divergence" in out
    assert "no distillation" in run(capsys, *words)[1]
    _, out, _ = run(capsys, zero, "opd_log_prob_top_k=0")
    assert "zero-signal" not in out


def test_a_command_line_on_standard_input(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ZERO.encode())))
    status, out, _ = run(capsys, "-", *GATE)
    assert status == 3
    assert out.startswith("standard input: miles")


@pytest.mark.parametrize(
    ("name", "content", "status", "words"),
    [
        ("a.yaml", b"lr: 1\n", 0, ["no distillation", "no setting of a trainer"]),
        ("a.sh", b"swift rlhf --rlhf_type dpo --beta 0.1\n", 0, ["no distillation"]),
        ("a.sh", b"python slime/train.py --use-kl-loss\n", 0, ["use_opd=false by default"]),
        ("a.yaml", b"beta: 0.5\nlmbda: 1\n", 0, ["no distillation"]),
        ("a.sh", b"train --use-opd\n", 2, ["may be a file of", "slime, miles", "--trainer"]),
        ("a.yaml", b"", 2, ["empty"]),
        ("a.json", b" \n", 2, ["empty"]),
        ("a.sh", bytes(range(256)), 2, ["cannot read"]),
        ("a.sh", b"\0\0\0", 2, ["no text"]),
        ("a.yaml", b"}{][", 2, ["cannot read", "YAML"]),
        ("a.yaml", b"- 1\n- 2\n", 2, ["holds no settings"]),
        ("a.toml", b"a = ", 2, ["cannot read", "TOML"]),
        ("a.sh", b"it is a poem\nof two lines\n", 2, ["holds no settings"]),
        ("a.yaml", b"a: 1\n" * 2_000_000, 2, ["more than 1 MB"]),
        ("a.yaml", b"[" * 9000, 2, ["cannot read"]),
        ("a.yaml", b"jsd_token_clip: -1\n", 2, ["clip", "at least 0"]),
        ("a.yaml", b"uld_token_merge_strategy: observed\nuse_uld_loss: true\n", 2, ["tokenizers"]),
    ],
)
def test_what_is_no_config(capsys, tmp_path, name, content, status, words):
    (path := tmp_path / name).write_bytes(content)
    found, out, err = run(capsys, path)
    assert found == status
    for word in words:
        assert word in " ".join((out + err).split())
    assert len(out + err) < 1500


def test_a_few_lines_that_stand_for_billions(capsys, tmp_path):
    lines = ["a0: &a0 {" + ", ".join(f"k{n}: 1" for n in range(10)) + "}"]
    lines += [
        f"a{n}: &a{n} {{" + ", ".join(f"k{m}: *a{n - 1}" for m in range(10)) + "}"
        for n in range(1, 9)
    ]
    (path := tmp_path / "a.yaml").write_text("\n".join(lines))
    began = time.monotonic()
    status, _, err = run(capsys, path)
    assert status == 2
    assert "20,000 settings" in err
    assert time.monotonic() - began < 5.0


def test_it_is_told_whose_file_it_is(capsys, tmp_path):
    (path := tmp_path / "a.sh").write_text("train --use-opd --opd-log-prob-top-k 16\n")
    assert run(capsys, path, "--trainer", "miles", *GATE)[0] == 3
    assert run(capsys, path, "--trainer", "vrel")[0] == 2
    (path := tmp_path / "a.yaml").write_text("fixed_teacher: true\n")
    assert "clip-turns" in run(capsys, path)[1]
    assert "clip-turns" not in run(capsys, path, "--trainer-version", "590ec26")[1]


def test_nothing_to_lint(capsys):
    status, _, err = run(capsys)
    assert status == 2
    assert "nothing to lint" in err


def test_it_takes_a_second_and_no_torch(zero):
    code = (
        "import sys\n"
        "from gradalign_cli.main import main\n"
        "try:\n"
        f"    main(['lint', {str(zero)!r}])\n"
        "finally:\n"
        "    print([name for name in ('torch', 'pandas', 'scipy') if name in sys.modules])\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "[]"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0


def test_the_hook_runs_this_command():
    root = Path(__file__).parents[2]
    (hook,) = yaml.safe_load((root / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"].split() == ["gradalign", "lint", *GATE]
    assert "entry: gradalign lint --fail-on error" in (root / "docs" / "lint.md").read_text()
