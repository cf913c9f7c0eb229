"""Pages of small runs, and a browser to open them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from runs import SMALL

import gradalign
from gradalign.report.page import write_page
from gradalign.store.folder import RunFolder

NASTY = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=2">'
NASTY += "\x1b[31mred\x1b[0m \u202eevil\u202c \x00 \ud7ff &amp; <b>bold</b>"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def page(small_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert write_page(small_run, str(path)) == len(small_run.spines)
    return path


@pytest.fixture(scope="session")
def ample_run(finished_runs):
    """A run of 40 questions: enough for every chart to have something to draw."""
    return finished_runs.get(
        **{
            **SMALL,
            "teachers": ["demo:strong", "self+answer", "self+wrong-answer"],
            "methods": ["gkd", "opd", "dr_grpo"],
            "limit": 40,
            "num_rollouts": 4,
            "nodes": 4,
            "shard_size": 20,
            "diagnose": ["none"],
        }
    )


@pytest.fixture(scope="module")
def ample_page(ample_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ample-page") / "report.html"
    write_page(ample_run, str(path))
    return path


@pytest.fixture(scope="module")
def nasty_page(small_run, tmp_path_factory) -> Path:
    """A page of a run in which the model wrote whatever could break a page."""
    folder = tmp_path_factory.mktemp("nasty") / "run"
    shutil.copytree(small_run.path, folder)
    run = RunFolder(str(folder))
    for table, column in (
        ("tokens", "token"), ("branches", "token"), ("questions", "prompt"),
        ("questions", "answer"), ("spines", "text"),
    ):  # fmt: skip
        for name in run.files(table):
            rows = run.read_table(table, name)
            texts = pc.binary_join_element_wise(rows[column], pa.scalar(NASTY), "")
            at = rows.schema.get_field_index(column)
            run.write_table(table, name, rows.set_column(at, rows.schema.field(column), texts))
    data = run.read_json("run.json")
    data["config"]["labels"] = {"note": NASTY}
    run.write_json("run.json", data)
    path = folder / "report.html"
    write_page(gradalign.read_report(str(folder)), str(path))
    return path


@pytest.fixture(scope="module")
def informed_page(informed_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("informed-page") / "report.html"
    write_page(informed_run, str(path))
    return path


@pytest.fixture(scope="module")
def flat_run(finished_runs):
    """A run whose verifier never says yes."""
    settings = {**SMALL, "limit": 2, "methods": ["gkd", "random"], "verifier": "exact"}
    return finished_runs.get(**settings, diagnose=["none"])


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; skipped where there is none, unless everything is required."""
    required = os.environ.get("GRADALIGN_REQUIRE_ALL") == "1"
    chromium = os.environ.get("GRADALIGN_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if chromium is None:
        text = "needs Chromium (apt-get install chromium, or GRADALIGN_CHROMIUM=path)"
        pytest.fail(text) if required else pytest.skip(text)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Open pages; at the end of a test none has said anything to the console, and all close."""
    tabs = []

    def opened(path: Path, fragment: str = "", **options):
        tab = browser.new_page(**options)
        tabs.append(tab)
        tab.errors, tab.requests = [], []
        tab.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.on("console", lambda m: tab.errors.append(m.text) if m.type == "error" else None)
        tab.on("request", lambda request: tab.requests.append(request.url))
        tab.goto(path.as_uri() + fragment)
        tab.wait_for_selector("html[data-ready=yes]", timeout=60_000)
        return tab

    yield opened
    for tab in tabs:
        assert tab.errors == []
        tab.close()
