"""unknown-key: a suggestion for what is nearly known, and never a guess."""

from __future__ import annotations

from tests.lint.linted import by_rule, example, linted, verl


def test_a_misspelt_flag_is_not_taken(tmp_path):
    hit = example(tmp_path, "unknown-key")
    assert hit.finding.numbers["unknown"] == {"opd_kl_coeff": "opd_kl_coef"}
    text = "python slime/train.py --use-opd --opd-kl-coeff 0.5\n"
    result = linted(tmp_path, text)
    assert result.subject.coefficient == 1.0
    assert "did you mean opd_kl_coef?" in by_rule(result)["unknown-key"].finding.text


def test_a_stranger_in_the_losss_own_section(tmp_path):
    hit = by_rule(verl(tmp_path, loss_mode="k2", los_mode="k1", sharpness=3))["unknown-key"]
    strange = hit.finding.numbers["unknown"]
    prefix = "distillation.distillation_loss."
    assert strange == {f"{prefix}los_mode": "loss_mode", f"{prefix}sharpness": ""}


def test_what_is_no_setting_of_the_loss_is_left_alone(tmp_path):
    others = ("actor_rollout_ref.actor.optim.lr=1e-6", "transfer_queue.enable=True")
    result = verl(tmp_path, *others, loss_mode="k2", clip_ratio=0.2)
    assert "unknown-key" not in by_rule(result)
    script = "distillation_loss_mod=k1\npython slime/train.py --use-opd --lr 1e-6\n"
    assert "unknown-key" not in by_rule(linted(tmp_path, script))
