"""shifted-teacher: asked of served teachers, and no finding."""

from __future__ import annotations

from tests.lint.linted import by_rule, example, linted


def test_it_is_a_question_with_its_command(tmp_path):
    hit = example(tmp_path, "shifted-teacher")
    assert hit.level == "question"
    assert hit.finding.fix.startswith("gradalign check-teacher ")
    assert hit.line == 2


def test_it_fails_nothing_and_is_not_asked_of_a_local_teacher(tmp_path):
    text = "swift rlhf --rlhf_type gkd --lmbda 1 {}\n"
    served = linted(tmp_path, text.format("--teacher_model_server http://127.0.0.1:8000"))
    assert not served.findings
    assert not served.fails("warning")
    assert not by_rule(linted(tmp_path, text.format("--teacher_model T")))
