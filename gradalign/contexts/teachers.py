"""`MODEL` or `MODEL+CONTEXT`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradalign.errors import UsageError

DELTA = "delta:"
"""What the name of a difference of two teachers begins with: no model's does."""

CONTROL = "self+wrong-answer"
"""The teacher that a run scores beside those it was given: the student, told something false."""

OTHER_ANSWER = "self+other-answer"
"""The student shown another question's answer: well formed, and of no use."""

REFERENCE_FREE = "reference-free"
"""The context in the words of a told teacher's, without what it is told."""

SHARED = ("none", "system", "demos", REFERENCE_FREE)
"""Contexts that say the same whatever the question is."""

FALSE = ("wrong-answer", "other-answer")
"""Contexts that say something false, or of no use."""


@dataclass(frozen=True)
class TeacherSpec:
    """A model and what it is shown.

    Attributes:
        model: a hub id, a folder, `demo:NAME`, or `self` for the student's own checkpoint.
        context: the name of a context, "none" if none was given.
    """

    model: str
    context: str = "none"

    @property
    def label(self) -> str:
        """The teacher's name in tables: the model, and the context unless it is none."""
        return self.model if self.context == "none" else f"{self.model}+{self.context}"


def parse_teacher(spec: str) -> TeacherSpec:
    """Split `MODEL+CONTEXT`.

    The model ends at the first plus sign, unless a longer beginning of the spec, up to another
    plus sign or the end, is an existing path: folders may have plus signs in their names, hub
    ids may not.

    Raises:
        UsageError: there is no model, or nothing after the plus sign; or it is a difference.
    """
    if spec.strip().startswith(DELTA):
        raise UsageError(
            f"{spec!r} is a difference of two teachers: no model can be read for it.",
            "Name a MODEL or MODEL+CONTEXT here.",
        )
    ends = [index for index, character in enumerate(spec) if character == "+"]
    end = next(
        (index for index in (len(spec), *reversed(ends)) if _exists(spec[:index])),
        ends[0] if ends else len(spec),
    )
    model, context = spec[:end].strip(), spec[end + 1 :]
    if not model:
        raise UsageError(f"teacher {spec!r} names no model.", "Write MODEL or MODEL+CONTEXT.")
    if end < len(spec) and not context.strip():
        raise UsageError(
            f"teacher {spec!r} has nothing after the plus sign.",
            "Write MODEL+CONTEXT, such as self+solution, or leave the plus sign out.",
        )
    return TeacherSpec(model, context.strip() or "none")


def controls_beside(teachers: Sequence[str], *, control: bool, controls: bool) -> list[str]:
    """Return the teachers that a run scores beside those it was given, where each can be made.

    Args:
        teachers: those that it was given, as specs.
        control: whether one that is told something false is wanted, `CONTROL`.
        controls: whether all are: that one; `OTHER_ANSWER`; and of every teacher that is told
            something, its model in the same words without it. What is named is not added again.
    """
    named = [parse_teacher(spec) for spec in teachers if not spec.strip().startswith(DELTA)]
    contexts = {spec.context.partition(":")[0] for spec in named}
    wanted = [CONTROL] if control or controls else []
    wanted += [OTHER_ANSWER] if controls else []
    found = [spec for spec in wanted if parse_teacher(spec).context not in contexts]
    if controls:
        found += [
            f"{spec.model}+{REFERENCE_FREE}"
            for spec in named
            if spec.context.partition(":")[0] not in (*SHARED, *FALSE)
        ]
    return list(dict.fromkeys(spec for spec in found if spec not in {s.label for s in named}))


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, an unknown user
        return False
