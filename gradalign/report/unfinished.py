"""A run that is not finished: how far it got, why it is not at its end, and how to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradalign.errors import GradalignError, RunError
from gradalign.report.format import visible
from gradalign.store.folder import RunFolder
from gradalign.store.lock import at_work
from gradalign.store.manifest import RunLog, command_to_go_on

if TYPE_CHECKING:
    from gradalign.stages.base import Run

UNFINISHED = ("preparing", "running", "interrupted", "failed")
"""What run.json says of a run that has work left; a torn one says nothing."""


@dataclass(frozen=True)
class MissingStage:
    """The first stage of a run that is not done.

    Attributes:
        name: of the stage.
        num_done: shards that are there.
        num_shards: shards of the run.
    """

    name: str
    num_done: int
    num_shards: int

    def __str__(self) -> str:
        shards = "shard" if self.num_shards == 1 else "shards"
        return f"stage {self.name!r} has {self.num_done} of {self.num_shards} {shards}"


def missing_stage(run: Run) -> MissingStage | None:
    """Return the first stage of a run that lacks a shard; None where every table is there.

    Args:
        run: a run whose questions have been written.

    Raises:
        GradalignError: a method, context or diagnostic of the run is not known here.
    """
    from gradalign.order import stages

    shards = run.shards()
    for stage in stages(run):
        num_done = sum(stage.done(run, shard) for shard in shards)
        if num_done < len(shards):
            return MissingStage(stage.name, num_done, len(shards))
    return None


def is_unfinished(folder: RunFolder, metadata: Mapping[str, Any]) -> bool:
    """Whether a run has work left, or has lost its result.

    Args:
        folder: its files.
        metadata: its run.json.
    """
    if metadata.get("status") in UNFINISHED:
        return True
    return not folder.exists("summary.parquet") and not folder.files("alignment")


def refuse_unfinished(
    folder: RunFolder, metadata: Mapping[str, Any], *, held: bool = False
) -> None:
    """Refuse a run that is not finished.

    Args:
        folder: its files.
        metadata: its run.json.
        held: the caller holds the folder's lock, so nobody else is at work there.

    Raises:
        RunError: it is not finished: what it lacks, why, and the command to go on.
    """
    if is_unfinished(folder, metadata):
        raise unfinished(folder, metadata, held=held)


def unfinished(folder: RunFolder, metadata: Mapping[str, Any], *, held: bool = False) -> RunError:
    """Return the refusal of a run that is not finished; see `refuse_unfinished`."""
    if "config" not in metadata or "resolved" not in metadata:
        return RunError(
            f"{folder.url} has no summary, and its run.json does not say how to make one.",
            "Restore run.json, or give the run's `gradalign score` command with --no-resume.",
        )
    who = None if held else at_work(folder)
    lacks = visible(_lacks(folder, metadata))
    if who is not None:
        return RunError(
            f"{folder.url} is not finished: {who}; {lacks}.", "Wait until it has ended."
        )
    return RunError(
        f"{folder.url} is not finished: {_why(metadata)}; {lacks}.",
        f"Go on with:\n  {command_to_go_on(folder.url)}",
    )


def _why(metadata: Mapping[str, Any]) -> str:
    status = metadata.get("status")
    if status == "interrupted":
        return "it was interrupted"
    if status == "failed":
        reason = visible(str(metadata.get("failure", ""))).rstrip(".")
        return f"it failed ({reason})" if reason else "it failed"
    return "its files are not complete" if status == "done" else "it was cut off"


def _lacks(folder: RunFolder, metadata: Mapping[str, Any]) -> str:
    """Say what a run lacks first."""
    from gradalign.config import ScoreConfig
    from gradalign.stages.base import Resolved, Run

    log = RunLog(folder, dict(metadata))
    if not log.prepared:
        return "its questions are not all written"
    try:
        config = ScoreConfig.build({**log.config, "output_dir": folder.url})
        missing = missing_stage(Run(config, Resolved(**log.resolved)))
    except GradalignError as error:  # such as a plugin that is not installed here
        return f"how far it got cannot be told ({error.message.rstrip('.')})"
    return "its summary is missing" if missing is None else str(missing)
