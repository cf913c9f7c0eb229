"""Ends of responses: there must be one, and a teacher that ends otherwise is said to."""

from __future__ import annotations

import pytest
import torch

import gradalign
from gradalign.report.summary_notes import end_remarks
from gradalign.stages.ends import end_warning
from gradalign_cli.main import main
from tests.models.altered import bundled_copy, edit_json, edited_weights

SETTINGS = {
    "task": "demo:addition",
    "limit": 2,
    "num_rollouts": 1,
    "nodes": 40,
    "continuations": 2,
    "max_tokens": 60,
    "methods": ["gkd:beta=0"],
    "diagnose": ["none"],
    "bootstrap_resamples": 100,
}

END, OTHER = 2, 1


def without_end(folder):
    """A copy of the student of which no file names an end token."""
    bundled_copy(folder, "student")
    edit_json(folder / "tokenizer_config.json", drop=("eos_token",))
    edit_json(folder / "config.json", eos_token_id=None)
    edit_json(folder / "generation_config.json", drop=("eos_token_id",))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace(" + eos_token", ""))
    return folder


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["plan", "--teacher", "demo:strong", "--task", "demo:addition", *arguments])
    said = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 2
    assert "Traceback" not in said
    assert "--stop-token-id" in said
    return said


def test_a_student_that_nothing_can_end_is_refused(tmp_path, capsys):
    folder = str(without_end(tmp_path / "endless"))
    said = refused(capsys, "--student", folder, "--limit", "2")
    assert f"nothing says which token ends a response of {folder}" in said
    plan = gradalign.plan(
        student=folder, teachers=["demo:strong"], stop_token_ids=[END], **SETTINGS
    )
    assert plan.figures.questions == 2


def test_an_end_that_cannot_be_drawn_is_refused(tmp_path, capsys):
    folder = without_end(tmp_path / "beyond")
    edit_json(folder / "generation_config.json", eos_token_id=[259, 300])
    said = refused(capsys, "--student", str(folder), "--limit", "2")
    assert "cannot end a response" in said
    assert "259, 300" in said
    said = refused(capsys, "--student", "demo:student", "--stop-token-id", "259", "--limit", "2")
    assert "259" in said


def test_of_several_ends_those_that_can_be_drawn_count(tmp_path):
    folder = bundled_copy(tmp_path / "both", "student")
    edit_json(folder / "generation_config.json", eos_token_id=[END, 300])
    report = gradalign.score(
        student=str(folder),
        teachers=["demo:strong"],
        output_dir=str(tmp_path / "run"),
        **{**SETTINGS, "nodes": 1},
    )
    assert report.metadata["resolved"]["stop_token_ids"] == [END]


def swap_ends(weights: dict[str, torch.Tensor]) -> None:
    table = weights["model.embed_tokens.weight"].clone()
    table[[END, OTHER]] = table[[OTHER, END]]
    weights["model.embed_tokens.weight"] = table


@pytest.fixture(scope="module")
def run_with_another_end(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ends")
    teacher = edited_weights(folder / "teacher", "strong", swap_ends)
    edit_json(teacher / "generation_config.json", eos_token_id=OTHER)
    report = gradalign.score(
        student="demo:student",
        teachers=["demo:strong", str(teacher)],
        output_dir=str(folder / "run"),
        **SETTINGS,
    )
    return report, str(teacher)


def test_a_teacher_that_ends_otherwise_is_named_before_and_after(run_with_another_end, capsys):
    report, teacher = run_with_another_end
    lines = report.footer()
    (before,) = [line for line in lines if f"teacher {teacher} ends its responses with" in line]
    assert "(id 1), the student with" in before
    assert before in gradalign.plan(**report.metadata["config"]).assumptions
    (after,) = [line for line in lines if "next to nothing" in line]
    assert f"teacher {teacher} gives the student's end token next to nothing at every end" in after
    assert "(student 1.00, teacher below 0.0001)" in after
    assert not any("demo:strong" in line for line in (before, after))
    assert after in report.recommend().remarks
    with pytest.raises(SystemExit) as stop:
        main(["recommend", report.path])
    assert stop.value.code == 0
    assert "next to nothing at every end" in " ".join(capsys.readouterr().out.split())


def test_the_figures_follow_from_the_tables(run_with_another_end):
    report, teacher = run_with_another_end
    ended = report.spines.query("finish_reason == 'stop'")["spine_id"]
    last = report.tokens.groupby(["teacher", "spine_id"], observed=True).tail(1)
    q = last[last["spine_id"].isin(ended)].set_index("teacher")["teacher_logprob"]
    ends = report.metadata["ends"]
    assert ends[teacher]["ends"] == ends[teacher]["missed"] == len(ended) > 0
    assert ends["demo:strong"]["missed"] == 0
    assert q.loc[[teacher]].max() < -9.2
    assert q.loc[["demo:strong"]].min() > -0.1
    # Most of what this teacher wants at the ends is not among the candidates.
    rows = report.alignment.assign(
        total=lambda row: row["method_norm2"] * row["weight"],
        inside=lambda row: row["norm_on_support"] * row["method_norm2"] * row["weight"],
    )
    sums = rows.groupby("teacher", observed=True)[["total", "inside"]].sum()
    for label, share in ((t, report.metadata["outside"][t]["gkd:beta=0"]) for t in sums.index):
        assert share == pytest.approx(1 - sums.loc[label, "inside"] / sums.loc[label, "total"])
    assert report.metadata["outside"][teacher]["gkd:beta=0"] > 0.3
    assert f"{report.metadata['outside'][teacher]['gkd:beta=0']:.0%} of the squared" in " ".join(
        end_remarks(report.metadata)
    )


def test_a_shared_end_needs_no_word():
    assert end_warning("t", [2, 5], [5], {}) == []
    assert end_warning("t", [], [5], {}) == []
    assert len(end_warning("t", [2], [5], {2: "a", 5: "b"})) == 1


def test_much_that_lies_outside_the_candidates_is_said():
    few = {"outside": {"t": {"gkd": 0.2}}, "ends": {}}
    assert end_remarks(few) == []
    (line,) = end_remarks({"outside": {"t": {"gkd": 0.2, "opd": 0.8}}})
    assert line.startswith("80% of the squared direction of opd of t")
