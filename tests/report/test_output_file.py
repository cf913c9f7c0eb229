"""What reading commands write goes over nothing but their own files."""

from __future__ import annotations

import os
import shutil

import pytest

from gradalign.errors import RunError
from gradalign.report.export import SCHEMA, is_export
from gradalign.store.folder import RunFolder
from gradalign.store.output_file import PAGE_MARK, is_page, remove_page, replacing


def put(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text[0])
        file.write(text[1:])


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "out"
    for text in ("first", "second"):
        with replacing(str(path), lambda path: True) as target:
            put(target, text)
        assert path.read_text() == text
    with pytest.raises(TypeError), replacing(str(path), lambda path: True) as target:
        put(target, ["half", "and then no text"])  # type: ignore[arg-type]
    assert path.read_text() == "second"
    with pytest.raises(RunError, match="did not write"), replacing(str(path), lambda path: False):
        pass
    assert os.listdir(tmp_path) == ["out"]


def test_links_pipes_and_empty_files(tmp_path):
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real").write_text("")
    with replacing(str(tmp_path / "link"), lambda path: False) as target:
        put(target, "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "x"
    with replacing(os.devnull, lambda path: False) as target:
        assert target == os.devnull
    nowhere = str(tmp_path / "no" / "such")
    with pytest.raises(RunError, match="cannot write"), replacing(nowhere, bool) as target:
        put(target, "x")


def test_what_is_an_export(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    ours, theirs = tmp_path / "ours.parquet", tmp_path / "theirs.parquet"
    pq.write_table(SCHEMA.empty_table(), ours)
    pq.write_table(pa.table({"question_id": ["a"]}), theirs)
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"question_id": "a", "spine_id": "a/0", "teacher": "t"}\n')
    other = tmp_path / "other.jsonl"
    other.write_text('{"question": "a"}\n')
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(b"PAR1")
    assert [is_export(str(p)) for p in (ours, theirs, lines, other, torn)] == [
        True, False, True, False, False,
    ]  # fmt: skip


def test_pages(small_run, tmp_path):
    from gradalign.report.page import write_page
    from gradalign.report.report import read_report

    folder = tmp_path / "run"
    shutil.copytree(small_run.path, folder)
    report = read_report(str(folder))
    notes = tmp_path / "notes.md"
    notes.write_text("my notes")
    with pytest.raises(RunError, match=r"notes\.md is there already"):
        write_page(report, str(notes))
    assert notes.read_text() == "my notes"
    page = folder / "report.html"
    for _ in range(2):
        write_page(report, str(page))
    assert is_page(str(page))
    remove_page(RunFolder(str(folder)))
    assert not page.exists()
    page.write_text("<html>a page of my own</html>")
    remove_page(RunFolder(str(folder)))
    assert page.exists()
    assert PAGE_MARK not in page.read_bytes()
