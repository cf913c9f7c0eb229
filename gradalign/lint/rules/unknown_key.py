"""unknown-key: a setting that is nearly one of the trainer's, or stands among them."""

from __future__ import annotations

from difflib import get_close_matches

from gradalign.lint.findings import Example, Finding, Rule
from gradalign.lint.subject import Subject

NEARLY = 0.9
"""How alike two names are (difflib) from which on one is taken for a misspelling of the other."""

SHORTEST = 5
"""Letters of a name that can be told from others by its likeness."""


def check(subject: Subject) -> Finding | None:
    """Hold every key that is not looked at against those that are."""
    known = subject.trainer.known()
    there = set(subject.trainer.set_keys(subject.source.found).values())
    sections = {key.rpartition(".")[0] for key in subject.trainer.tells if "." in key}
    last_parts = {key.rpartition(".")[2] for key in known}
    alone = sorted(key for key in known if "." not in key)
    strange: dict[str, str] = {}
    for name in subject.source.found:
        section, _, last = name.rpartition(".")
        if name in there or last in last_parts or last.startswith("_"):
            continue
        if not subject.source.is_argument(name):
            continue
        inside = [one for one in sections if section == one or section.endswith(f".{one}")]
        near = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] in inside]
        nearest = get_close_matches(last, near if inside else alone, n=1, cutoff=NEARLY)
        if len(last) < SHORTEST:
            nearest = []
        if nearest or (inside and last not in subject.trainer.others):
            strange[name] = nearest[0] if nearest else ""
    if not strange:
        return None
    named = [
        f"{name} (did you mean {suggestion}?)" if suggestion else name
        for name, suggestion in strange.items()
    ]
    return Finding(
        "warning",
        f"As far as is known, {subject.trainer.name} has no setting {', '.join(named)}. It was not "
        "taken for another one.",
        fix=f"See gradalign methods list --trainer {subject.trainer.name}.",
        keys=tuple(strange),
        numbers={"unknown": strange},
    )


RULE = Rule(
    name="unknown-key",
    title="a setting that is not known, but nearly",
    levels=("warning",),
    source="the table of trainers' settings (docs/trainers.md)",
    check=check,
    example=Example(
        "miles", "run.sh", "python train.py --use-opd --opd-kl-coeff 0.5 --opd-log-prob-top-k 0\n"
    ),
)
