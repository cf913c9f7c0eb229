"""A file through every rule: what it applies, and what is to be said of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gradalign.lint.evidence import Comparison, compare, noise, towards_success
from gradalign.lint.findings import LEVELS, Finding, Level, Rule
from gradalign.lint.rules import RULES
from gradalign.lint.subject import Source, Subject, Unteaching, read_source, subject_of


@dataclass(frozen=True)
class Hit:
    """A finding, with the rule that found it and the line it stands in (from 1)."""

    rule: Rule
    finding: Finding
    line: int

    @property
    def level(self) -> Level:
        """How bad it is."""
        return self.finding.level

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        found = self.finding
        return {
            "rule": self.rule.name,
            "level": found.level,
            "line": self.line,
            "text": found.text,
            "evidence": found.evidence,
            "numbers": dict(found.numbers),
            "source": self.rule.source,
            "fix": found.fix,
        }


@dataclass(frozen=True)
class Lint:
    """What was found out about one file.

    Attributes:
        source: the file.
        subject: what it applies; None where it has no teacher.
        reason: why it has none; "" where it has.
        hits: findings, worst first, and questions last.
    """

    source: Source
    subject: Subject | None
    reason: str
    hits: tuple[Hit, ...]

    @property
    def findings(self) -> tuple[Hit, ...]:
        """What was found; questions are not."""
        return tuple(hit for hit in self.hits if hit.level != "question")

    def fails(self, level: Level) -> bool:
        """Whether something is as bad as a level."""
        return any(LEVELS.index(hit.level) <= LEVELS.index(level) for hit in self.findings)

    def comparison(self) -> Comparison | None:
        """Return the applied update against the promised one; None without a teacher."""
        if self.subject is None:
            return None
        return compare(self.subject.applied_NS, self.subject.promised_NS)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for programs."""
        subject, against = self.subject, self.comparison()
        if subject is None or against is None:
            return {"path": self.source.path, "teacher": False, "reason": self.reason, "hits": []}
        loud = noise(subject.teacher)
        return {
            "path": self.source.path,
            "teacher": True,
            "trainer": subject.trainer.name,
            "version": subject.version.name,
            "settings": dict(subject.settings),
            "filled_in": subject.filled_in,
            "applies": subject.whole.spec,
            "formula": subject.teacher.formula,
            "promises": subject.promise.spec,
            "note": subject.note,
            "against_promise": against.to_dict(),
            "noise": round(loud, 3) if loud < float("inf") else None,
            "towards_success": {
                name: round(value, 4) if value == value else None
                for name, value in towards_success(subject.teacher).items()
            },
            "hits": [hit.to_dict() for hit in self.hits],
        }


def lint(path: str, overrides: Iterable[str] = (), *, trainer: str = "", version: str = "") -> Lint:
    """Say what a trainer's file really does.

    Args:
        path: of the file, `-` for standard input, "" for overrides alone.
        overrides: KEY=VALUE on top of the file, as Hydra takes them.
        trainer: whose file it is; "" to recognise it.
        version: part of the name of the trainer's version; "" for the newest that was read.

    Raises:
        UnknownNameError: no such trainer or version.
        UsageError: the file cannot be read, may be of several trainers, or has no spelling here.
    """
    source = read_source(path, overrides)
    subject = subject_of(source, trainer, version)
    if isinstance(subject, Unteaching):
        return Lint(source, None, subject.reason, ())
    hits = []
    for rule in RULES:
        found = rule.check(subject)
        if found is not None:
            hits.append(Hit(rule, found, subject.line(found.keys)))
    hits.sort(key=lambda hit: LEVELS.index(hit.level))
    return Lint(source, subject, "", tuple(hits))
