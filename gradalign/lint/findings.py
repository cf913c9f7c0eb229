"""What a rule is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gradalign.lint.subject import Subject
from gradalign.methods.distributions import Floats

Level = Literal["error", "warning", "note", "question"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note", "question")
"""Worst first. A question is nothing found: a config cannot tell, and a command can."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a finding's evidence was computed from, for a picture.

    Attributes:
        meant_NS: what was meant, [N, S].
        found_NS: what the file applies, [N, S].
        meant: what the first is, in words.
        found: what the second is.
        columns: names of the columns; none where they are tokens.
        axis: what the columns are.
    """

    meant_NS: Floats
    found_NS: Floats
    meant: str
    found: str
    columns: tuple[str, ...] = ()
    axis: str = "tokens of one node"


@dataclass(frozen=True)
class Finding:
    """What a rule says of a file.

    Attributes:
        level: how bad it is.
        text: what the file does, in a sentence or two.
        evidence: what was computed on the made-up nodes, in words; "" where nothing was.
        fix: what to set instead, or the command that answers a question.
        keys: settings of the trainer that it comes from; the first that the file sets has the line.
        numbers: the evidence for programs.
        drawn: the evidence for a picture; None where there is none.
    """

    level: Level
    text: str
    evidence: str = ""
    fix: str = ""
    keys: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    drawn: Drawn | None = None


@dataclass(frozen=True)
class Example:
    """A least file at which a rule finds something.

    Attributes:
        trainer: whose file it is.
        name: of the file; its suffix tells what it is.
        text: of the file.
    """

    trainer: str
    name: str
    text: str


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with a file.

    Attributes:
        name: as it is printed.
        title: in one line.
        levels: those that its findings may have.
        source: where it was met: threads, papers, source lines.
        check: returns a finding, or None.
        example: a file at which it finds something.
    """

    name: str
    title: str
    levels: tuple[Level, ...]
    source: str
    check: Callable[[Subject], Finding | None]
    example: Example
