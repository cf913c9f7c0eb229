"""Whether the teachers that are the difference of two others can be made, before models run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from gradalign import methods
from gradalign.config import ScoreConfig
from gradalign.contexts import DeltaSpec, TeacherSpec, controls_beside, parse_any, parse_teacher
from gradalign.errors import UsageError
from gradalign.models.event_space import EventSpace
from gradalign.models.sampling import SamplingSettings


def check_parts(config: ScoreConfig, named: Collection[str]) -> None:
    """Refuse a difference of teachers that the run does not have, or without any method.

    Args:
        config: all settings.
        named: labels of the teachers that are named and read.

    Raises:
        UsageError: saying which `--teacher` to add.
    """
    beside = controls_beside(config.teachers, control=config.control, controls=config.controls)
    known = {*named, *beside}
    for delta in _deltas(config):
        missing = [part for part in _parts(delta) if part not in known]
        if missing:
            add = " ".join(f"--teacher {part}" for part in missing)
            raise UsageError(
                f"teacher {delta.label} is made of {' and '.join(missing)}, which the run does "
                "not have.",
                f"Add {add}.",
            )
        if not any("teacher" in item.needs and not item.beyond_nodes for item in _methods(config)):
            raise UsageError(
                f"teacher {delta.label} is known at the nodes only, and every --method needs "
                "more of a teacher, or none.",
                "Add a method that looks at the next token alone, such as --method gkd.",
            )


def check_made(
    config: ScoreConfig, compared: Mapping[str, EventSpace], why_none: Sequence[str]
) -> None:
    """Refuse a difference with a control that cannot be made, or of teachers of other tokens.

    Args:
        config: all settings.
        compared: by label of a teacher that is read, the tokens that it and the student have.
        why_none: why the control is left out, if it is.

    Raises:
        UsageError: with what to do.
    """
    for delta in _deltas(config):
        for part in _parts(delta):
            if part not in compared:
                raise UsageError(
                    f"teacher {delta.label} is made of {part}, and {'; '.join(why_none) or part} "
                    "is not scored.",
                    f"Leave it out, or add --teacher {part}.",
                )
        if compared[delta.first] != compared[delta.second]:
            sizes = " and ".join(f"{compared[part].size:,}" for part in _parts(delta))
            raise UsageError(
                f"teacher {delta.label}: of the student's tokens {delta.first} and {delta.second} "
                f"have {sizes}, and not the same: there is no difference on the others.",
                "Choose two teachers with the same tokenizer.",
            )


def delta_warnings(config: ScoreConfig, num_tokens: int) -> list[str]:
    """Say which differences are none or hard to store, and which methods are left out for them.

    Args:
        config: all settings.
        num_tokens: tokens that the student has.
    """
    lines = []
    student = TeacherSpec(config.student)
    plain = SamplingSettings(config.temperature, config.top_p, config.top_k).is_plain
    for delta in _deltas(config):
        first, second = (_teacher(config, label) for label in (delta.first, delta.second))
        if first == second:
            lines.append(
                f"teacher {delta.label} is a teacher minus itself: it says what the student says, "
                "and no method has a direction"
            )
        elif second == student and delta.strength == 1.0 and plain:
            lines.append(
                f"teacher {delta.label} is {delta.first}: what is taken away is what it is added to"
            )
        if delta.strength > 1.0 and config.support_size < num_tokens:
            lines.append(
                f"teacher {delta.label}: with a above 1 much of it may lie on tokens that are not "
                f"stored and count as one; --support-size {config.support_size} is of "
                f"{num_tokens:,} tokens"
            )
    labels = ", ".join(delta.label for delta in _deltas(config))
    left = [item for item in _methods(config) if item.beyond_nodes] if labels else []
    return [
        *lines,
        *(f"{item.spec} is left out for {labels}: {item.beyond_nodes}" for item in left),
    ]


def _deltas(config: ScoreConfig) -> list[DeltaSpec]:
    return [spec for spec in map(parse_any, config.teachers) if isinstance(spec, DeltaSpec)]


def _teacher(config: ScoreConfig, label: str) -> TeacherSpec:
    """Return a teacher with the student's own name in place of `self`."""
    spec = parse_teacher(label)
    return TeacherSpec(config.student, spec.context) if spec.model == "self" else spec


def _parts(delta: DeltaSpec) -> tuple[str, ...]:
    return tuple(dict.fromkeys((delta.first, delta.second)))


def _methods(config: ScoreConfig) -> list[methods.Method]:
    return [methods.get(spec) for spec in config.methods]
