"""Holds a run's responses against the gate: looks, says what it found, and stops the run."""

from __future__ import annotations

from collections.abc import Sequence

from gradalign.errors import GateError
from gradalign.progress import Reporter
from gradalign.stages.base import Run
from gradalign.stages.gate.counts import (
    Sampled,
    count,
    examples,
    look_for_ends,
    read_again,
    read_sampled,
    try_others,
)
from gradalign.stages.gate.judging import Counts, Judgement, Thresholds, judge
from gradalign.store.manifest import RunLog

FEW = 8
"""Of fewer responses nothing is said: they are easily all right, or all wrong."""

KEPT = (
    "The responses are kept: the same command with another --verifier, a larger --limit or mended "
    "answers uses them. --go-on goes on as it is."
)


def pass_gate(run: Run, log: RunLog, reporter: Reporter) -> None:
    """Judge the sampled responses of a run before anything dear is done.

    A run whose targeted rollouts have begun has passed already.

    Raises:
        GateError: they promise nothing, and the settings do not say to go on all the same.
    """
    if run.folder.files("nodes"):
        return
    if run.folder.files("sampled"):  # all of them are verified by now
        run.folder.remove_tables(["sampled"])
    sampled = read_sampled(run)
    judgement = look(run, sampled, reporter)
    stops = judgement.stops and not run.config.go_on
    log.data["gate"] = {**judgement.as_dict(), "went_on": not stops}
    if stops:
        raise gate_error(judgement, sampled)
    log.data["status"] = "running"
    log.save()
    for line in warnings_of(judgement):
        reporter.remark(line)


def look(run: Run, sampled: Sequence[Sampled], reporter: Reporter | None = None) -> Judgement:
    """Judge responses; what costs a verifier or a model is done only where something is wrong."""
    thresholds = Thresholds.of(run.config)
    counts = count(run, sampled)
    first = judge(counts, thresholds)
    if not first.stops:
        return first
    if reporter is not None:
        reporter.activity("looking for the cause")
    return judge(_look_closer(run, counts, sampled, first), thresholds)


def _look_closer(run: Run, counts: Counts, sampled: Sequence[Sampled], first: Judgement) -> Counts:
    kinds = {finding.kind for finding in first.findings}
    if "cut off" in kinds:
        counts = look_for_ends(run, counts, sampled)
    if kinds & {"none right", "read otherwise"}:
        counts = read_again(run, counts, sampled)
    if "all right" in kinds:
        counts = try_others(run, counts, sampled)
    return counts


def gate_error(judgement: Judgement, sampled: Sequence[Sampled]) -> GateError:
    """Put what was found into an error: the likeliest cause, three responses, what to do."""
    first, *others = judgement.findings
    lines = [f"Likeliest cause: {first.cause}.", first.mend]
    lines += [f"Also: {other.what}: {other.cause}. {other.mend}" for other in others]
    return GateError(
        f"stopped after sampling, before any targeted rollout: {first.what}.",
        KEPT,
        [*lines, *examples(sampled)],
    )


def warnings_of(judgement: Judgement) -> list[str]:
    """Return what is to be minded of responses that are gone on with, a sentence each."""
    if judgement.counts.responses < FEW:
        return []
    few = "" if judgement.judged else f"of only {judgement.counts.responses} responses: "
    return [
        f"warning: {few}{finding.what}: {finding.cause}. {finding.mend}"
        for finding in judgement.findings
    ]


def few_words(run: Run, sampled: Sequence[Sampled]) -> list[str]:
    """Return what the gate would say of a few responses, such as those of a probe."""
    thresholds = Thresholds.of(run.config)
    judgement = judge(count(run, sampled), thresholds)
    if judgement.findings:
        judgement = judge(_look_closer(run, judgement.counts, sampled, judgement), thresholds)
    return warnings_of(judgement)
