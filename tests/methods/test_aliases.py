"""Trainers' options as methods here: the table, files of every kind, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from gradalign.errors import UnknownNameError, UsageError
from gradalign.methods import get
from gradalign.methods.aliases import chosen, listed, read_settings, recognised, trainers

DOCS = Path(__file__).parents[2] / "docs"
ASKED = {
    "trl/gkd", "trl/distillation", "trl/server_distillation", "trl/async_distillation",
    "trl/sdpo", "trl/sdft", "trl/iw_opd", "trl/gold", "trl/minillm", "verl", "thunlp/opd",
    "opsd", "tinker/opd", "tinker/sdft", "swift/gkd", "swift/opd", "slime", "miles", "areal",
    "roll/distill", "roll/opd", "skyrl", "nemo/distillation", "nemo/opd", "prime-rl", "axolotl",
    "torchrl", "sdpo", "lmops/minillm",
}  # fmt: skip


def test_every_trainer_is_there():
    assert set(trainers()) == ASKED


@pytest.mark.parametrize("name", sorted(ASKED))
def test_defaults_are_a_method(name):
    """Also of older versions; and every key that a spelling or condition looks at has a default."""
    (trainer,) = chosen(name)
    for version in trainer.versions:
        method, _ = trainer.spell(version.defaults)
        assert get(method).needs
        for spelling in (*trainer.spellings, *filter(None, (trainer.mixed,))):
            keys = {*spelling.when, *spelling.when_not, *spelling.values}
            assert keys <= set(version.defaults)
            assert spelling.method is not None or spelling.note
            assert all(len(part.split()) <= 25 for part in spelling.note.split(". "))
            if spelling.promise is not None:
                assert get(spelling.promised(version.defaults)).needs >= {"teacher"}


def test_presets_have_the_trainers_defaults():
    """Where a method mirrors one loss of a trainer, its own defaults are that trainer's."""
    for name in (
        "trl/gkd", "trl/distillation", "trl/server_distillation", "trl/async_distillation",
        "trl/sdpo", "trl/sdft", "trl/iw_opd", "trl/minillm", "thunlp/opd", "opsd", "tinker/sdft",
        "roll/distill", "nemo/distillation", "lmops/minillm",
    ):  # fmt: skip
        (trainer,) = chosen(name)
        spec, _ = trainer.spell(trainer.versions[0].defaults)
        assert get(spec).spec == name
    (opsd,) = chosen("opsd")
    assert get(opsd.spell(opsd.version("590ec26").defaults)[0]).spec == "opsd:beta=0.5,clip=0"
    torchrl = chosen("torchrl")[0]
    assert get(torchrl.spell(torchrl.versions[0].defaults)[0]).spec == "torchrl/distillation"


SCRIPT = """#!/usr/bin/env bash
set -euo pipefail  # dangerous otherwise
LOSS=${LOSS:-"k1"}
export TOPK=64
DATA="gsm8k
math"
python3 -m verl.trainer.main_ppo \\
    distillation.enabled=True \\
    distillation.distillation_loss.loss_mode=$LOSS \\
    distillation.distillation_loss.topk=${TOPK} \\
    distillation.distillation_loss.use_task_rewards=False \\
    +distillation.distillation_loss.use_policy_gradient=True  # as a reward
"""
FILES = {
    "run.sh": ("verl", SCRIPT, "verl/k1:mode=pg"),
    "verl.yaml": (
        "verl",
        "distillation:\n  distillation_loss: {loss_mode: forward_kl_topk, loss_max_clamp: 10.0}\n",
        "dr_grpo+1*verl/forward_kl_topk:max_clamp=10",
    ),
    "verl.json": (
        "verl",
        json.dumps(
            {"distillation": {"distillation_loss": {"loss_mode": "k2", "use_task_rewards": False}}}
        ),
        "verl/k2",
    ),
    "reward.yaml": (
        "verl",
        "distillation_loss: {loss_mode: forward_kl_topk, topk: 8, use_policy_gradient: true,"
        " use_task_rewards: false}\n",
        "verl/topk_reward:top_k=8",
    ),
    "prime.toml": ("prime-rl", '[orchestrator.algo]\ntype = "opd"\n', "opd"),
    "sdft.yaml": (
        "trl",
        "num_loss_tokens_to_skip: 3\ndistillation_alpha: 1.0\n",
        "trl/sdft:alpha=1,skip_first=3",
    ),
    "sdpo.yaml": (
        "trl",
        "distillation_weight: 0.7\ndistillation_mode: topk_logits\ndistillation_topk: 20\n",
        "0.3*dr_grpo+0.7*trl/sdpo:top_k=20",
    ),
    "async.yaml": ("trl", "teacher_top_k: 16\n", "trl/async_distillation:top_k=16"),
    "miles.sh": (
        "miles",
        "python train.py --use-opd --opd-kl-coef 0.5 \\\n  --opd-log-prob-top-k=16 --lr -1\n",
        "dr_grpo+0.5*miles/opd_topk",
    ),
    "areal.yaml": ("areal", "teacher:\n  rl_loss_weight: 0\n", "opd"),
    "swift.sh": (
        "swift/gkd",
        "swift rlhf --rlhf_type gkd --gkd_logits_topk 64 --temperature 1.0\n",
        "opsd:beta=0.5,clip=0,temperature=1,top_k=64",
    ),
    "rlsd.sh": (
        "swift/opd",
        "swift rlhf --advantage_reweight rlsd --rlsd_lambda 1\n",
        "swift/rlsd:mix=1",
    ),
    "opsd.sh": (
        "opsd",
        "accelerate launch opsd_train.py --beta 0 --jsd_token_clip 0.06\n",
        "opsd:clip=0.06",
    ),
    "thunlp.sh": (
        "thunlp/opd",
        "export LOG_PROB_TOP_K=${LOG_PROB_TOP_K:-32}\n"
        'export TOP_K_STRATEGY=${TOP_K_STRATEGY:-"union"}\n',
        "thunlp/opd:top_k=32,strategy=union",
    ),
    "nemo.yaml": ("nemo", "loss_fn:\n  kl_type: reverse\n", "nemo/distillation:kl_type=reverse"),
    "axolotl.yaml": (
        "axolotl",
        "kd_normalize_topk: false\nkd_online_topk: 20\n",
        "tinker/sdft:skip_first=0",
    ),
    "torchrl.json": (
        "torchrl",
        '{"normalize_by_seq_length": false}',
        "torchrl/distillation:per=token",
    ),
    "tinker.json": (
        "tinker/opd",
        '{"kl_discount_factor": 0.9}',
        "minillm:gamma=0.9,single_step=false",
    ),
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_trainers_own_file(tmp_path, name):
    trainer, text, wanted = FILES[name]
    path = tmp_path / name
    path.write_text(text)
    assert get(f"config:trainer={trainer},path={path}").spec == wanted


def test_settings_of_a_script(tmp_path):
    path = tmp_path / "run.sh"
    path.write_text("A=1 B=two cmd --c-d 3 --e --f=g+h x.y=[1,2] --neg -0.5 $A ${Z:-z}\n")
    found = read_settings(str(path))
    assert found == {
        "a": 1, "b": "two", "c_d": 3, "e": True, "f": "g+h", "x.y": [1, 2], "neg": -0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "text", "words"),
    [
        ("config:trainer=verl,path={path}", "lr: 1\n", ["no setting of verl", "loss_mode"]),
        ("config:trainer=verl,path={path}", "[1, 2]\n", ["holds no settings"]),
        ("config:trainer=verl,path={path}", "a: [\n", ["cannot read", "YAML"]),
        ("config:trainer=verl,path={path}.no", "a: 1\n", ["cannot read"]),
        ("config:trainer=verl", "a: 1\n", ["needs trainer and path"]),
        ("config:trainer=verl,path={path},x=1", "a: 1\n", ["no option 'x'"]),
        (
            "config:trainer=verl,path={path}",
            "distillation_loss: {loss_mode: k9}\n",
            ["loss_mode=k9", "no spelling", "--trainer verl"],
        ),
        ("config:trainer=trl/gold,path={path}", "use_uld_loss: true\n", ["different tokenizers"]),
        (
            "config:trainer=opsd,path={path}",
            "jsd_token_clip: -1\n",
            ["clip", "at least 0"],
        ),
    ],
)
def test_what_is_refused(tmp_path, spec, text, words):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        get(spec.format(path=path))
    for word in words:
        assert word in str(caught.value)


def test_settings_kept_in_a_variable_and_in_lists(tmp_path):
    (path := tmp_path / "run.sh").write_text('A="--x 1 \\\n y.z=2"\nA+=" --flag"\nB="two words"\n')
    found = read_settings(str(path))
    assert {key: found[key] for key in ("x", "y.z", "flag")} == {"x": 1, "y.z": 2, "flag": True}
    assert "two" not in found
    (path := tmp_path / "a.toml").write_text("[[env]]\na = 1\n[[env]]\n[env.algo]\ntype = 'opd'\n")
    assert read_settings(str(path)) == {"env.0.a": 1, "env.1.algo.type": "opd"}


@pytest.mark.parametrize(
    ("found", "text", "names"),
    [
        ({"distillation.distillation_loss.loss_mode": "k1"}, "", ["verl"]),
        ({"lr": 1}, "python -m verl.trainer.main_ppo lr=1", ["verl"]),
        ({"rlhf_type": "gkd", "lmbda": 1}, "", ["swift/gkd"]),
        ({"rlhf_type": "dpo", "beta": 0.1}, "swift rlhf --rlhf_type dpo", []),
        ({"beta": 0.1, "lmbda": 0.5}, "", []),  # DPO and many others have these too
        ({"use_opd": True}, "", ["slime", "miles", "roll/opd"]),
        ({"use_opd": True, "opd_log_prob_top_k": 4}, "", ["miles"]),
        ({"learning_rate": 1e-5}, "", []),
    ],
)
def test_whose_file_it_is(found, text, names):
    assert [one.name for one in recognised(found, text)] == names


def test_what_stands_beside_a_loss():
    (verl,) = chosen("verl")
    kl = verl.beside["reference_kl"]
    assert kl.value({"actor.kl_loss_coef": 0.5}) is None
    assert kl.value({"actor.kl_loss_coef": 0.5, "actor.use_kl_loss": True}) == 0.5
    assert kl.value({"actor.use_kl_loss": True}) == 0.001
    length = verl.beside["length"]
    assert length.value({}) == "token"
    assert length.value({"actor.loss_agg_mode": "seq-mean-token-mean"}) == "sequence"
    for trainer in trainers().values():
        for one in trainer.beside.values():
            assert one.line == "" or ":" in one.line


def test_unknown_trainers_and_versions(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("jsd_token_clip: 0.06\nbeta: 0.5\n")
    with pytest.raises(UnknownNameError, match="Known: trl/gkd"):
        get(f"config:trainer=vrel,path={path}")
    with pytest.raises(UnknownNameError, match="590ec26"):
        get(f"config:trainer=opsd,path={path},version=v9")
    path.write_text("fixed_teacher: true\n")
    assert get(f"config:trainer=opsd,path={path},version=590ec26").spec == "opsd:beta=0.5,clip=0"


def test_the_listing_has_what_a_program_needs():
    (verl,) = listed(chosen("verl"))
    assert "distillation_loss.loss_mode" in verl["keys"]
    (version,) = verl["versions"]
    assert version["version"] == "verl 0.9.1"
    assert version["defaults"]["loss_mode"] == "k3"
    assert version["lines"]["loss_mode"].endswith("distillation.yaml:24")
    assert len(listed(chosen("trl"))) == 9
    json.dumps(listed(trainers().values()))


def test_the_page_is_that_of_the_table():
    spec = importlib.util.spec_from_file_location("docs_trainers", DOCS / "trainers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "trainers.md").read_text() == module.text(), "run python docs/trainers.py"
