"""The page in a real browser: filters, links, keyboard, paper, and what it saves."""

from __future__ import annotations

import csv
import json
import re
import shutil
from unicodedata import normalize
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradalign.report.arms import COLOURS, NO_TEACHER_COLOUR, ranked, teacher_colours
from gradalign.report.format import interval, visible
from gradalign.report.page import write_page
from gradalign.report.page.run_data import mixtures
from gradalign.report.report import Report
from tests.requires import require


@pytest.mark.browser
def test_it_loads_without_errors_or_network(open_page, ample_page):
    tab = open_page(ample_page)
    assert [url for url in tab.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    for chart in ("methods", "correct", "distribution", "positions", "entropy"):
        assert tab.locator(f"#chart-{chart} svg.main-svg").count() > 0
        assert tab.locator(f"#table-{chart} tbody tr").count() > 0


@pytest.mark.browser
def test_filters_work(open_page, page, small_run):
    from playwright.sync_api import expect

    tab = open_page(page)
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


@pytest.mark.browser
def test_alignment_in_the_weights_has_a_column_where_it_was_asked_for(
    open_page, page, small_run, tmp_path
):
    tab = open_page(page)
    heads = "#table-methods th"
    assert "gain per step" not in tab.locator(heads).all_text_contents()
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
    tab = open_page(tmp_path / "report.html")
    place = tab.locator(heads).all_text_contents().index("gain per step")
    cells = tab.locator("#table-methods tbody tr").first.locator("td").all_text_contents()
    assert cells[place] == "+0.250 [-0.500, +0.750]"


@pytest.mark.browser
@pytest.mark.slow
def test_mixtures_are_drawn_between_their_arms(open_page, informed_run, informed_page):
    tab = open_page(informed_page)
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


@pytest.mark.browser
def test_a_click_opens_a_node(open_page, page, small_run):
    tab = open_page(page)
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


@pytest.mark.slow
@pytest.mark.browser
def test_a_teacher_keeps_its_diagnostics_and_those_of_its_contexts(open_page, informed_page):
    from playwright.sync_api import expect

    tab = open_page(informed_page)
    lines = tab.locator("ul.advice li")
    every = lines.count()
    for teacher, contexts in (("self+answer", 1), ("demo:strong", 0)):
        tab.select_option("#f-teacher", label=teacher)
        shown = lines.locator("visible=true")
        assert 0 < shown.count() < every
        for line in shown.all():
            about = json.loads(line.get_attribute("data-teachers"))
            assert teacher in about or (contexts and about == ["self"])
        assert shown.locator(".chip", has_text="contexts").count() == contexts
    tab.click("#filters button[type=reset]")
    expect(lines.locator("visible=true")).to_have_count(every)


@pytest.mark.browser
def test_the_node_is_the_stored_one(open_page, page, small_run):
    """P, V, Q, ideal and directions of a clicked token, against the tables."""
    tab = open_page(page)
    tab.select_option("#f-teacher", label="demo:strong")
    tab.select_option("#f-method", label="opd")
    tab.locator(".tok.node:not(.flat)").first.click()
    heads = tab.locator("#candidates th").all_inner_texts()
    about = tab.locator("#node h2").inner_text()
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


@pytest.mark.browser
def test_the_page_of_such_a_run(open_page, flat_run, tmp_path):
    write_page(flat_run, str(tmp_path / "page.html"))
    tab = open_page(tmp_path / "page.html")
    assert "0 of 4 responses are correct" in tab.locator("#verdict").inner_text()
    tab.locator("#spines .tok.node.flat").first.click()
    assert "undefined" in tab.locator("#node").inner_text()


@pytest.mark.browser
def test_nasty_output_is_shown_as_text(open_page, nasty_page):
    tab = open_page(nasty_page)
    tab.locator(".tok.node").first.click()
    assert tab.evaluate("window.hacked") is None
    assert "<script>window.hacked=1</script>" in tab.locator("#spines .tok").first.inner_text()
    assert "[U+202E]" in tab.locator(".prompt").first.inner_text()
    assert tab.locator("main b, #panel b").filter(has_text="bold").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_and_phones(open_page, ample_page, scheme):
    tab = open_page(
        ample_page, viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True
    )
    assert tab.locator("html").get_attribute("data-theme") == scheme
    wide = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 1, "the page scrolls sideways on a phone"
    before = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.click("#theme")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != before


AXE = {"resultTypes": ["violations"]}
GRAVE = {"serious", "critical"}


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_grave(open_page, ample_page, scheme, width):
    """With every part open and a token's panel in front."""
    axe = require("axe_playwright_python.sync_playwright").Axe()
    tab = open_page(ample_page, viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    tab.locator("#spines .tok.node").first.click()
    found = axe.run(tab, options=AXE).response["violations"]
    grave = [(item["id"], item["nodes"][0]["html"]) for item in found if item["impact"] in GRAVE]
    assert grave == []


CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => rgb.slice(0, 3).map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const card = channels(getComputedStyle(document.querySelector(".card")).backgroundColor);
  return [...document.querySelectorAll("#spines .tok, .legend .tok")].map((token) => {
    const style = getComputedStyle(token), [r, g, b, alpha = 1] = channels(style.backgroundColor);
    const ground = [r, g, b].map((value, i) => alpha * value + (1 - alpha) * card[i]);
    const both = [luminance(channels(style.color)), luminance(ground)].sort((x, y) => y - x);
    return (both[0] + 0.05) / (both[1] + 0.05);
  });
}"""
"""The contrast of every token's text to its ground, by the formula of WCAG 2."""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_token_can_be_read_on_its_colour(open_page, ample_page, scheme):
    tab = open_page(ample_page, color_scheme=scheme)
    found = tab.evaluate(CONTRAST)
    assert len(found) > 20
    assert min(found) >= 4.5
    shades = tab.evaluate(
        "[...document.querySelectorAll('#spines .tok.node')].map((t) => t.style.background)"
    )
    strongest = max(float(x.rpartition(",")[2].strip(" )")) for x in shades if x)
    assert strongest > 0.6, "no token here is as strongly coloured as they get"


@pytest.mark.browser
def test_a_link_restores_filters_and_token(open_page, page, small_run):
    tab = open_page(page)
    tab.select_option("#f-teacher", label="demo:strong")
    tab.select_option("#f-correct", "incorrect")
    tab.locator("#spines .tok.node:not(.flat)").last.click()
    about = tab.locator("#node h2").inner_text()
    seen = [tab.locator(f"#table-{name}").inner_text() for name in ("methods", "extremes")]
    address = tab.evaluate("location.hash")
    other = open_page(page, address)
    assert other.locator("#node h2").inner_text() == about
    assert other.locator("#f-teacher option:checked").inner_text() == "demo:strong"
    assert other.locator("#f-correct option:checked").inner_text() == "incorrect"
    assert [other.locator(f"#table-{x}").inner_text() for x in ("methods", "extremes")] == seen
    assert other.locator(".tok.open").count() == 1
    # Without the token the panel is closed, without a name that is there all are shown.
    tab.evaluate("location.hash = '#teacher=nobody'")
    tab.wait_for_selector("#panel", state="hidden")
    assert tab.locator("#f-teacher").input_value() == ""
    assert tab.locator(".spine").count() == len(small_run.spines)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_tokens_can_be_walked_through_by_keyboard(open_page, page, width):
    tab = open_page(page, viewport={"width": width, "height": 844})
    links = tab.locator("#spines .tok.node")
    keys = [links.nth(i).get_attribute("data-token") for i in range(3)]
    links.first.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#panel:not([hidden])")
    shown = tab.locator("#spines .tok.open")
    assert shown.get_attribute("data-token") == keys[0]
    assert tab.locator("#previous").is_disabled()
    for key in keys[1:]:
        tab.keyboard.press("ArrowRight")
        assert shown.get_attribute("data-token") == key
        assert key in tab.evaluate("new URLSearchParams(location.hash.slice(1)).get('token')")
    tab.keyboard.press("ArrowLeft")
    assert shown.get_attribute("data-token") == keys[1]
    # The token is in sight, above the panel.
    token, panel = shown.bounding_box(), tab.locator("#panel").bounding_box()
    assert 0 <= token["y"] <= panel["y"] - token["height"]
    tab.locator("#next").focus()
    tab.keyboard.press("Enter")
    assert shown.get_attribute("data-token") == keys[2]
    tab.keyboard.press("Escape")
    assert not tab.locator("#panel").is_visible()
    assert tab.evaluate("document.activeElement.dataset.token") == keys[2]
    assert "token" not in tab.evaluate("location.hash")


@pytest.mark.browser
def test_every_control_can_be_reached_by_keyboard(open_page, page):
    tab = open_page(page)
    tab.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    wanted = tab.evaluate(
        """() => [...document.querySelectorAll("a, button, select, summary")]
        .filter((item) => item.offsetParent !== null && !item.disabled)
        .map((item, i) => { item.dataset.number = i; return i; }).length"""
    )
    reached = set()
    for _ in range(wanted + 50):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.dataset.number"))
    assert len(reached - {None}) == wanted


@pytest.mark.browser
def test_tables_are_sorted_by_their_titles(open_page, ample_page):
    tab = open_page(ample_page)
    tab.locator("#methods summary").first.click()
    place = tab.locator("#table-methods th").all_text_contents().index("mean")
    title = tab.locator("#table-methods th").nth(place)

    def column():
        cells = tab.locator(f"#table-methods tbody tr td:nth-child({place + 1})")
        return [float(text.split()[0]) for text in cells.all_text_contents() if text != "-"]

    title.locator("button").press("Enter")
    assert title.get_attribute("aria-sort") == "descending"
    assert column() == sorted(column(), reverse=True)
    title.locator("button").click()
    assert title.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(column())


@pytest.mark.browser
def test_most_harmful_tokens_come_first(open_page, ample_page, ample_run):
    tab = open_page(ample_page, "#teacher=demo%3Astrong&method=gkd")
    tab.locator("#extremes summary").click()
    rows = tab.locator("#table-extremes tbody tr")

    def adds():
        return [float(row.locator("td").last.inner_text()) for row in rows.all()]

    table = ample_run.alignment.query("teacher == 'demo:strong' and method == 'gkd'")
    pooled = ample_run.summary.query(
        "teacher == 'demo:strong' and method == 'gkd' and split == 'all'"
    )["pooled"].iloc[0]
    parts = table["weight"] * table["dot"]
    parts = parts / (parts.sum() / pooled)
    assert len(parts) > 50
    assert adds() == pytest.approx(sorted(parts)[:50], abs=1e-5)
    tab.select_option("#f-order", "helpful")
    assert adds() == pytest.approx(sorted(parts, reverse=True)[:50], abs=1e-5)
    rows.first.locator("a").click()
    tab.wait_for_selector("#panel:not([hidden])")
    place = rows.first.locator("td").all_inner_texts()
    assert f"{place[1]}, position {place[2]}:" in tab.locator("#node h2").inner_text()


@pytest.mark.browser
def test_figures_and_tables_can_be_saved(open_page, ample_page, tmp_path, ample_run):
    tab = open_page(ample_page, color_scheme="dark")
    saved = {}
    tab.locator("#methods summary").first.click()
    for name in ("SVG", "PNG", "CSV"):
        with tab.expect_download() as started:
            tab.locator("#methods").get_by_role("button", name=name).first.click()
        assert started.value.suggested_filename == f"gradalign-methods.{name.lower()}"
        saved[name] = tmp_path / name
        started.value.save_as(saved[name])
    assert saved["PNG"].read_bytes().startswith(b"\x89PNG")
    svg = saved["SVG"].read_text()
    assert "gkd @ demo:strong" in svg
    assert "rgb(29, 36, 48)" in svg, "text for paper is dark, also from a dark page"
    rows = list(csv.DictReader(saved["CSV"].open()))
    wanted = ranked(ample_run.summary)
    assert [row["method"] for row in rows] == list(wanted["method"])
    shown = [interval(*row) for row in wanted[["pooled", "pooled_low", "pooled_high"]].to_numpy()]
    assert [row["pooled"] for row in rows] == shown


@pytest.mark.browser
def test_what_is_printed_from_a_dark_page_is_dark_on_white(
    open_page, ample_page, tmp_path, ample_run
):
    pypdf = require("pypdf")
    tab = open_page(ample_page, color_scheme="dark")
    tab.emulate_media(media="print")
    ink = "getComputedStyle(document.querySelector('%s')).%s"
    assert tab.evaluate(ink % ("h1", "color")) == "rgb(29, 36, 48)"
    assert tab.evaluate(ink % ("#chart-methods .ytick text", "fill")) == "rgb(29, 36, 48)"
    assert tab.evaluate(ink % (".card", "backgroundColor")) == "rgb(255, 255, 255)"
    tab.emulate_media(media="null")
    tab.evaluate(
        """() => addEventListener("beforeprint", () => {
        window.printed = [document.querySelectorAll(".spine").length,
          document.querySelectorAll("details:not([open], .numbers, .spine details)").length];
        })"""
    )
    tab.pdf(path=tmp_path / "page.pdf")
    assert tab.evaluate("window.printed") == [len(ample_run.spines), 0]
    assert tab.locator("details[open]").count() == 0
    pages = pypdf.PdfReader(tmp_path / "page.pdf").pages
    texts = ["".join(normalize("NFKC", part.extract_text()).split()) for part in pages]
    assert all(texts)
    for text in ("gkd@demo:strong", "Rankingwithpairedsignificance", "Responses,tokenbytoken"):
        assert any(text in part for part in texts)
    assert not any("SVGPNG" in part for part in texts)


@pytest.mark.browser
def test_a_response_reads_as_text(open_page, page, small_run):
    """No gaps inside words: the text of a response is that of its tokens, and nothing else."""
    tab = open_page(page)
    first = tab.locator("#spines .tokens").first
    table = small_run.tokens
    own = table[table["spine_id"] == small_run.spines["spine_id"].iloc[0]]
    own = own.drop_duplicates("position")
    assert first.inner_text() == "".join(
        visible(text) for text in own.sort_values("position")["token"]
    )
    gaps = tab.evaluate(
        """() => { const boxes = [...document.querySelector("#spines .tokens").children]
          .map((token) => token.getBoundingClientRect());
        return boxes.slice(1).map((box, i) => box.left - boxes[i].right); }"""
    )
    assert max(map(abs, gaps)) < 0.5


MAIN = """() => { const chart = document.getElementById("chart-methods"); return {
  labels: [...chart.querySelectorAll(".ytick text")].map((text) => text.textContent),
  range: chart.layout.xaxis.range, symbols: chart.data.map((trace) => trace.marker.symbol).flat(),
  points: chart.data.flatMap((trace) => trace.x.map((x, i) => [trace.y[i], x, trace.marker.color])),
}; }"""


@pytest.mark.browser
def test_the_main_figure_has_the_best_first_and_controls_apart(open_page, ample_page, ample_run):
    tab = open_page(ample_page)
    shown = tab.evaluate(MAIN)
    rows = ranked(ample_run.summary).query("role != 'reference'")
    assert list(rows["role"]) == ["candidate"] * 4 + ["control"] * 2
    names = [f"{row.method} @ {row.teacher}" for row in rows.itertuples()]
    assert shown["labels"] == names
    assert shown["symbols"].count("diamond") == 2
    colours = teacher_colours(ample_run.summary["teacher"])
    assert sorted(shown["points"]) == [
        [place, round(row.pooled, 3), colours[row.teacher]]
        for place, row in enumerate(rows.itertuples())
    ]
    assert "dr_grpo +1.000" in tab.locator("#methods-note").inner_text()
    assert NO_TEACHER_COLOUR not in {point[2] for point in shown["points"]}


@pytest.mark.browser
@pytest.mark.parametrize("teacher", ["demo:strong", "self+answer"])
def test_zero_is_always_on_the_axis(open_page, ample_page, teacher):
    low, high = open_page(ample_page, f"#teacher={quote(teacher)}").evaluate(MAIN)["range"]
    assert low <= 0 <= high
