"""The result as a table and a figure in a file, and colours that are the same everywhere."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from gradalign.errors import RunError, UsageError
from gradalign.report.arms import (
    COLOURS,
    NO_TEACHER_COLOUR,
    arm_names,
    best_arm,
    ranked,
    teacher_colours,
)
from gradalign.report.format import interval
from gradalign.report.page.run_data import page_data
from gradalign.report.paper import main_figure, table_text, write_figure, write_table
from gradalign.report.terminal.answer import summary_table
from gradalign.report.terminal.tables import Section
from gradalign_cli.main import main
from tests.requires import needs

needs("plotly", "matplotlib", "tabulate")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_candidates_come_first_then_controls_and_references(ample_run):
    rows = ranked(ample_run.summary)
    assert list(dict.fromkeys(rows["role"])) == ["candidate", "control", "reference"]
    for _, part in rows.groupby("role"):
        assert list(part["pooled"]) == sorted(part["pooled"], reverse=True)
    best = best_arm(ample_run.summary)
    assert (rows["teacher"].iloc[0], rows["method"].iloc[0]) == (best.teacher, best.method)
    with pytest.raises(UsageError, match="no split 'nowhere'"):
        ranked(ample_run.summary, "nowhere")


def luminance(colour: str) -> float:
    values = np.array(list(bytes.fromhex(colour.removeprefix("#")))) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("ground", ["#ffffff", "#1b212b", "#000000"])
def test_marks_stand_out_from_paper_dark_pages_and_terminals(ground):
    """WCAG asks for 3 to 1 of what is no text."""
    for colour in (*COLOURS, NO_TEACHER_COLOUR):
        light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3


def test_a_teacher_has_one_colour_in_page_notebook_terminal_and_file(ample_run):
    wanted = teacher_colours(ample_run.summary["teacher"])
    assert len(set(wanted.values())) == len(wanted)
    page = page_data(ample_run, 1)["teachers"]
    assert {name: about["colour"] for name, about in page.items()} == wanted
    for figure in (
        ample_run.plot.methods(), ample_run.plot.positions(), ample_run.plot.entropy("opd")
    ):  # fmt: skip
        for trace in figure.data:
            name = trace.name.replace(" (control)", "").replace("(no teacher)", "")
            assert (trace.marker.color or trace.line.color) == wanted[name]
    sections = [row for row in summary_table(ample_run).rows if isinstance(row, Section)]
    styles = {row.title.removesuffix(" (control)"): row.style for row in sections if row.style}
    assert styles == {name: colour for name, colour in wanted.items() if name}
    drawn = {
        handle.get_label().removesuffix(" (control)"): handle.get_color()
        for handle in main_figure(ample_run).legends[0].legend_handles
    }
    assert drawn == styles


def test_the_notebook_figure_has_names_zero_and_order(ample_run):
    figure = ample_run.plot.methods()
    rows = ranked(ample_run.summary)
    assert list(figure.layout.yaxis.categoryarray) == arm_names(rows)
    assert figure.layout.xaxis.rangemode == "tozero"
    assert figure.layout.legend.yanchor == "bottom"
    assert figure.layout.legend.y >= 1
    at = {name: x for trace in figure.data for name, x in zip(trace.y, trace.x, strict=True)}
    assert at == dict(zip(arm_names(rows), rows["pooled"], strict=True))


def test_the_csv_table_has_the_numbers(ample_run):
    table = pd.read_csv(io.StringIO(table_text(ample_run, "csv")), keep_default_na=False)
    rows = ranked(ample_run.summary)
    assert list(table["teacher"]) == list(rows["teacher"])
    for name in ("pooled", "pooled_low", "mean_cosine", "num_nodes"):
        np.testing.assert_allclose(table[name], rows[name])
    correct = ample_run.summary.query("split == 'correct'").set_index(["teacher", "method"])
    known = correct["pooled"].reindex(pd.MultiIndex.from_frame(table[["teacher", "method"]]))
    np.testing.assert_allclose(pd.to_numeric(table["correct"]), known.to_numpy())


@pytest.mark.parametrize("table_format", ["md", "latex"])
def test_texts_of_a_table(ample_run, table_format):
    text = table_text(ample_run, table_format)
    rows = ranked(ample_run.summary)
    lines = [line for line in text.splitlines() if re.search(r"candidate|control|reference", line)]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows.to_dict("records"), strict=True):
        assert row["teacher"] in line
        assert interval(row["pooled"], row["pooled_low"], row["pooled_high"]) in line


def test_a_bar_in_a_name_does_not_part_a_cell(ample_run, monkeypatch):
    summary = ample_run.summary.assign(teacher="a|b_c")
    monkeypatch.setattr(ample_run, "summary", summary)
    assert r"a\|b_c" in table_text(ample_run, "md")
    assert r"a|b\_c" in table_text(ample_run, "latex")


def test_the_figure_holds_the_numbers_and_is_the_same_each_time(ample_run, tmp_path):
    axes = main_figure(ample_run).axes[0]
    rows = ranked(ample_run.summary).query("role != 'reference'")
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == arm_names(rows)
    low, high = axes.get_xlim()
    assert low < 0 < high
    drawn = sorted(float(bar.lines[0].get_xdata()[0]) for bar in axes.containers)
    np.testing.assert_allclose(drawn, sorted(rows["pooled"]))
    for kind, head in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        path = tmp_path / f"figure.{kind}"
        write_figure(ample_run, str(path), kind)
        first = path.read_bytes()
        assert first.startswith(head)
        write_figure(ample_run, str(path), kind)
        assert path.read_bytes() == first
    panels = main_figure(ample_run, ("all", "correct", "incorrect")).axes
    assert [axes.get_title() for axes in panels] == ["all responses", "correct", "incorrect"]


def test_no_figure_of_nothing(ample_run, monkeypatch):
    monkeypatch.setattr(ample_run, "summary", ample_run.summary.assign(pooled=np.nan))
    with pytest.raises(UsageError, match="no teacher has a pooled alignment"):
        main_figure(ample_run)


@pytest.mark.parametrize("kind", ["md", "csv", "latex", "png", "svg"])
def test_what_is_not_ours_is_not_written_over(ample_run, tmp_path, kind):
    path = tmp_path / "mine"
    write = write_figure if kind in ("png", "svg") else write_table
    for _ in range(2):
        write(ample_run, str(path), kind)
    path.write_text("my own notes on teacher and method")
    with pytest.raises(RunError, match="mine is there already"):
        write(ample_run, str(path), kind)
    assert path.read_text().startswith("my own")


def test_commands(ample_run, tmp_path, capsys):
    code, out, _ = run(capsys, "report", ample_run.path, "--format", "csv")
    assert code == 0
    assert out == table_text(ample_run, "csv")
    path = str(tmp_path / "figure.svg")
    assert run(capsys, "report", ample_run.path, "--format", "svg", "-o", path)[:2] == (
        0, path + "\n",
    )  # fmt: skip
    for wrong, named in (
        (["--format", "md", "--open"], "--open"),
        (["--format", "md", "--measured", "x.csv"], "--measured"),
        ([ample_run.path, "--format", "png"], "--format png"),
        ([ample_run.path, "--measured", "x.csv"], "--measured"),
    ):
        code, out, err = run(capsys, "report", ample_run.path, *wrong)
        assert (code, out) == (2, "")
        assert named in err


def test_open_opens_the_page(ample_run, tmp_path):
    """By the program that BROWSER names, as Python's webbrowser does."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{tmp_path}/opened"\n')
    browser.chmod(0o755)
    page = tmp_path / "page with a blank.html"
    code = "from gradalign_cli.main import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, "report", ample_run.path, "-o", str(page), "--open"],
        check=True, capture_output=True, env={**os.environ, "BROWSER": str(browser)},
    )  # fmt: skip
    assert (tmp_path / "opened").read_text().strip() == page.as_uri()
