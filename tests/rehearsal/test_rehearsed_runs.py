"""Whole rehearsals: in `score`, afterwards, resumed, and what they are read as."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from runs import SMALL

import gradalign
from gradalign.errors import RunError, UsageError
from gradalign.estimates import Arm
from gradalign.rehearsal.curves import LEAST_SHARE, MOST_OUTSIDE, curves_of, trusted_steps
from gradalign.report.terminal.answer import next_commands
from gradalign.stages.base import Resolved, Run
from gradalign_cli.main import main

REHEARSED = {
    **SMALL,
    "teachers": ["demo:strong"],
    "methods": ["gkd", "opd", "dr_grpo"],
    "control": False,
    "limit": 6,
    "nodes": 3,
    "shard_size": 3,
    "diagnose": ["none"],
    "rehearse": True,
    "rehearse_steps": [2, 8],
    "rehearse_step": "kl=0.001",
}


@pytest.fixture(scope="module")
def report(finished_runs):
    return finished_runs.get(**REHEARSED)


def test_every_arm_has_a_point_per_number_of_steps_from_all_questions(report):
    table = report.table("rehearsals")
    for (_, _, steps), own in table.groupby(["teacher", "method", "steps"]):
        assert steps in (2, 8)
        assert sorted(own["question_id"]) == sorted(report.question_ids)
    curves = report.rehearsal
    assert len(curves) == 2 * 3
    assert curves["gain_low"].notna().all()
    assert (curves["success_high"] > curves["success_low"]).all()
    assert (table["length"].nunique(), table["num_questions"].unique().tolist()) == (1, [6])


def test_a_step_has_the_divergence_that_was_asked_for(report):
    trials = report.table("rehearsal_trials").dropna()  # an arm may not move the student
    assert len(trials) >= 2
    assert (trials["divergence"] == 0.001).all()
    expected = (0.001 / (0.001 / trials["length"] ** 2).mean()) ** 0.5
    assert report.table("rehearsals")["length"].iloc[0] == pytest.approx(expected)


def test_it_can_be_added_to_a_finished_run_with_the_same_numbers(report, finished_runs, tmp_path):
    plain = {name: value for name, value in REHEARSED.items() if not name.startswith("rehearse")}
    copy = finished_runs.copy(tmp_path / "run", **plain, alignment=["weights"])
    assert copy.curves == {}
    assert copy.rehearsal.empty
    added = gradalign.rehearse(copy, steps=[8, 2], step="kl=0.001", display="none")
    pd.testing.assert_frame_equal(added.rehearsal, report.rehearsal)
    before = (tmp_path / "run" / "run.json").read_bytes()
    gradalign.rehearse(added, display="none")  # it is there
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    again = gradalign.rehearse(added, steps=[4], display="none")
    assert again.rehearsal["steps"].unique().tolist() == [4]
    assert len(again.table("rehearsal_trials")) == len(report.table("rehearsal_trials"))


def test_it_goes_on_where_it_was(report, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(report.path, folder)
    log = json.loads((folder / "run.json").read_text())
    first, *_ = sorted((folder / "rehearsals").iterdir())
    kept = pd.read_parquet(first)
    one = kept[kept["method"] == kept["method"].iloc[0]]
    assert len(one) < len(kept)
    from gradalign.store.folder import RunFolder

    table = RunFolder(str(folder)).read_table("rehearsals", first.stem)
    mask = (table["method"].to_pandas() == kept["method"].iloc[0]).to_numpy()
    RunFolder(str(folder)).write_table("rehearsals", first.stem, table.filter(mask))
    log["status"] = "running"
    (folder / "run.json").write_text(json.dumps(log))
    resumed = gradalign.score(**REHEARSED, output_dir=str(folder))
    pd.testing.assert_frame_equal(resumed.rehearsal, report.rehearsal)


def test_a_method_that_is_added_trains_with_the_length_of_the_others(report, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(report.path, folder)
    more = gradalign.rescore(str(folder), methods=["gkd:beta=0"], display="none")
    table = more.table("rehearsals")
    assert table["length"].nunique() == 1
    old = table[table["method"] != "gkd:beta=0"]
    assert len(table) == len(old) + 2 * 6
    # Nothing that was there is done again.
    assert len(old) == len(report.table("rehearsals"))


def test_steps_of_adamw_and_of_a_learning_rate(report, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(report.path, folder)
    length = float(report.table("rehearsals")["length"].iloc[0])
    given = gradalign.rehearse(str(folder), step=f"length={length!r}", display="none")
    pd.testing.assert_frame_equal(given.rehearsal, report.rehearsal)
    adamw = gradalign.rehearse(str(folder), step="adamw:kl=0.001", display="none").rehearsal
    assert adamw["first_order"].isna().all()
    assert 0 < adamw["divergence"].mean() < 5 * report.rehearsal["divergence"].mean()
    assert not np.allclose(adamw["gain"], report.rehearsal["gain"], atol=1e-4)


def test_the_verdict_goes_by_it_first(report):
    found = report.recommend()
    assert found.basis == "rehearsed"
    assert "rehearsed gain after 8 steps" in found.headline
    by_arm = report.rehearsal.query("steps == 8").set_index(["teacher", "method"])["gain"]
    for item in found.ranking:
        said = by_arm[item.teacher, item.method]
        trusted = report.curves[Arm(item.teacher, item.method)][-1].trusted
        assert item.value.value == pytest.approx(said if trusted else np.nan, nan_ok=True)
    assert found.ranking[0].value.known
    assert (
        any("keeps the values" in line for line in found.remarks)
        == (found.ranking[0].method == "dr_grpo")
        or found.ranking[0].role != "candidate"
    )


def rows(gains, ratios, outside=0.0, steps=(3, 6), moved=0.1):
    """A table of one arm whose questions all say the same at every number of steps."""
    return pd.DataFrame(
        [
            {
                "question_id": f"q{q}", "teacher": "t", "method": "opd", "steps": n,
                "first_order": 0.1, "gain": gain + 0.01 * q, "outside": outside,
                "divergence": 0.1, "ratios": np.array(ratio), "moved": moved, "training": 0.0,
            }
            for n, gain, ratio in zip(steps, gains, ratios, strict=True)
            for q in range(4)
        ]
    )  # fmt: skip


REWARD = pd.Series({f"q{q}": 0.5 for q in range(4)})


def test_trust_ends_once_and_says_why():
    lost = [1e-9, 1e-9, 1e-9, 1e-9, 1.0]  # a fifth is left
    assert 1 / len(lost) < LEAST_SHARE
    table = rows([0.1, 0.2, 0.3], [[1.0], lost, [1.0]], steps=(3, 6, 12))
    curves = curves_of(table, REWARD)
    points = curves[Arm("t", "opd")]
    assert [point.trusted for point in points] == [True, False, False]
    assert "effective sample size 20%" in points[1].why == points[2].why
    assert trusted_steps(curves, list(curves)) == 3
    assert points[0].success.value == pytest.approx(points[0].gain.value + 0.5)
    blind = curves_of(rows([0.1, 0.1], [[1.0]] * 2, outside=2 * MOST_OUTSIDE), REWARD)
    assert "blind" in blind[Arm("t", "opd")][0].why
    assert trusted_steps(blind, list(blind)) is None
    assert trusted_steps({}, []) is None


def test_an_arm_that_does_not_move_says_nothing_and_does_not_keep_others_from_it():
    still = rows([0.0, 0.0], [[1.0]] * 2, moved=0.0).assign(method="gkd")
    curves = curves_of(pd.concat([rows([0.1, 0.2], [[1.0]] * 2), still]), REWARD)
    moves, stays = Arm("t", "opd"), Arm("t", "gkd")
    assert all("share no update" in point.why for point in curves[stays])
    assert not any(point.trusted for point in curves[stays])
    assert trusted_steps(curves, [moves, stays]) == 6
    assert trusted_steps(curves, [stays]) is None


def test_a_run_with_an_arm_that_does_not_move_is_finished(finished_runs):
    settings = {**REHEARSED, "methods": ["opd", "uniform_negative"], "limit": 4}
    report = finished_runs.get(**settings)
    report.check_finished()
    trials = report.table("rehearsal_trials").set_index("method")
    assert np.isnan(trials.loc["uniform_negative", "length"])
    still = report.curves[Arm("", "uniform_negative")]
    assert [point.moves for point in still] == [False, False]


def test_an_interval_of_success_ends_at_0_and_at_1():
    wide = rows([0.0, 0.0], [[1.0]] * 2)
    wide["gain"] = [0.4, -0.6, 0.5, -0.5] * 2
    for point in curves_of(wide, REWARD)[Arm("t", "opd")]:
        assert (point.success.low, point.success.high) == (0.0, 1.0)
        assert point.gain.low < -0.5


def test_influences_are_those_of_a_mean():
    (point, *_) = curves_of(rows([0.1, 0.2], [[1.0]] * 2), REWARD)[Arm("t", "opd")]
    spread = np.sqrt(4 / 3 * (point.influence_Q**2).sum())
    assert point.gain.se == pytest.approx(spread)


def test_a_run_without_trust_falls_back_to_gain_per_step(report, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(report.path, folder)
    from gradalign.store.folder import RunFolder

    run = RunFolder(str(folder))
    for shard in run.files("rehearsals"):
        table = run.read_table("rehearsals", shard)
        at = table.schema.get_field_index("outside")
        import pyarrow as pa

        table = table.set_column(at, table.schema.field(at), pa.array([1.0] * len(table)))
        run.write_table("rehearsals", shard, table)
    found = gradalign.read_report(str(folder)).recommend()
    assert found.basis == "weights_gain_one"
    assert any("Rehearsal does not reach 8 steps" in line for line in found.remarks)


def test_the_answer_names_the_command_that_shows_the_curves(report, small_run):
    commands = dict(next_commands(report))
    assert commands["Step by step:"] == f"gradalign rehearse {report.path}"
    assert "Step by step:" not in dict(next_commands(small_run))


def test_the_command_prints_a_table_and_json(report, capsys):
    with pytest.raises(SystemExit) as done:
        main(["rehearse", report.path, "--display", "none"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert "Rehearsed gain of success" in text
    assert "8 steps" in text
    assert "A step: kl=0.001" in text
    with pytest.raises(SystemExit):
        main(["rehearse", report.path, "--display", "none", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["steps"] for row in rows} == {2, 8}


def test_bad_input_is_refused_before_any_work(tmp_path, report):
    with pytest.raises(UsageError, match="rehearse-step"):
        gradalign.score(**{**REHEARSED, "rehearse_step": "kl=x"}, output_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run" / "spines").exists()
    with pytest.raises(UsageError, match="rehearse-step"):
        gradalign.rehearse(report, step="adam:lr=1", display="none")
    with pytest.raises(RunError, match=r"run\.json"):
        gradalign.rehearse(tmp_path, display="none")
    with pytest.raises(UsageError, match="3 questions are too few"):
        gradalign.score(**{**REHEARSED, "limit": 3}, output_dir=str(tmp_path / "few"))
    assert not (tmp_path / "few" / "spines").exists()
    with pytest.raises(UsageError, match="rehearse-steps"):
        gradalign.ScoreConfig.build({**REHEARSED, "rehearse_steps": [0], "output_dir": "x"})


def test_the_plan_has_it(report):
    plan = gradalign.plan(**REHEARSED, output_dir=f"{report.path}-not", display="none")
    names = list(plan.stages)
    assert names[-2:] == ["step length", "rehearsal"]


def test_the_page_and_the_notebook_draw_it(report, tmp_path):
    from gradalign.report.measured import read_measured
    from gradalign.report.node_scores import arms_in
    from gradalign.report.page import write_page
    from gradalign.report.page.run_data import page_data

    table = tmp_path / "gains.csv"
    table.write_text(
        "teacher,method,steps,gain\ndemo:strong,opd,8,0.03\n,dr_grpo,8,0.02\nx,y,1,0\n"
    )
    measured = read_measured(str(table), arms_in(report.summary))
    assert len(measured) == 2
    data = page_data(report, 4, measured)
    assert [len(points) for points in data["curves"]] == [2] * len(data["arms"])
    assert {item[2] for item in data["measured"]} == {0.03, 0.02}
    assert write_page(report, str(tmp_path / "page.html"), measured=measured)
    assert 'id="rehearsal"' in (tmp_path / "page.html").read_text()
    figure = report.plot.rehearsal(measured)
    assert sum(trace.mode == "markers" for trace in figure.data) == 3
    table.write_text("teacher,method,gain\n")
    with pytest.raises(UsageError, match="no column 'steps'"):
        read_measured(str(table), arms_in(report.summary))
    table.write_text("teacher,method,steps,gain\nx,y,1,0\n")
    with pytest.raises(UsageError, match="no gain of a teacher"):
        read_measured(str(table), arms_in(report.summary))


def test_a_rehearsal_brings_the_weights_along(report):
    assert report.config.alignment == ["pooled", "weights"]
    assert Run(report.config, Resolved(**report.metadata["resolved"])).config.rehearse
