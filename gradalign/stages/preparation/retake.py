"""Taking up the responses of a run that has only sampled, under other settings of the rewards.

A run that the gate has stopped, or that was interrupted before its first targeted rollout, holds
responses that do not depend on the verifier, on the rows' answers, or on how many more questions
there are. They are kept where just these change; they are verified anew, and what was computed
from their rewards is made again.

It can be interrupted anywhere: until the end run.json says that it is under way, and the next
command does it again. Responses lie in `sampled` or in `spines`, and in no other place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from gradalign.config import ScoreConfig
from gradalign.errors import RunError
from gradalign.models.prompts.texts import whole_text
from gradalign.stages.base import Run
from gradalign.stages.preparation.identity import fingerprints, record_identity
from gradalign.stages.preparation.preflight import Checked, check
from gradalign.stages.preparation.workload import workload_of
from gradalign.store.folder import RunFolder
from gradalign.store.manifest import STOPPED, RunLog
from gradalign.store.schema import table_names
from gradalign.store.shard import question_to_json, read_questions
from gradalign.store.table_builder import Rows

MAY_CHANGE = ("verifier", "limit")
"""Settings that the responses do not depend on; a limit may only grow."""

UNDER_WAY = "retaking"
"""Status of a run that is being taken up under other settings."""

_REWARDS = ("code of verifier ", "task ", "code of task ")
"""What the names of such fingerprints begin with."""


def only_sampled(folder: RunFolder, log: RunLog) -> bool:
    """Whether a run has no targeted rollouts, or was stopped because they are worth nothing."""
    if not log.prepared or log.data["status"] == "done":
        return False
    return log.data["status"] == STOPPED or not folder.files("nodes")


def wants_retake(config: ScoreConfig, log: RunLog, different: Sequence[str]) -> bool:
    """Whether the stored responses are to be verified anew for these settings.

    Args:
        config: the new settings.
        log: the record of a run that has only sampled.
        different: fields in which they differ from the run's.
    """
    if set(different) - set(MAY_CHANGE):
        return False
    return log.data["status"] == UNDER_WAY or bool(different) or bool(changed_rewards(config, log))


def changed_rewards(config: ScoreConfig, log: RunLog) -> list[str]:
    """Return the names of changed fingerprints that rewards depend on, and responses do not."""
    before = log.data["fingerprints"]
    now = fingerprints(config, log.resolved["verifier"])
    return [
        name
        for name in now
        if name.startswith(_REWARDS) and name in before and now[name] != before[name]
    ]


def retake(config: ScoreConfig, folder: RunFolder, log: RunLog) -> tuple[Run, RunLog]:
    """Make the run one of the new settings, with the responses that it has.

    Raises:
        RunError: its questions are others now.
        GradalignError: as preparing a new run.
    """
    checked = checked_for(config, folder, log)
    log.data["status"] = UNDER_WAY
    log.save()
    stale = [name for name in table_names() if name not in ("questions", "spines", "sampled")]
    folder.remove_tables(stale)
    for shard in folder.files("spines"):
        if not folder.has_table("sampled", shard):
            _set_aside(folder, shard)
    folder.remove_tables(["spines"])
    sizes = _sizes(folder, log)
    _write_questions(folder, checked, sizes)
    log.data["config"] = config.model_dump(mode="json")
    log.data["resolved"] = asdict(checked.resolved)
    log.data["task"] = checked.task_record()
    log.data["prompt_notes"] = checked.notes
    log.data["workload"] = asdict(workload_of(checked))
    # Times of sampling stay; its counts are made again with the verdicts.
    sampling = log.data["stages"].get("sample")
    log.data["stages"] = {} if sampling is None else {"sample": {**sampling, "counts": {}}}
    for name in ("plan", "gate"):
        log.data.pop(name, None)
    record_identity(log, config, checked.resolved.verifier)
    log.finish_preparation(len(checked.questions))
    return Run(config, checked.resolved), log


def checked_for(config: ScoreConfig, folder: RunFolder, log: RunLog) -> Checked:
    """Make all checks of the new settings; their first questions must be those of the run.

    Raises:
        RunError: they are not.
    """
    # The responses have room as they are: a default that would come out shorter now must not.
    longest = config.model_copy(update={"max_tokens": log.resolved["max_tokens"]})
    checked = check(longest, log.resolved["clock"])
    number = int(log.data["num_questions"])
    stored = [
        (item.question.id, tuple(item.prompt_ids))
        for shard in folder.files("questions")
        for item in read_questions(folder, shard)
    ][:number]
    now = [
        (question.id, tuple(checked.prompts[place]))
        for place, question in enumerate(checked.questions[:number])
    ]
    if stored != now:
        raise RunError(
            f"{config.output_dir} holds responses to other questions than --task gives now"
            + (" (there are fewer of them)" if len(now) < len(stored) else "")
            + ".",
            "Choose another --output-dir, or start over with --no-resume.",
        )
    return checked


def _set_aside(folder: RunFolder, shard: str) -> None:
    spines = folder.read_table("spines", shard)
    rows = Rows("sampled")
    names = ("question_id", "spine_id", "token_ids", "finish_reason", "seed", "engine_logprobs")
    rows.add(len(spines), **{name: spines[name] for name in names})
    folder.write_table("sampled", shard, rows.table_of())


def _sizes(folder: RunFolder, log: RunLog) -> list[int]:
    """Return the numbers of questions of the shards that the run had."""
    sizes: list[int] = []
    for shard in folder.files("questions"):
        if sum(sizes) < int(log.data["num_questions"]):
            sizes.append(len(read_questions(folder, shard)))
    return sizes


def _write_questions(folder: RunFolder, checked: Checked, sizes: Iterable[int]) -> None:
    """Write the old shards with the rows as they are now, and the new questions behind them."""
    start = number = 0
    rest = list(sizes)
    while start < len(checked.questions):
        size = rest.pop(0) if rest else checked.config.shard_size
        rows = Rows("questions")
        for place in range(start, min(start + size, len(checked.questions))):
            question, ids = checked.questions[place], checked.prompts[place]
            rows.add(
                question_id=question.id,
                prompt=whole_text(checked.student.tokenizer, ids),
                prompt_ids=[ids],
                answer=question.answer,
                record=question_to_json(question),
            )
        folder.write_table("questions", f"shard-{number:05d}", rows.table_of())
        start, number = start + size, number + 1
    for shard in folder.files("questions")[number:]:
        folder.remove_table("questions", shard)  # of an attempt with more questions
