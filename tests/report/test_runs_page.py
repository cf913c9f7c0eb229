"""The page of many runs: a leaderboard, with the way to each run's own page."""

from __future__ import annotations

import re
import shutil

import pytest

import gradalign
from gradalign.errors import RunError
from gradalign.report.page import page_path, write_page, write_runs_page
from gradalign.report.page.runs_page import run_names, runs_data
from gradalign.store.folder import RunFolder
from gradalign_cli.main import main
from tests.requires import require


@pytest.fixture(scope="module")
def runs(ample_run, small_run, tmp_path_factory):
    """Two runs of other sizes; the first has a page of its own."""
    folder = tmp_path_factory.mktemp("runs")
    reports = []
    for name, report in (("large one", ample_run), ("small", small_run)):
        shutil.copytree(report.path, folder / name)
        reports.append(gradalign.read_report(str(folder / name)))
    write_page(reports[0], page_path(reports[0]))
    return reports


@pytest.fixture(scope="module")
def board(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("board") / "runs.html"
    write_runs_page(runs, str(path))
    return path


def test_names_of_runs():
    assert run_names(["a/b", "c/d/"]) == ["b", "d"]
    assert run_names(["a/run", "b/run"]) == ["a/run", "b/run"]


def test_rows_are_those_of_the_runs_best_first(runs):
    rows = runs_data(runs, ["large", "small"])
    for report, name in zip(runs, ("large", "small"), strict=True):
        summary = report.summary.query("split == 'all'")
        own = {(row["teacher"], row["method"]): row for row in rows if row["run"] == name}
        assert len(own) == len(summary)
        for row in summary.to_dict("records"):
            shown = own[row["teacher"], row["method"]]
            known = row["pooled"] == row["pooled"]
            assert shown["pooled"][0] == (round(row["pooled"], 3) if known else None)
            assert shown["student"] == "demo:student"
    values = [row["pooled"][0] for row in rows if row["pooled"][0] is not None]
    assert values == sorted(values, reverse=True)
    assert [row["pooled"][0] for row in rows[len(values) :]] == [None] * (len(rows) - len(values))
    assert {row["context"] for row in rows} == {"", "answer", "wrong-answer"}


def test_every_run_is_named_with_its_verdict_and_page(runs, board):
    text = board.read_text()
    assert board.stat().st_size < 1_000_000
    links = re.findall(r'<a href="([^"]+)"><bdi>large one</bdi></a>', text)
    assert len(links) == 1
    assert links[0].endswith("large%20one/report.html")
    assert "<bdi>small</bdi></td>" in text
    assert runs[0].recommend().headline.split(":")[0] in text
    board.with_name("mine.html").write_text("mine")
    with pytest.raises(RunError, match="there already"):
        write_runs_page(runs, str(board.with_name("mine.html")))


def test_a_run_that_is_not_finished_is_refused(runs, tmp_path):
    folder = RunFolder(str(tmp_path / "copy"))
    shutil.copytree(runs[1].path, tmp_path / "copy")
    folder.write_json("run.json", {**folder.read_json("run.json"), "status": "interrupted"})
    with pytest.raises(RunError, match="not finished"):
        write_runs_page([runs[0], gradalign.read_report(folder.url)], str(tmp_path / "x.html"))
    assert not (tmp_path / "x.html").exists()


def test_the_command_takes_many_runs(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["report", *(report.path for report in runs)])
    assert stop.value.code == 0
    assert capsys.readouterr().out == "gradalign-runs.html\n"
    assert (tmp_path / "gradalign-runs.html").exists()


@pytest.mark.browser
def test_the_board_in_a_browser(open_page, board, runs):
    from playwright.sync_api import expect

    tab = open_page(board)
    rows = tab.locator("#table-board tbody tr")
    # The best method of each teacher that is a candidate.
    assert rows.count() == 4
    assert tab.locator("#chart-board .ytick").count() == 2
    tab.select_option("#f-show", label="controls and references too")
    assert rows.count() == sum(len(run.summary.query("split == 'all'")) for run in runs)
    tab.select_option("#f-run", label="large one")
    tab.select_option("#f-context", label="wrong-answer")
    assert rows.count() == 2
    again = open_page(board, tab.evaluate("location.hash"))
    assert again.locator("#table-board").inner_text() == tab.locator("#table-board").inner_text()
    tab.click("#filters button[type=reset]")
    expect(rows).to_have_count(4)
    assert tab.evaluate("location.hash") in ("", "#")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_and_phones(open_page, board, scheme):
    axe = require("axe_playwright_python.sync_playwright").Axe()
    tab = open_page(board, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 1
    found = axe.run(tab, options={"resultTypes": ["violations"]}).response["violations"]
    assert [item["id"] for item in found if item["impact"] in ("serious", "critical")] == []
