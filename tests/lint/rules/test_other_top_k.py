"""other-top-k: whose tokens, by the direction of the divergence."""

from __future__ import annotations

import pytest

from tests.lint.linted import by_rule, example, linted

TEXT = (
    "num_loss_tokens_to_skip: 0\ndistillation_mode: topk_logits\ndistillation_topk: 20\n"
    "distillation_alpha: {alpha}\nuse_teacher_server: {served}\n"
)


def test_forward_on_the_students_tokens(tmp_path):
    numbers = example(tmp_path, "other-top-k").finding.numbers
    assert numbers["swapped"] > 0.9 > 0.6 > numbers["cosine"]
    assert numbers["least_mass"] < 0.1


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("served", ["true", "false"])
def test_each_direction_has_its_model(tmp_path, alpha, served):
    text = TEXT.format(alpha=alpha, served=served)
    found = by_rule(linted(tmp_path, text, "a.yaml", trainer="trl/sdft"))
    wanted = "true" if alpha == 0.0 else "false"  # forward weighs by the teacher
    if served == wanted:
        assert "other-top-k" not in found
    elif alpha == 0.0:
        assert found["other-top-k"].level == "warning"


def test_thunlp_on_the_teachers_tokens(tmp_path):
    text = (
        "export LOG_PROB_TOP_K=4\nexport TOP_K_STRATEGY={}\nexport REWARD_WEIGHT_MODE=student_p\n"
    )
    assert "other-top-k" not in by_rule(linted(tmp_path, text.format("only_stu")))
