"""Starting a run, or taking one up: settings compared, questions and run.json written."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

from gradalign.config import ScoreConfig, flag_of
from gradalign.contexts import CONTEXTS, parse_teacher
from gradalign.contexts import get as get_context
from gradalign.errors import RunError
from gradalign.models.prompts import template_hash
from gradalign.models.texts import whole_text
from gradalign.report.folder import RunFolder
from gradalign.report.rows import Rows
from gradalign.rollouts import start_engine_ahead
from gradalign.runlog import RunLog
from gradalign.stages.base import Resolved, Run, read_template
from gradalign.stages.checks import Checked, check
from gradalign.stages.records import question_to_json
from gradalign.stages.workload import workload_of
from gradalign.tasks import load_task


def prepare(config: ScoreConfig, *, resume: bool = True) -> tuple[Run, RunLog]:
    """Check a configuration against the world, and write questions and run.json.

    A folder that holds a run of the same configuration is taken up as it is.

    Raises:
        GradalignError: any of the things that can be known to go wrong before models run.
    """
    folder = RunFolder(config.output_dir)
    if folder.exists("run.json"):
        if resume:
            log = RunLog.load(folder)
            _check_same(config, log)
            _check_unchanged(config, log)
            if log.prepared:
                folder.check_writable()
                return Run(config, Resolved(**log.resolved)), log
        folder.remove([name for name in folder.contents() if not name.startswith(".")])
    elif folder.contents():
        raise _not_a_run(config)
    return _start(config, folder)


def check_only(config: ScoreConfig, *, resume: bool = True) -> Checked:
    """Make all the checks of `prepare`, and leave no trace.

    Raises:
        GradalignError: as `prepare` does.
    """
    folder = RunFolder(config.output_dir)
    contents = folder.contents()
    if folder.exists("run.json"):
        if resume:
            log = RunLog.load(folder)
            _check_same(config, log)
            _check_unchanged(config, log)
    elif contents:
        raise _not_a_run(config)
    checked = check(config)
    folder.check_writable()
    if not contents:
        folder.remove([""])
    return checked


def _not_a_run(config: ScoreConfig) -> RunError:
    return RunError(
        f"{config.output_dir} is not empty and holds no run.",
        "Choose another --output-dir.",
    )


def _start(config: ScoreConfig, folder: RunFolder) -> tuple[Run, RunLog]:
    if config.executor == "local":
        start_engine_ahead(config.engine, config.base_urls, config.device)
    checked = check(config)
    folder.check_writable()
    run = Run(config, checked.resolved)
    readers = (*(teacher.reader for teacher in checked.teachers), checked.student)
    log = RunLog.create(
        folder,
        config,
        asdict(checked.resolved),
        task={"name": config.task, "fingerprint": checked.task.fingerprint},
        models={
            reader.model: {
                "commit": reader.commit,
                "template": template_hash(
                    reader.tokenizer, reader.template, reader.template_kwargs
                ),
                "weights": list(checked.weights.get(reader.model, ())),
            }
            for reader in readers
        },
        fingerprints=fingerprints(config),
    )
    log.data["prompt_notes"] = checked.notes
    log.data["workload"] = asdict(workload_of(checked))
    _write_questions(run, checked)
    log.finish_preparation(len(checked.questions))
    return run, log


def _write_questions(run: Run, checked: Checked) -> None:
    size = run.config.shard_size
    for start in range(0, len(checked.questions), size):
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
        run.folder.write_table("questions", f"shard-{start // size:05d}", rows.table_of())


def _check_same(config: ScoreConfig, log: RunLog) -> None:
    """Refuse to mix two configurations in one folder."""
    stored = ScoreConfig.build({**log.config, "output_dir": config.output_dir}).result_fields()
    wanted = config.result_fields()
    different = [name for name in wanted if stored.get(name) != wanted[name]]
    if different:
        raise RunError(
            f"{config.output_dir} holds a run with other settings: "
            + "; ".join(
                f"{flag_of(name)} was {stored.get(name)!r}, now {wanted[name]!r}"
                for name in different
            )
            + ".",
            "Choose another --output-dir, or start over with --no-resume.",
        )


def fingerprints(config: ScoreConfig) -> dict[str, str]:
    """Identify what the settings only name: files of questions, of contexts, of templates."""
    found = {}
    for spec in config.teachers:
        name = parse_teacher(spec).context
        if name.partition(":")[0] in CONTEXTS:
            found[f"context {name}"] = get_context(name, ()).fingerprint
    for teacher in (False, True):
        template = read_template(config, teacher=teacher)
        if template is not None:
            role = "teachers'" if teacher else "student's"
            found[f"{role} chat template"] = hashlib.sha256(template.encode()).hexdigest()
    if Path(config.task).is_file():
        found[f"task {config.task}"] = load_task(config.task, verifier=config.verifier).fingerprint
    return found


def _check_unchanged(config: ScoreConfig, log: RunLog) -> None:
    """Refuse to go on with a run whose files have changed since.

    Raises:
        RunError: a question file, a context's text or a chat template is not what it was.
    """
    for name, now in fingerprints(config).items():
        before = log.data.get("fingerprints", {}).get(name)
        if before is not None and before != now:
            raise RunError(
                f"{config.output_dir} holds a run from before the {name} was changed.",
                "Choose another --output-dir, or start over with --no-resume.",
            )
