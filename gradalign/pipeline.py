"""What the commands do: a run from its configuration to a report, a plan, more diagnostics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gradalign import diagnostics
from gradalign.analysis.summary import summarise
from gradalign.config import ScoreConfig
from gradalign.diagnostics.summary import summarise_diagnostics
from gradalign.errors import UsageError
from gradalign.executors import open_executor
from gradalign.methods import spelled_out
from gradalign.order import analysis_stages, stages
from gradalign.planning import Plan, expected, make_plan, prospect, record_actual, record_plan
from gradalign.planning.probe import probe
from gradalign.progress import Reporter, SilentReporter
from gradalign.report.report import Report
from gradalign.report.summary_notes import sampling_warning
from gradalign.report.unfinished import missing_stage, refuse_unfinished
from gradalign.stages.base import Resolved, Run
from gradalign.stages.ends import end_figures, outside_figures
from gradalign.stages.gate.keeper import pass_gate
from gradalign.stages.noise_floor import noise_floor, unknown_candidates
from gradalign.stages.preparation.identity import check_identity, model_names
from gradalign.stages.preparation.preflight import check
from gradalign.stages.preparation.start import check_only, prepare
from gradalign.stages.preparation.workload import workload_of
from gradalign.stages.sample import Sample
from gradalign.store.folder import RunFolder
from gradalign.store.lock import sole_writer
from gradalign.store.manifest import RunLog

CHECKING = "opening tokenizers, checking questions, prompts and models"


def score_config(
    config: ScoreConfig,
    *,
    resume: bool = True,
    reporter: Reporter | None = None,
    with_probe: bool = False,
) -> Report:
    """Do the main job: from a configuration to a finished report.

    Args:
        config: all settings.
        resume: take up what `output_dir` holds of the same configuration; False starts over.
        reporter: where progress goes; None for silence.
        with_probe: calibrate the plan in run.json by a probe.

    Raises:
        GateError: the sampled responses, or the first targeted rollouts, promise nothing.
        GradalignError: with what to do; finished shards are kept.
    """
    config = _spelled_out(config)
    with sole_writer(RunFolder(config.output_dir)):
        return run_held(config, resume=resume, reporter=reporter, with_probe=with_probe)


def _spelled_out(config: ScoreConfig) -> ScoreConfig:
    """Put methods in place of trainers' files."""
    return config.model_copy(update={"methods": spelled_out(config.methods)})


def run_held(
    config: ScoreConfig,
    *,
    resume: bool = True,
    reporter: Reporter | None = None,
    with_probe: bool = False,
) -> Report:
    """Do what `score_config` does in a folder whose lock the caller holds."""
    reporter = reporter or SilentReporter()
    reporter.activity(CHECKING)
    run, log = prepare(config, resume=resume, remark=reporter.remark)
    with _end_recorded(run, log):
        reporter.activity("planning")
        record_plan(run, log, reporter, with_probe=with_probe)
        for warning in [*run.resolved.warnings, *sampling_warning(config.model_dump())]:
            reporter.remark(warning)
        reporter.expect(expected(run, log.data["plan"].get("stages")), model_names(config))
        kept = run.student_engine.kept(prospect(run, log.data["plan"]))
        with kept, open_executor(config) as executor:
            for stage in stages(run):
                executor.run_stage(stage, run, log, reporter)
                if isinstance(stage, Sample):
                    pass_gate(run, log, reporter)
        reporter.activity("summary: intervals over questions")
        summarise(run, log)
        log.data["noise_floor"] = noise_floor(run)
        log.data["ends"] = end_figures(run)
        log.data["outside"] = outside_figures(run)
        log.data["totals"]["unknown_candidates"] = unknown_candidates(run)
        summarise_diagnostics(run, diagnostics.chosen(config.diagnose))
        record_actual(run, log)
        log.finish()
    return Report(config.output_dir)


@contextmanager
def _end_recorded(run: Run, log: RunLog) -> Iterator[None]:
    """Keep in run.json that the block did not get to its end, where it did not.

    A finished run that was only looked through again stays finished.
    """
    was_done = log.data["status"] == "done"
    if not was_done:
        log.resume()
    try:
        yield
    except BaseException as error:
        if not (was_done and missing_stage(run) is None):
            log.stop(error)
        raise
    finally:
        log.add_engine_starts(run.student_engine.taken_starts())


def plan_config(
    config: ScoreConfig,
    *,
    resume: bool = True,
    reporter: Reporter | None = None,
    with_probe: bool = False,
    check_folder: bool = True,
) -> Plan:
    """Make every check of a run and work out what it will cost; nothing is written.

    Args:
        config: all settings.
        resume: whether what `output_dir` holds must match, as for `score_config`.
        reporter: where progress of the probe goes; None for silence.
        with_probe: open the models and measure, instead of assuming.
        check_folder: whether `output_dir` is to be checked too.

    Raises:
        GradalignError: as the run itself would before its models run.
    """
    config = _spelled_out(config)
    reporter = reporter or SilentReporter()
    reporter.activity(CHECKING)
    checked = check_only(config, resume=resume) if check_folder else check(config)
    calibration = probe(config, checked.resolved, reporter) if with_probe else None
    folder, record = RunFolder(config.output_dir), None
    if check_folder and resume and folder.exists("run.json"):
        record = RunLog.load(folder).data
    return make_plan(config, checked.resolved, workload_of(checked), calibration, record=record)


def diagnose_run(
    path: str, names: Sequence[str] = (), *, reporter: Reporter | None = None
) -> Report:
    """Compute diagnostics that a finished run lacks, from what it holds.

    Args:
        path: the run's folder or fsspec URL.
        names: which; all of them if none are given, also the one that samples.
        reporter: where progress goes; None for silence.

    Raises:
        UsageError: an unknown name.
        RunError: no run is there, or one that is not finished.
    """
    asked = list(names) or ["all"]
    try:
        wanted = diagnostics.chosen(asked)
    except ValueError as error:
        raise UsageError(f"{error}.") from None
    reporter = reporter or SilentReporter()
    folder = RunFolder(path)
    RunLog.load(folder)  # a folder without a run is left without a lock, too
    with sole_writer(folder):
        return _diagnose_held(folder, asked, wanted, reporter)


def _diagnose_held(
    folder: RunFolder, asked: Sequence[str], wanted: Sequence[str], reporter: Reporter
) -> Report:
    path = folder.url
    log = RunLog.load(folder)
    refuse_unfinished(folder, log.data, held=True)
    config = ScoreConfig.build({**log.config, "output_dir": path, "diagnose": list(asked)})
    check_identity(config, log)
    run = Run(config, Resolved(**log.resolved))
    reporter.expect({}, model_names(config))
    with open_executor(config) as executor:
        for stage in analysis_stages(run, wanted):
            executor.run_stage(stage, run, log, reporter)
    summarise_diagnostics(run, wanted)
    return Report(path)
