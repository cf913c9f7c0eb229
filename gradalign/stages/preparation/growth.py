"""A run that gets more questions: a larger `--limit`, everything else as it was."""

from __future__ import annotations

from dataclasses import asdict

from gradalign.config import ScoreConfig
from gradalign.errors import RunError
from gradalign.models.prompts.texts import whole_text
from gradalign.stages.base import Run
from gradalign.stages.preparation.identity import record_identity, without_prompts
from gradalign.stages.preparation.preflight import Checked, check
from gradalign.stages.preparation.workload import workload_of
from gradalign.store.folder import RunFolder
from gradalign.store.manifest import RunLog
from gradalign.store.output_file import remove_page
from gradalign.store.shard import StoredQuestions, question_to_json
from gradalign.store.table_builder import Rows


def with_old_limit(config: ScoreConfig, log: RunLog) -> ScoreConfig:
    """Return settings with the limit of the run that is there, if they only ask for more."""
    before = log.config["limit"]
    more = before is not None and (config.limit is None or config.limit > before)
    if not (log.prepared and more and not config.sample_ids):
        return config
    return config.model_copy(update={"limit": before})


def grows(config: ScoreConfig, log: RunLog, folder: RunFolder) -> bool:
    """Whether questions of these settings are not there yet."""
    return (
        with_old_limit(config, log) is not config
        or len(StoredQuestions(folder)) < log.data["num_questions"]
    )


def grow(config: ScoreConfig, log: RunLog, folder: RunFolder) -> None:
    """Add the questions that a larger limit brings, in new shards; what is there stays.

    Questions come in an order of the seed alone, so those of a smaller limit are the first ones.

    Args:
        config: the settings, those of the run but for a larger limit.
        log: the run's record.
        folder: its folder, whose lock the caller holds.

    Raises:
        RunError: the task does not begin with the run's questions any more, or the new ones leave
            less room for responses.
    """
    checked = check(config, log.resolved["clock"], controls=log.resolved["controls"])
    stored = [question_to_json(question) for question in StoredQuestions(folder)]
    now = [question_to_json(question) for question in checked.questions[: len(stored)]]
    if now != stored:
        raise RunError(
            f"{config.output_dir} cannot take more questions: the task {config.task} does not "
            f"begin with its {len(stored):,} any more.",
            "Choose another --output-dir.",
        )
    before = log.resolved
    if checked.resolved.max_tokens != before["max_tokens"]:
        raise RunError(
            f"{config.output_dir} cannot take more questions: the longest prompt leaves room for "
            f"{checked.resolved.max_tokens:,} tokens of response, the run was made with "
            f"{before['max_tokens']:,}.",
            "Choose another --output-dir with an explicit --max-tokens, or a smaller --limit.",
        )
    longest = max(before["max_model_len"], checked.resolved.max_model_len)
    log.data["resolved"]["max_model_len"] = longest
    log.data["config"] = config.model_dump(mode="json")
    log.data["workload"] = asdict(workload_of(checked))
    log.data["task"] = checked.task_record()
    log.data["num_questions"] = len(checked.questions)
    log.data["status"] = "running"
    for name in ("finished", "plan"):
        log.data.pop(name, None)
    # What the prompts of all questions come to is known again when all are there.
    log.data["fingerprints"] = without_prompts(log.data["fingerprints"])
    log.save()
    # From here on an interruption is made good by the next call: questions are missing.
    remove_page(folder)
    write_questions(Run(config, checked.resolved), checked, len(stored))
    record_identity(log, config, before["verifier"])
    log.save()


def write_questions(run: Run, checked: Checked, first: int = 0) -> None:
    """Write questions from the one with number `first` on, in shards after those that are there."""
    size, there = run.config.shard_size, len(run.shards()) if first else 0
    starts = range(first, len(checked.questions), size)
    for number, start in enumerate(starts, start=there):
        rows = Rows("questions")
        for question, ids in zip(
            checked.questions[start : start + size],
            checked.prompts[start : start + size],
            strict=True,
        ):
            rows.add(
                question_id=question.id,
                prompt=whole_text(checked.student.tokenizer, ids),
                prompt_ids=[ids],
                answer=question.answer,
                record=question_to_json(question),
            )
        run.folder.write_table("questions", f"shard-{number:05d}", rows.table_of())
