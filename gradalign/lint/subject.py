"""A trainer's file as rules see it: whose it is, what it sets, and where that would point."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gradalign.errors import UsageError
from gradalign.lint.evidence import ascent
from gradalign.methods import Method, Mixture, get
from gradalign.methods.aliases import (
    STANDARD_INPUT,
    Trainer,
    Version,
    chosen,
    overrides_of,
    read_text,
    recognised,
    settings_of,
)
from gradalign.methods.distributions import Floats
from gradalign.methods.dr_grpo import DrGRPO


@dataclass(frozen=True)
class Source:
    """A file, or overrides without one, as it was read.

    Attributes:
        path: as it was given; "" for overrides alone.
        text: of the file.
        found: every setting by its whole dotted name.
    """

    path: str
    text: str
    found: Mapping[str, Any]

    @property
    def shown(self) -> str:
        """The path in words."""
        return {"": "the overrides", STANDARD_INPUT: "standard input"}.get(self.path, self.path)

    def is_argument(self, key: str) -> bool:
        """Whether a key is a setting, and no variable that a script has for itself."""
        option = key.replace("_", "[-_]")
        return (
            Path(self.path).suffix in (".yaml", ".yml", ".json", ".toml")
            or "." in key
            or re.search(rf"--{option}\b", self.text) is not None
        )

    def line(self, key: str) -> int:
        """Return the last line that sets a key, counted from 1; 1 where none does."""
        last = re.escape(key.rpartition(".")[2]).replace("_", "[-_]")
        setting = re.compile(rf"(?<!\w)(?<!\w-){last}[\"']?\s*[=: ]", flags=re.IGNORECASE)
        lines = [
            number
            for number, line in enumerate(self.text.splitlines(), 1)
            if setting.search(f"{line} ") and not line.lstrip().startswith(("#", "//"))
        ]
        return lines[-1] if lines else 1


@dataclass(frozen=True)
class Subject:
    """A file that trains with a teacher.

    Attributes:
        source: the file.
        trainer: whose it is.
        version: of the trainer; its defaults count where the file sets nothing.
        settings: every key of the loss, defaults filled in.
        whole: what is applied, a task reward included.
        teacher: the part of it that looks at the teacher.
        coefficient: of that part.
        promise: what the trainer's names say that it is; `teacher` where they say no other.
        note: what our spelling leaves out.
    """

    source: Source
    trainer: Trainer
    version: Version
    settings: Mapping[str, Any]
    whole: Method
    teacher: Method
    coefficient: float
    promise: Method
    note: str

    @property
    def rewarded(self) -> bool:
        """Whether a task reward is in it too, as far as the file shows."""
        parts = self.whole.parts if isinstance(self.whole, Mixture) else ()
        joined = any(isinstance(part.method, DrGRPO) and part.coefficient for part in parts)
        shown = "task_reward" not in self.trainer.beside or bool(self.beside("task_reward"))
        return joined and shown

    @property
    def filled_in(self) -> dict[str, Any]:
        """The keys of the loss that the file does not set, with the version's defaults."""
        there = self.trainer.set_keys(self.source.found)
        return {
            key: value
            for key, value in self.settings.items()
            if not any(name in there for name in self.trainer.names(key))
        }

    def beside(self, role: str) -> Any:
        """Return what stands beside the loss; None where this trainer has no such thing."""
        one = self.trainer.beside.get(role)
        return None if one is None else one.value(self.source.found)

    def key_of(self, role: str) -> str:
        """Return the trainer's key for what stands beside the loss."""
        return self.trainer.beside[role].key

    def sets(self, key: str) -> bool:
        """Whether the file itself sets a key."""
        names = {key, *self.trainer.names(key)}
        return bool(names & set(self.trainer.set_keys(self.source.found)))

    def line(self, keys: Iterable[str]) -> int:
        """Return the line of the first of some keys that the file sets; else 1."""
        there = self.trainer.set_keys(self.source.found)
        for key in keys:
            for name in (key, *self.trainer.names(key)):
                if name in there or name in self.source.found:
                    return self.source.line(there.get(name, name))
        return 1

    @cached_property
    def applied_NS(self) -> Floats:
        """The teacher's part on the made-up nodes, without its coefficient, [N, S]."""
        return ascent(self.teacher)

    @cached_property
    def promised_NS(self) -> Floats:
        """What the names promise, on the made-up nodes, [N, S]."""
        return ascent(self.promise)


@dataclass(frozen=True)
class Unteaching:
    """A file that trains without a teacher, or is no trainer's at all.

    Attributes:
        source: the file.
        trainer: whose it is; None where it is nobody's.
        reason: why there is no teacher, in words.
    """

    source: Source
    trainer: Trainer | None
    reason: str


def read_source(path: str, overrides: Iterable[str] = ()) -> Source:
    """Read a file and what is set on top of it.

    Args:
        path: of the file, `-` for standard input, "" for overrides alone.
        overrides: KEY=VALUE each.

    Raises:
        UsageError: it cannot be read.
    """
    words = list(overrides)
    text = read_text(path) if path else "\n".join(words)
    found = settings_of(text, "" if path == STANDARD_INPUT else path) if path else {}
    found |= overrides_of(words)
    if not found:
        raise UsageError(
            f"{Source(path, '', {}).shown} holds no settings.", "Give a trainer's file."
        )
    return Source(path, text, found)


def subject_of(source: Source, trainer: str = "", version: str = "") -> Subject | Unteaching:
    """Find out whose file it is and what it applies.

    Args:
        source: the file.
        trainer: whose it is, or of which package; "" to recognise it.
        version: part of the version's name; "" for the newest.

    Raises:
        UnknownNameError: no such trainer or version.
        UsageError: it may be of several trainers, or its settings have no spelling here.
    """
    candidates = recognised(source.found, source.text)
    if trainer:
        asked = chosen(trainer)
        candidates = [one for one in candidates if one in asked] or asked
        if len(candidates) > 1:
            most = max(len(one.set_keys(source.found)) for one in candidates)
            candidates = [one for one in candidates if len(one.set_keys(source.found)) == most]
    if not candidates:
        return Unteaching(source, None, "no setting of a trainer that distils is in it")
    if len(candidates) > 1:
        names = ", ".join(one.name for one in candidates)
        raise UsageError(
            f"{source.shown} may be a file of {names}.", "Say which with --trainer NAME."
        )
    (mine,) = candidates
    chosen_version = mine.version(version)
    settings = mine.filled(source.found, chosen_version)
    reason = mine.idle_because(source.found, settings)
    if reason:
        return Unteaching(source, mine, f"{mine.name} has no teacher at {reason}")
    spec, note = mine.spell(settings)
    whole = get(spec)
    teacher, coefficient = _of_teacher(whole)
    if teacher is None:
        return Unteaching(source, mine, "its loss looks at no teacher")
    spelling = mine.spelling(settings)
    promised = spelling.promised(settings) if spelling else ""
    return Subject(
        source=source,
        trainer=mine,
        version=chosen_version,
        settings=settings,
        whole=whole,
        teacher=teacher,
        coefficient=coefficient,
        promise=get(promised) if promised else teacher,
        note=note,
    )


def is_file(word: str) -> bool:
    """Whether a word of the command line names a file, and no override."""
    return word == STANDARD_INPUT or "=" not in word or Path(word).exists()


def _of_teacher(whole: Method) -> tuple[Method | None, float]:
    if not isinstance(whole, Mixture):
        return (whole if "teacher" in whole.needs else None), 1.0
    for part in whole.parts:
        if "teacher" in part.method.needs:
            return part.method, part.coefficient
    return None, 0.0
