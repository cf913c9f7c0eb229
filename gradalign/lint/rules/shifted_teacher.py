"""shifted-teacher: whether a served teacher's numbers belong to the tokens they are used for."""

from __future__ import annotations

from gradalign.lint.findings import Example, Finding, Rule
from gradalign.lint.subject import Subject


def check(subject: Subject) -> Finding | None:
    """Ask, where a server says what the teacher thinks."""
    if subject.beside("teacher_server") in (None, False, ""):
        return None
    return Finding(
        "question",
        "Does the served teacher say what it is believed to say? A config does not show "
        "log-probabilities one position off, another checkpoint or another precision.",
        fix=(
            "gradalign check-teacher --student STUDENT --teacher TEACHER --base-url http://HOST:PORT"
        ),
        keys=(subject.key_of("teacher_server"),),
    )


RULE = Rule(
    name="shifted-teacher",
    title="is the served teacher the one that is meant?",
    levels=("question",),
    source="AReaL issue 1728; SkyRL pull request 2256; TRL pull request 5885",
    check=check,
    example=Example(
        "swift/gkd",
        "run.sh",
        "swift rlhf --rlhf_type gkd --gkd_logits_topk 64 --lmbda 1 \\\n"
        "  --teacher_model_server http://127.0.0.1:8000\n",
    ),
)
