"""A folder that holds a run of other settings: what differs, and what can be done instead."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from gradalign import methods
from gradalign.config import ScoreConfig, flag_of
from gradalign.contexts import parse_any
from gradalign.errors import RunError
from gradalign.store.manifest import command_to_go_on

IN_WEIGHTS = ("weights_space", "weights_adamw", "weights_quarters")
REHEARSED = ("rehearse", "rehearse_steps", "rehearse_step", "rehearse_responses", "rehearse_self")

ADDED_LATER = {"methods", "teachers", "alignment", *IN_WEIGHTS, *REHEARSED, "verifier"}
"""What `gradalign rescore` adds to a finished run, or changes in it."""

MOST_NAMED = 5
"""Of longer lists only so many items are named."""


def other_settings(stored: ScoreConfig, wanted: ScoreConfig, *, finished: bool) -> RunError:
    """Return the refusal to do a run of some settings in the folder of another.

    Args:
        stored: the settings of the run that is there.
        wanted: those that were asked for; some setting that decides the result differs.
        finished: whether the run that is there is done.

    Raises:
        UnknownNameError: a method or context that was asked for is not known.
    """
    before, now = stored.result_fields(), wanted.result_fields()
    different = [name for name in now if before.get(name) != now[name]]
    said = "; ".join(_difference(name, before.get(name), now[name]) for name in different)
    instead = "Choose another --output-dir, or start over with --no-resume."
    if ADDED_LATER.issuperset(different):
        instead = _rescoring(stored, wanted, finished=finished)
    return RunError(f"{wanted.output_dir} holds a run with other settings: {said}.", instead)


def _difference(name: str, before: Any, now: Any) -> str:
    flag = flag_of(name)
    if not isinstance(before, list) or not isinstance(now, list):
        return f"{flag} was {before!r}, now {now!r}"
    added = [item for item in now if item not in before]
    gone = [item for item in before if item not in now]
    if not added and not gone:
        return f"{flag} has another order"
    parts = [
        f"{verb} {_several(items)}" for verb, items in (("adds", added), ("lacks", gone)) if items
    ]
    return f"{flag} {' and '.join(parts)}"


def _several(items: Sequence[Any]) -> str:
    more = f" and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ""
    return ", ".join(map(str, items[:MOST_NAMED])) + more


def _rescoring(stored: ScoreConfig, wanted: ScoreConfig, *, finished: bool) -> str:
    """Say how what is new comes into the run that is there, without sampling again."""
    folder = wanted.output_dir
    known = {methods.get(spec).spec for spec in stored.methods}
    read = {parse_any(spec).label for spec in stored.teachers}
    new = [
        *(("--method", spec) for spec in wanted.methods if methods.get(spec).spec not in known),
        *(("--teacher", spec) for spec in wanted.teachers if parse_any(spec).label not in read),
    ]
    new += [("--alignment", level) for level in wanted.alignment if level not in stored.alignment]
    if wanted.verifier is not None and wanted.verifier != stored.verifier:
        new.append(("--verifier", wanted.verifier))
    words = [word for pair in new for word in pair]
    for name in IN_WEIGHTS if "weights" in wanted.alignment else ():
        value = getattr(wanted, name)
        if value != getattr(stored, name) and value is not None:
            flag = flag_of(name)
            words += (
                [flag, value]
                if isinstance(value, str)
                else [flag if value else flag.replace("--", "--no-", 1)]
            )
    if not words:
        return (
            f"It has all that is asked for:\n  {shlex.join(['gradalign', 'show', folder])}\n"
            "For a run without the rest, choose another --output-dir."
        )
    add = shlex.join(["gradalign", "rescore", folder, *words])
    if finished:
        return f"To add to it without sampling again:\n  {add}"
    finish = command_to_go_on(folder)
    return f"Finish it first:\n  {finish}\nThen add to it without sampling again:\n  {add}"
