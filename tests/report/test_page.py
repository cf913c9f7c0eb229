"""The HTML page: self-contained, safe, and alive in a real browser."""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from runs import SMALL

import gradalign
from gradalign.diagnostics import chosen
from gradalign.report.format import visible
from gradalign.report.page import MAX_BYTES, render, write_page
from gradalign.report.page_data import choose_questions, mixtures, page_data
from gradalign.report.plots import COLOURS
from gradalign.report.report import Report
from gradalign.store.folder import RunFolder
from gradalign_cli.main import main

NASTY = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=2">'
NASTY += "\x1b[31mred\x1b[0m \u202eevil\u202c \x00 \ud7ff &amp; <b>bold</b>"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def packed(page: str) -> dict:
    block = re.search(r'<script id="data"[^>]*>([^<]*)</script>', page).group(1)
    return json.loads(gzip.decompress(base64.b64decode(block)))


@pytest.fixture(scope="module")
def page(small_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert write_page(small_run, str(path)) == len(small_run.spines)
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


def test_the_page_is_self_contained_and_small(page):
    html = page.read_text()
    assert page.stat().st_size < MAX_BYTES
    own = html[: html.index('<script id="data"')]
    assert not re.search(r'(?:src|href)\s*=\s*["\']?(?:https?:)?//', own)
    assert "default-src 'none'" in own


def test_the_verdict_comes_first_and_needs_no_script(page, small_run):
    html = page.read_text()
    body = html[html.index("<body>") : html.index('<script id="data"')]
    result = small_run.recommend()
    assert body.index("verdict") < body.index("chart-methods")
    assert result.ranking[0].method in body
    assert f"{result.ranking[0].pooled.value:+.3f}" in body


def test_the_page_holds_the_run(page, small_run):
    data = packed(page.read_text())
    assert len(data["spines"]) == len(small_run.spines)
    nodes = [node for spine in data["spines"] for node in spine["nodes"]]
    assert len(nodes) == len(small_run.nodes)
    arm = data["arms"].index(["demo:strong", "gkd"])
    frame = small_run.alignment
    own = frame[(frame["teacher"] == "demo:strong") & (frame["method"] == "gkd")]
    shown = sorted(node["cos"][arm] for node in nodes if node["cos"][arm] is not None)
    assert shown == pytest.approx(sorted(own["cosine"].dropna()), abs=0.006)
    row = small_run.summary.query("teacher == 'demo:strong' and method == 'gkd' and split == 'all'")
    for value, name in zip(data["summary"]["all"][arm], ("pooled", "pooled_low"), strict=False):
        wanted = row[name].iloc[0]
        assert value == (None if wanted != wanted else round(wanted, 3))
    assert sum(data["histograms"][arm][0]) + sum(data["histograms"][arm][1]) == len(shown)


def test_directions_of_the_page_give_the_stored_alignment(page, small_run):
    """Ideal . direction at a node's candidates is its cosine: both are scaled to length 1."""
    data = packed(page.read_text())
    arm = data["arms"].index(["demo:strong", "opd"])
    checked = 0
    for spine in data["spines"]:
        for node in spine["nodes"]:
            if node["cos"][arm] is None:
                continue
            ideal = [candidate[6] or 0 for candidate in node["candidates"]]
            dot = sum(i * (m or 0) for i, m in zip(ideal, node["m"][arm], strict=True))
            assert dot == pytest.approx(node["cos"][arm], abs=0.03)
            checked += 1
    assert checked > 0


def test_what_a_model_wrote_is_no_markup(nasty_page):
    html = nasty_page.read_text()
    own = html[: html.index('<script id="data"')]
    assert "window.hacked" in own
    assert "<script>window.hacked" not in own
    assert "<img" not in own
    assert not set(own) & {"\x00", "\x1b", "\u202e"}
    text = json.dumps(packed(html), ensure_ascii=False)
    assert not set(text) & {"\x00", "\x1b", "\u202e"}
    assert "[U+001B]" in text


def test_what_a_model_wrote_does_nothing_to_a_terminal(nasty_page, capsys):
    run = str(nasty_page.parent)
    report = gradalign.read_report(run)
    question = report.question_ids[0]
    position = str(report.table("nodes", question_id=question)["position"].iloc[0])
    for command in (
        ["show", run, "--question", question, "--position", position],
        ["recommend", run],
        ["diagnose", run, "--only", "overlap"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert not set(out) & {"\x00", "\x1b", "\u202e"}
        if command[0] == "show":
            assert "[U+001B]" in out
            assert "</script><script>" in out


def test_visible_marks():
    assert visible("a\x1b[0m\x00\u202eb\n") == "a[U+001B][0m[U+0000][U+202E]b⏎"
    assert visible("a\tb\n", newlines=True) == "a\tb\n"
    assert visible("שלום 漢字 é 😀") == "שלום 漢字 é 😀"


def test_fewer_spines_where_asked(small_run):
    data = page_data(small_run, 2)
    assert 1 <= len(data["spines"]) <= 2
    assert choose_questions(small_run, 10**6) == small_run.question_ids


def test_a_page_too_large_shows_fewer_responses(small_run, monkeypatch):
    whole, shown = render(small_run)
    monkeypatch.setattr("gradalign.report.page.MAX_BYTES", len(whole.encode()) - 2000)
    _, fewer = render(small_run)
    assert 1 <= fewer < shown


SHOWN = ("questions", "spines", "tokens", "nodes", "branches", "branch_teachers", "alignment")
"""Tables from which responses are shown, besides directions."""


def with_more_questions(folder: Path, copies: int) -> Report:
    """Add copies of a run's questions to it, of other names, each in shards of its own."""
    run = RunFolder(str(folder))
    for table in (*SHOWN, "directions"):
        for file in run.files(table):
            rows = run.read_table(table, file)
            number, _, teacher = file.removeprefix("shard-").partition("-")
            for copy in range(1, copies + 1):
                renamed = rows
                for column in {"question_id", "spine_id", "node_id"} & set(rows.column_names):
                    at = rows.schema.get_field_index(column)
                    texts = rows[column].cast(pa.string())
                    texts = pc.binary_join_element_wise(f"copy-{copy}", texts, ".")
                    field = rows.schema.field(column)
                    renamed = renamed.set_column(at, field, texts.cast(field.type))
                name = f"shard-{100 * copy + int(number):05d}"
                run.write_table(table, f"{name}-{teacher}" if teacher else name, renamed)
    data = run.read_json("run.json")
    data["num_questions"] *= copies + 1
    data["totals"]["spines"] *= copies + 1
    run.write_json("run.json", data)
    return gradalign.read_report(str(folder))


@pytest.mark.slow
def test_two_hundred_spines_are_under_eight_megabytes(finished_runs, tmp_path):
    """Four teachers, eight methods, 16 nodes a response; twenty real responses stand for all."""
    finished_runs.copy(
        tmp_path / "run",
        student="demo:student", task="demo:addition", engine="transformers",
        teachers=["demo:strong", "demo:weak", "self+answer", "self+wrong-answer"],
        methods=["gkd:beta=0", "gkd", "opd", "opsd", "dr_grpo", "random", "verl/k2", "verl/k3"],
        limit=5, num_rollouts=4, nodes=16, continuations=2, bootstrap_resamples=200,
        diagnose=["none"],
    )  # fmt: skip
    wide = with_more_questions(tmp_path / "run", 9)
    path = tmp_path / "report.html"
    assert write_page(wide, str(path)) == len(wide.spines) == 200
    assert path.stat().st_size < 8_000_000
    data = packed(path.read_text())
    assert sum(len(spine["nodes"]) for spine in data["spines"]) > 3000
    shown = [node for spine in data["spines"] for node in spine["nodes"] if any(node["cos"])]
    assert all(any(map(any, node["m"])) for node in shown)


@pytest.fixture(scope="module")
def informed_page(informed_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("informed-page") / "report.html"
    write_page(informed_run, str(path))
    return path


@pytest.mark.slow
def test_every_diagnostic_and_its_advice_is_on_the_page(informed_run, informed_page):
    text = html.unescape(informed_page.read_text())
    summary = informed_run.diagnostics_summary
    said = [advice for advice in summary["advice"] if advice]
    assert len(said) > 10
    assert set(summary["mechanism"].astype(str)) == set(chosen([]))
    for advice in said:
        assert advice in text
    whole = summary[summary["split"].astype(str) == "all"]
    gram = whole["mechanism"].astype(str) == "gram"
    curve = gram & whole["diagnostic"].astype(str).isin(("alignment", "weights_gain"))
    assert curve.any()
    whole = whole[~curve]  # it is drawn
    listed = re.findall(r'<tr data-mechanism="(\w+)" data-teacher="([^"]*)"', text)
    assert len(listed) == len(whole)


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


def open_page(browser, path: Path, **options):
    """Open a page; its errors and its requests are collected."""
    tab = browser.new_page(**options)
    tab.errors, tab.requests = [], []
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.on("console", lambda m: tab.errors.append(m.text) if m.type == "error" else None)
    tab.on("request", lambda request: tab.requests.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    return tab


@pytest.mark.browser
def test_it_loads_without_errors_or_network(browser, page):
    tab = open_page(browser, page)
    assert tab.errors == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    for chart in ("methods", "correct", "distribution", "positions", "entropy"):
        assert tab.locator(f"#chart-{chart} svg.main-svg").count() > 0
        assert tab.locator(f"#table-{chart} tbody tr").count() > 0
    tab.close()


@pytest.mark.browser
def test_filters_work(browser, page, small_run):
    from playwright.sync_api import expect

    tab = open_page(browser, page)
    spines, rows = tab.locator(".spine"), tab.locator("#table-methods tbody tr")
    every = rows.count()
    assert spines.count() == len(small_run.spines)
    assert every == small_run.summary.query("split == 'all' and pooled_low == pooled_low").shape[0]
    tab.select_option("#f-teacher", label="demo:strong")
    assert 0 < rows.count() < every
    assert set(rows.locator("td:first-child").all_text_contents()) == {"demo:strong"}
    tab.select_option("#f-method", label="gkd")
    assert rows.count() == 1
    tab.select_option("#f-correct", "correct")
    assert spines.count() == int(small_run.spines["correct"].sum())
    tab.select_option("#f-correct", "")
    tab.select_option("#f-question", label=str(small_run.question_ids[0]))
    assert spines.count() == small_run.config.num_rollouts
    tab.click("#filters button[type=reset]")
    expect(spines).to_have_count(len(small_run.spines))
    assert rows.count() == every
    assert tab.errors == []
    tab.close()


@pytest.mark.browser
def test_alignment_in_the_weights_has_a_column_where_it_was_asked_for(
    browser, page, small_run, tmp_path
):
    tab = open_page(browser, page)
    heads = "#table-methods th"
    assert "gain per step" not in tab.locator(heads).all_text_contents()
    tab.close()
    shutil.copytree(small_run.path, tmp_path / "run")
    file = tmp_path / "run" / "summary.parquet"
    table = pq.read_table(file)
    for name, value in (
        ("weights_gain_one", 0.25),
        ("weights_gain_one_low", -0.5),
        ("weights_gain_one_high", 0.75),
    ):
        values = [value if split == "all" else None for split in table["split"].to_pylist()]
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.field(place), pa.array(values, pa.float64()))
    pq.write_table(table, file)
    write_page(Report(str(tmp_path / "run")), str(tmp_path / "report.html"))
    tab = open_page(browser, tmp_path / "report.html")
    place = tab.locator(heads).all_text_contents().index("gain per step")
    cells = tab.locator("#table-methods tbody tr").first.locator("td").all_text_contents()
    assert cells[place] == "+0.250 [-0.500, +0.750]"
    assert tab.errors == []
    tab.close()


@pytest.mark.browser
@pytest.mark.slow
def test_mixtures_are_drawn_between_their_arms(browser, informed_run, informed_page):
    tab = open_page(browser, informed_page)
    known = mixtures(informed_run)
    assert len(known) > 1
    for mix in known:
        shares = [point[0] for point in mix["points"]]
        assert shares == sorted(shares)
        assert (shares[0], shares[-1]) == (0.0, 1.0)
        assert set(mix["best"]) == {"best_share", "best_alignment"}
    lines = tab.evaluate("document.getElementById('chart-mixtures').data.map((t) => t.x.length)")
    assert lines == [len(mix["points"]) for mix in known][: len(COLOURS)]
    assert tab.locator("#table-mixtures tbody tr").count() == len(known)
    assert tab.errors == []
    tab.close()


@pytest.mark.browser
def test_a_click_opens_a_node(browser, page, small_run):
    tab = open_page(browser, page)
    assert not tab.locator("#panel").is_visible()
    node = tab.locator(".tok.node:not(.flat)").first
    node.click()
    assert tab.locator("#panel").is_visible()
    assert tab.locator("#candidates tbody tr").count() >= 2
    heads = tab.locator("#candidates th").all_inner_texts()
    assert {"token", "P", "V (95 %)", "ideal", "Q demo:strong", "Q self+answer"} <= set(heads)
    # The directions of every method of the teacher whose alignment colours the tokens.
    shown = [head for head in heads if "@" in head]
    teacher = shown[0].partition("@")[2]
    assert sorted(shown) == sorted(f"{m}@{teacher}" for m in ("gkd", "opd", "minillm"))
    row = tab.locator("#candidates tbody tr").first.locator("td").all_inner_texts()
    assert re.fullmatch(r"\s*[01]\.\d\d \[[01]\.\d\d, [01]\.\d\d\]", row[2])
    tab.keyboard.press("Escape")
    assert not tab.locator("#panel").is_visible()
    # With a filter those that it leaves, and the one of the colours.
    tab.select_option("#f-method", label="opd")
    node.click()
    heads = tab.locator("#candidates th").all_inner_texts()
    assert {"opd@demo:strong", "opd@self+answer"} == {head for head in heads if "@" in head}
    assert tab.errors == []
    tab.close()


@pytest.mark.slow
@pytest.mark.browser
def test_a_teacher_keeps_its_diagnostics_and_those_of_its_contexts(browser, informed_page):
    from playwright.sync_api import expect

    tab = open_page(browser, informed_page)
    lines = tab.locator("ul.advice li")
    every = lines.count()
    for teacher, contexts in (("self+answer", 1), ("demo:strong", 0)):
        tab.select_option("#f-teacher", label=teacher)
        shown = lines.locator("visible=true")
        assert 0 < shown.count() < every
        names = set(shown.locator("b").all_inner_texts())
        assert names == {teacher, *["self"] * contexts}
        assert shown.locator(".chip", has_text="contexts").count() == contexts
    tab.click("#filters button[type=reset]")
    expect(lines.locator("visible=true")).to_have_count(every)
    assert tab.errors == []
    tab.close()


@pytest.mark.browser
def test_the_node_is_the_stored_one(browser, page, small_run):
    """P, V, Q, ideal and directions of a clicked token, against the tables."""
    tab = open_page(browser, page)
    tab.select_option("#f-teacher", label="demo:strong")
    tab.select_option("#f-method", label="opd")
    tab.locator(".tok.node:not(.flat)").first.click()
    heads = tab.locator("#candidates th").all_inner_texts()
    about = tab.locator("#node h3").inner_text()
    spine, position = re.match(r"(.*), position (\d+):", about).groups()
    node = f"{spine}/{position}"
    here = {
        name: table[table["node_id"].astype(str) == node]
        for name in ("branches", "branch_teachers", "alignment")
        for table in [getattr(small_run, name)]
    }
    branches = here["branches"].to_dict("records")
    seen = here["branch_teachers"].query("teacher == 'demo:strong'")
    q = dict(zip(seen["token_id"], seen["teacher_prob"], strict=True))
    rows = tab.locator("#candidates tbody tr")
    assert rows.count() == len(branches)
    length = sum(row["ideal"] ** 2 for row in branches) ** 0.5
    dot = 0.0
    for i, row in enumerate(branches):
        cells = dict(zip(heads, rows.nth(i).locator("td").all_inner_texts(), strict=True))
        assert cells["token"] == visible(row["token"])
        assert float(cells["P"]) == pytest.approx(row["student_prob"], abs=6e-4)
        assert float(cells["V (95 %)"].split()[0]) == pytest.approx(row["value"], abs=6e-3)
        assert float(cells["Q demo:strong"]) == pytest.approx(q[row["token_id"]], abs=6e-4)
        assert float(cells["ideal"]) == pytest.approx(row["ideal"] / length, abs=6e-3)
        dot += float(cells["ideal"]) * float(cells["opd@demo:strong"])
    stored = here["alignment"].query("teacher == 'demo:strong' and method == 'opd'")
    assert dot == pytest.approx(stored["cosine"].iloc[0], abs=0.03)
    tab.close()


@pytest.fixture(scope="module")
def flat_run(finished_runs):
    """A run whose verifier never says yes."""
    settings = {**SMALL, "limit": 2, "methods": ["gkd", "random"], "verifier": "exact"}
    return finished_runs.get(**settings, diagnose=["none"])


def test_a_run_in_which_nothing_depends_on_any_token_says_so(flat_run, capsys):
    result = flat_run.recommend()
    assert (result.verdict, result.teacher) == ("none", None)
    assert "no candidate has a pooled alignment" in result.headline
    assert "0 of 4 responses are correct" in result.remarks[0]
    assert any("Every position is flat" in line for line in flat_run.footer())
    for command in (["recommend"], ["show", "--question", flat_run.question_ids[0]]):
        with pytest.raises(SystemExit) as stop:
            main([command[0], flat_run.path, *command[1:]])
        assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "best candidate" not in out
    assert "incorrect" in out


@pytest.mark.browser
def test_the_page_of_such_a_run(browser, flat_run, tmp_path):
    write_page(flat_run, str(tmp_path / "page.html"))
    tab = open_page(browser, tmp_path / "page.html")
    assert "0 of 4 responses are correct" in tab.locator("#verdict").inner_text()
    tab.locator("#spines .tok.node.flat").first.click()
    assert "undefined" in tab.locator("#node").inner_text()
    assert tab.errors == []
    tab.close()


@pytest.mark.browser
def test_nasty_output_is_shown_as_text(browser, nasty_page):
    tab = open_page(browser, nasty_page)
    tab.locator(".tok.node").first.click()
    assert tab.evaluate("window.hacked") is None
    assert tab.errors == []
    assert "<script>window.hacked=1</script>" in tab.locator("#spines .tok").first.inner_text()
    assert "[U+202E]" in tab.locator(".prompt").first.inner_text()
    assert tab.locator("main b, #panel b").filter(has_text="bold").count() == 0
    tab.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_and_phones(browser, page, scheme):
    tab = open_page(
        browser, page, viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True
    )
    assert tab.locator("html").get_attribute("data-theme") == scheme
    wide = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 1, "the page scrolls sideways on a phone"
    before = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.click("#theme")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert tab.errors == []
    tab.close()
