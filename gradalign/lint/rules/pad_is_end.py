"""pad-is-end: whether the padding token is the one that ends a response."""

from __future__ import annotations

from gradalign.lint.findings import Example, Finding, Rule
from gradalign.lint.subject import Subject

KEYS = ("pad_token", "pad_token_id", "padding_token")


def check(subject: Subject) -> Finding | None:
    """Ask, where a file sets the padding token itself."""
    there = [name for name in subject.source.found if name.rpartition(".")[2] in KEYS]
    if not there:
        return None
    return Finding(
        "question",
        f"Is {there[-1]}={subject.source.found[there[-1]]} also the token that ends a response? "
        "Then it is masked with the padding, and the student never learns to stop.",
        fix="gradalign check-teacher --student STUDENT --teacher TEACHER",
        keys=tuple(there),
    )


RULE = Rule(
    name="pad-is-end",
    title="is the padding token the end token?",
    levels=("question",),
    source="ms-swift examples/train/on_policy_distillation.sh (end tokens that differ); ours",
    check=check,
    example=Example(
        "axolotl",
        "config.yaml",
        "kd_trainer: true\nkd_temperature: 1.0\nspecial_tokens:\n  pad_token: <|im_end|>\n",
    ),
)
