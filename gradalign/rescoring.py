"""A new method, teacher or verifier on a finished run's rollouts: nothing is sampled again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.compute as pc

from gradalign import diagnostics
from gradalign import methods as catalogue
from gradalign.config import ScoreConfig
from gradalign.contexts import parse_any
from gradalign.errors import RunError, UsageError
from gradalign.models.event_space import EventSpace
from gradalign.pipeline import run_held
from gradalign.progress import Reporter
from gradalign.report.report import Report
from gradalign.report.unfinished import refuse_unfinished
from gradalign.stages.base import Resolved, Run
from gradalign.stages.branch.reverify import keep_verdicts
from gradalign.stages.distributions import tempering
from gradalign.stages.preparation.identity import check_identity, record_identity, verifier_code
from gradalign.stages.preparation.preflight import Checked, check
from gradalign.stages.preparation.start import model_record
from gradalign.stages.preparation.workload import workload_of
from gradalign.store.folder import RunFolder
from gradalign.store.lock import sole_writer
from gradalign.store.manifest import RunLog
from gradalign.store.schema import table_names

SAMPLED = (
    "questions",
    "spines",
    "positions",
    "common_positions",
    "continuations",
    "passes",
    "nodes",
    "branches",
    "hidden",
    "gradients",
    "ideal_updates",
    "derivatives",
    "steps",
    "rehearsal_trials",
    "rehearsals",
)
"""What rollouts made, and the student's own passes: kept whatever is added."""

IN_WEIGHTS = ("gradients", "ideal_updates", "derivatives")
"""What passes in the space of the weights made; without one of them the others are made anew."""

REHEARSED = ("rehearsal_trials", "rehearsals")
"""What a rehearsal made."""

PER_TEACHER = (
    "supports",
    "matches",
    "distributions",
    "tokens",
    "continuation_scores",
    "teacher_answers",
    "answer_gradients",
    "diagnostics_prefix",
)
"""What each teacher said: kept, unless a new method needs more of it."""


def rescore_run(
    path: str,
    *,
    methods: Sequence[str] = (),
    teachers: Sequence[str] = (),
    alignment: Sequence[str] = (),
    weights_space: str | None = None,
    weights_adamw: str | None = None,
    weights_quarters: bool | None = None,
    rehearsal: Mapping[str, Any] | None = None,
    verifier: str | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Add methods and teachers to a finished run, or change its verifier, from its stored rollouts.

    A new method repeats `align` and what follows; where it looks at continuations or at another
    temperature than the run stored, the models read the stored texts again. A new teacher reads
    the responses, and the continuations where a method needs that. Candidates stay those of the
    run: a token that only the new teacher likes was never forced, which `norm_on_support` shows.
    A verifier judges the stored responses and continuations anew, and values and all that follows
    from them are computed without a model; what it was before stays in the table `verdicts`.
    The run becomes one of the new settings, and is resumed as such if this is interrupted.

    Args:
        path: the run's folder or URL.
        methods: method specs to add.
        teachers: MODEL, MODEL+CONTEXT or delta:A,B to add; a difference costs no pass.
        alignment: `weights`, to add to what the run has.
        weights_space: of `weights`; the run's own setting by default, as for the next two.
        weights_adamw: of `weights`: `first`, or the file of an optimizer.
        weights_quarters: of `weights`: whether to take it by quarters of the responses too.
        rehearsal: settings of a rehearsal that is to be added or changed, by their names.
        verifier: the verifier to judge with; also the run's own, once more.
        reporter: where progress goes; None for silence.

    Raises:
        UsageError: nothing new is asked for, or a name is unknown.
        RunError: the run is not finished; or a teacher of it was shown attempts that the former
            verifier chose.
    """
    folder = RunFolder(path)
    RunLog.load(folder)  # a folder without a run is left without a lock, too
    with sole_writer(folder):
        settings = {
            "weights_space": weights_space,
            "weights_adamw": weights_adamw,
            "weights_quarters": weights_quarters,
            **(rehearsal or {}),
        }
        return _rescore_held(folder, methods, teachers, alignment, settings, verifier, reporter)


def _rescore_held(
    folder: RunFolder,
    methods: Sequence[str],
    teachers: Sequence[str],
    alignment: Sequence[str],
    settings: Mapping[str, Any],
    verifier: str | None,
    reporter: Reporter | None,
) -> Report:
    path = folder.url
    log = RunLog.load(folder)
    refuse_unfinished(folder, log.data, held=True)
    before = ScoreConfig.build({**log.config, "output_dir": path})
    check_identity(
        before, log, ignore=[] if verifier is None else [verifier_code(log.resolved["verifier"])]
    )
    methods = catalogue.spelled_out(methods)
    known = {catalogue.get(spec).spec for spec in before.methods}
    new_methods = [spec for spec in methods if catalogue.get(spec).spec not in known]
    scored = {item.label for item in Run(before, Resolved(**log.resolved)).teachers}
    new_teachers = [spec for spec in teachers if parse_any(spec).label not in scored]
    wanted = [*before.alignment, *alignment]
    changed = {
        name: value
        for name, value in settings.items()
        if value is not None and value != getattr(before, name)
    }
    rehearses = bool(changed.get("rehearse", before.rehearse))
    if rehearses:
        wanted.append("weights")
    new_levels = not set(wanted) <= set(before.alignment)
    new_levels |= "weights" in wanted and bool(changed)
    if verifier is None and not (new_methods or new_teachers or new_levels):
        if rehearses and settings.get("rehearse"):
            return Report(path)  # it is there
        raise UsageError(
            "nothing new to score.",
            "Give a --method, --teacher or --alignment that it lacks, or a --verifier.",
        )
    after = ScoreConfig.build(
        {
            **log.config,
            "output_dir": path,
            "methods": [*before.methods, *new_methods],
            "teachers": [*before.teachers, *new_teachers],
            "alignment": wanted,
            **changed,
            **({} if verifier is None else _of_verifier(before, verifier)),
        }
    )
    resolved = Resolved(**log.resolved)
    checked = check(
        after.model_copy(update={"max_tokens": _longest(folder)}),
        resolved.clock,
        controls=resolved.controls,
    )
    stale = []
    if new_methods or new_teachers or verifier is not None:
        kept = (*SAMPLED, *PER_TEACHER, "verdicts", "summary")
        stale = [name for name in table_names() if name not in kept]
    if tempering(Run(before, resolved)) != tempering(Run(after, resolved)):
        # The tails were stored at the temperatures of the methods then: read them again.
        stale += ["supports", "matches", "distributions", "tokens"]
    if verifier is not None:
        stale += _judged_anew(Run(before, resolved), reporter)
        # From here on rollouts are not sampled again, whatever else is cut off.
        log.data["resolved"]["allocated_by"] = resolved.allocated_by or resolved.verifier
        log.save()
    # First what would be wrong under the new settings, then the settings: if this is cut off
    # in between, the old settings make the old result again.
    if verifier is not None or "weights_space" in changed:
        stale += [*IN_WEIGHTS, *REHEARSED, "steps", "answer_gradients", "alignment"]
    elif "weights" in wanted and "weights" not in before.alignment:
        stale.append("alignment")  # it has a column of these
    if "weights_quarters" in changed:
        stale += IN_WEIGHTS
    if "weights_adamw" in changed:
        stale += ["steps", *REHEARSED]
    if changed.keys() & {"rehearse_step", "rehearse_responses", "rehearse_self"}:
        stale += REHEARSED
    if "rehearse_steps" in changed:
        stale.append("rehearsals")
    folder.remove_tables(stale)
    if verifier is not None:
        log.data["resolved"]["verifier"] = checked.resolved.verifier
        log.data["task"]["fingerprint"] = checked.task.fingerprint
    _record(log, after, checked)
    return run_held(after, reporter=reporter)


def _of_verifier(before: ScoreConfig, verifier: str) -> dict[str, Any]:
    """Return the settings that another verifier changes: what samples is not done again."""
    names = diagnostics.chosen(before.diagnose)
    left = [name for name in names if name != "prefix"]
    changed = {} if left == list(names) else {"diagnose": left or ["none"]}
    return {"verifier": verifier, "teacher_accuracy": 0, **changed}


def _judged_anew(run: Run, reporter: Reporter | None) -> list[str]:
    """Keep a run's verdicts; return the tables that another verifier makes wrong.

    Raises:
        RunError: what a teacher was shown depends on the verdicts.
    """
    shown = [t.label for t in run.read_teachers if run.prompt_differs_by_spine(t.label)]
    if shown:
        raise RunError(
            f"{', '.join(shown)} read attempts that were chosen by the run's verifier, "
            f"{run.resolved.verifier}.",
            "Score anew with --verifier and another --output-dir, or without these teachers.",
        )
    for shard in run.shards():
        keep_verdicts(run.folder, shard, run.resolved.verifier)
    if run.folder.files("diagnostics_prefix") and reporter is not None:
        reporter.remark(
            "the diagnostic prefix sampled under the former verifier and kept no text: it is "
            f"removed; `gradalign diagnose {run.folder.url} prefix` samples again"
        )
    if run.folder.files("teacher_answers") and reporter is not None:
        reporter.remark(
            "teachers' own answers were judged by the former verifier: they are removed; "
            f"`gradalign score --config {run.folder.url}/run.json --teacher-accuracy N` asks again"
        )
    # `branches` and `nodes`: with them a shard counts as judged.
    return [
        "passes",
        "branches",
        "nodes",
        "teacher_answers",
        "answer_gradients",
        "diagnostics_prefix",
    ]


def _longest(folder: RunFolder) -> int:
    """Return the length of the longest stored response: what a new teacher must have room for."""
    longest = 1
    for shard in folder.files("spines"):
        spines = folder.read_table("spines", shard)["num_tokens"].to_numpy()
        made = folder.read_table("continuations", shard)
        forced_at = made["position"].to_numpy().astype(np.int64)
        after = pc.list_value_length(made["token_ids"]).to_numpy().astype(np.int64)
        longest = max(
            longest, int(spines.max(initial=0)), int((forced_at + 1 + after).max(initial=0))
        )
    return longest


def _common_tokens(log: RunLog, checked: Checked) -> dict[str, list[list[int]]]:
    """Return the tokens that each teacher's checkpoint has of those the run was made on."""
    resolved = Resolved(**log.resolved)
    own = Run(checked.config, resolved).tokens
    return {
        model: [list(pair) for pair in own.common(EventSpace.stored(ranges)).ranges]
        for model, ranges in checked.resolved.common_token_ranges.items()
        if model not in resolved.common_token_ranges and model != checked.config.student
    }


def _record(log: RunLog, config: ScoreConfig, checked: Checked) -> None:
    """Make run.json that of a run of these settings, which has work left."""
    for teacher in checked.teachers:
        reader = teacher.reader
        if reader.model not in log.data["models"]:
            log.data["models"][reader.model] = model_record(checked, reader)
            if reader.commit is not None:
                log.data["resolved"].setdefault("commits", {})[reader.model] = reader.commit
    record_identity(log, config, log.resolved["verifier"])
    log.data["prompt_notes"] = checked.notes
    log.data["workload"] = asdict(workload_of(checked))
    # The student's own tokens stay those that it was sampled and read on.
    log.data["resolved"]["common_token_ranges"].update(_common_tokens(log, checked))
    log.data["resolved"].setdefault("matching", {}).update(checked.resolved.matching)
    log.data["resolved"]["warnings"] = list(checked.resolved.warnings)
    log.data["config"] = config.model_dump(mode="json")
    log.data["status"] = "running"
    log.data.pop("finished", None)
    log.save()
