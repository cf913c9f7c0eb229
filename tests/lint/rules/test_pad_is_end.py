"""pad-is-end: asked where a file sets the padding token, and no finding."""

from __future__ import annotations

from tests.lint.linted import by_rule, example, linted


def test_it_is_a_question(tmp_path):
    hit = example(tmp_path, "pad-is-end")
    assert (hit.level, hit.line) == ("question", 4)
    assert "<|im_end|>" in hit.finding.text
    text = "kd_trainer: true\nkd_temperature: 1.0\n"
    assert not by_rule(linted(tmp_path, text, "a.yaml"))
