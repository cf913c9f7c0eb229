"""Starting a run, or taking one up: settings compared, questions and run.json written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from gradalign.config import ScoreConfig
from gradalign.engines import start_engine_ahead
from gradalign.errors import RunError
from gradalign.models.prompts.render import template_hash
from gradalign.stages.base import Resolved, Run
from gradalign.stages.preparation.growth import grow, grows, with_old_limit, write_questions
from gradalign.stages.preparation.identity import check_identity, model_files, record_identity
from gradalign.stages.preparation.preflight import Checked, check
from gradalign.stages.preparation.reader import Reader
from gradalign.stages.preparation.refusals import other_settings
from gradalign.stages.preparation.retake import (
    changed_rewards,
    only_sampled,
    retake,
    wants_retake,
)
from gradalign.stages.preparation.workload import workload_of
from gradalign.store.folder import RunFolder
from gradalign.store.manifest import RunLog, versions
from gradalign.store.output_file import remove_page


def prepare(
    config: ScoreConfig, *, resume: bool = True, remark: Callable[[str], None] | None = None
) -> tuple[Run, RunLog]:
    """Check a configuration against the world, and write questions and run.json.

    A folder that holds a run of the same configuration is taken up as it is, and gets further
    questions if only `limit` is larger now. One that has only sampled may get another verifier
    too: its responses stay. Starting over
    deletes the tables of the run that is there, and nothing else. The caller holds the folder's
    lock (`gradalign.store.lock`).

    Args:
        config: all settings.
        resume: False starts over.
        remark: takes sentences that the user should see.

    Raises:
        GradalignError: any of the things that can be known to go wrong before models run.
    """
    folder = RunFolder(config.output_dir)
    log = _find(config, folder, resume=resume)
    if log is not None and resume and log.prepared:
        folder.check_writable()
        if remark is not None and log.data["status"] != "done":
            _compare_versions(log, remark)
        if _retakes(config, folder, log):
            if remark is not None:
                remark(f"the responses in {config.output_dir} are kept and verified anew")
            return retake(config, folder, log)
        if grows(config, log, folder):
            grow(config, log, folder)
        return Run(config, Resolved(**log.resolved)), log
    run, log = _start(config, folder)
    if remark is not None and folder.foreign():
        remark(f"left as they are in {config.output_dir}: {', '.join(folder.foreign())}")
    return run, log


def check_only(config: ScoreConfig, *, resume: bool = True) -> Checked:
    """Make all the checks of `prepare`, and touch nothing.

    Raises:
        GradalignError: as `prepare` does.
    """
    folder = RunFolder(config.output_dir)
    _find(config, folder, resume=resume)
    checked = check(config)
    folder.check_creatable()
    return checked


def _find(config: ScoreConfig, folder: RunFolder, *, resume: bool) -> RunLog | None:
    """Return the record of the run that is there; it is one that may be written over.

    Raises:
        RunError: the folder holds something else, or a run that must not be gone on with.
    """
    if not folder.exists("run.json"):
        if folder.contents():
            raise _not_a_run(config)
        return None
    log = RunLog.load(folder)
    if resume and _retakes(config, folder, log):
        check_identity(config, log, ignore=changed_rewards(config, log))
    elif resume:
        _check_same(with_old_limit(config, log), log)
        if log.prepared:
            check_identity(config, log)
    return log


def _retakes(config: ScoreConfig, folder: RunFolder, log: RunLog) -> bool:
    """Whether the run's responses are to be verified anew for these settings."""
    return only_sampled(folder, log) and wants_retake(config, log, _different(config, log))


def _not_a_run(config: ScoreConfig) -> RunError:
    return RunError(
        f"{config.output_dir} is not empty and holds no run.",
        "Choose another --output-dir.",
    )


def _compare_versions(log: RunLog, remark: Callable[[str], None]) -> None:
    before, now = log.data["versions"], versions()
    changed = [
        f"{name} {before[name]} (now {now.get(name, 'not installed')})"
        for name in ("gradalign", "torch", "transformers", "vllm")
        if name in before and before[name] != now.get(name)
    ]
    if changed:
        remark(f"this run was begun with {', '.join(changed)}: its tables will be of both")


def model_record(checked: Checked, reader: Reader) -> dict[str, object]:
    """Return what run.json keeps of a model: its commit, its template, what its files hold."""
    return {
        "commit": reader.commit,
        "template": template_hash(reader.tokenizer, reader.template, reader.template_kwargs),
        "weights": list(checked.weights.get(reader.model, ())),
        "files": model_files(checked.config, reader.model),
    }


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
        task=checked.task_record(),
        models={reader.model: model_record(checked, reader) for reader in readers},
        fingerprints={},
    )
    log.data["prompt_notes"] = checked.notes
    log.data["workload"] = asdict(workload_of(checked))
    # By now run.json says that nothing is there yet.
    try:
        folder.remove_tables()
        remove_page(folder)
        write_questions(run, checked)
        record_identity(log, config, checked.resolved.verifier)
        log.finish_preparation(len(checked.questions))
    except BaseException as error:
        log.stop(error)
        raise
    return run, log


def _check_same(config: ScoreConfig, log: RunLog) -> None:
    """Refuse to mix two configurations in one folder."""
    stored = ScoreConfig.build({**log.config, "output_dir": config.output_dir})
    if stored.result_fields() != config.result_fields():
        raise other_settings(stored, config, finished=log.data["status"] == "done")


def _different(config: ScoreConfig, log: RunLog) -> list[str]:
    """Return the fields in which settings differ from a run's."""
    stored = ScoreConfig.build({**log.config, "output_dir": config.output_dir}).result_fields()
    wanted = config.result_fields()
    return [name for name in wanted if stored.get(name) != wanted[name]]
