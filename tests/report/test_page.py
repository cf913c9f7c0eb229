"""The HTML page of a run: self-contained, safe, and it holds the run."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import gradalign
from gradalign.diagnostics import chosen
from gradalign.report.format import visible
from gradalign.report.page import write_page
from gradalign.report.page.run_data import choose_questions, page_data
from gradalign.report.page.run_page import MAX_BYTES, facts, render
from gradalign.report.report import Report
from gradalign.store.folder import RunFolder
from gradalign_cli.main import main


def packed(page: str) -> dict:
    block = re.search(r'<script id="data"[^>]*>([^<]*)</script>', page).group(1)
    return json.loads(gzip.decompress(base64.b64decode(block)))


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
    monkeypatch.setattr("gradalign.report.page.run_page.MAX_BYTES", len(whole.encode()) - 2000)
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
    listed = re.findall(r"<tr data-mechanism=\"(\w+)\" data-teachers='\[([^\]]*)\]'", text)
    assert len(listed) == len(whole)


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


def test_a_page_of_forty_questions_is_under_two_megabytes(ample_page, ample_run):
    assert len(packed(ample_page.read_text())["spines"]) == 160 == len(ample_run.spines)
    assert ample_page.stat().st_size < 2_000_000


def test_the_head_says_what_a_reader_has_to_know(ample_page, ample_run):
    told = facts(ample_run)
    right = int(ample_run.spines["correct"].sum())
    assert told["accuracy"] == f"{right / 160:.0%} ({right} of 160 responses)"
    assert told["verifier"] == "demo:addition"
    assert told["questions"] == "40"
    assert f"{len(ample_run.continuations):,} targeted rollouts" in told["cost"]
    assert told["command"].startswith("gradalign score --config ")
    text = html.unescape(ample_page.read_text())
    body = text[text.index('class="facts"') : text.index("</dl>")]
    assert all(said in body for said in told.values())


def test_the_split_is_named_where_the_task_has_one(ample_run, monkeypatch):
    config = {**ample_run.metadata["config"], "task": "gsm8k:split=train,size=3"}
    monkeypatch.setitem(ample_run.metadata, "config", config)
    assert facts(ample_run)["split"] == "train"
    monkeypatch.setitem(ample_run.metadata, "task", {"evaluation": "test split of gsm8k"})
    assert facts(ample_run)["split"] == "test split of gsm8k"
