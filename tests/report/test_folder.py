"""The run folder: whole files or none, clear errors, URLs."""

from __future__ import annotations

import os
import subprocess
import sys

import pyarrow as pa
import pytest

from gradalign.errors import RunError
from gradalign.store.folder import RunFolder
from gradalign.store.schema import SCHEMA_VERSION, meaning, schema, table_names
from gradalign.store.table_builder import Rows


def questions(*ids: str) -> pa.Table:
    rows = Rows("questions")
    for name in ids:
        rows.add(question_id=name, prompt="p", prompt_ids=[[1, 2]], answer=None, record="{}")
    return rows.table_of()


def test_a_table_survives_the_round_trip(tmp_path):
    folder = RunFolder(str(tmp_path / "run"))
    folder.write_table("questions", "shard-00000", questions("a", "b", "a"))
    table = folder.read_table("questions", "shard-00000")
    assert table["question_id"].to_pylist() == ["a", "b", "a"]
    assert table["answer"].to_pylist() == [None] * 3
    assert table.schema.metadata[b"gradalign.schema_version"] == SCHEMA_VERSION.encode()
    assert folder.files("questions") == ["shard-00000"]


def test_an_empty_table_keeps_its_schema(tmp_path):
    folder = RunFolder(str(tmp_path))
    for name in table_names():
        folder.write_table(name, "shard-00000", Rows(name).table_of())
        assert folder.read_table(name, "shard-00000").schema.names == schema(name).names


def test_any_fsspec_url(tmp_path):
    folder = RunFolder("memory://bucket/run")
    folder.write_table("questions", "shard-00000", questions("a"))
    folder.write_json("run.json", {"a": 1})
    assert folder.read_json("run.json") == {"a": 1}
    assert folder.files("questions") == ["shard-00000"]
    assert folder.has_table("questions", "shard-00000")


READ_AND_END = """
import sys
from gradalign.store.folder import RunFolder
folder = RunFolder(sys.argv[1])
if not folder.has_table("questions", "shard-00000"):  # a memory of its own
    local = RunFolder(sys.argv[2])
    folder.write_table("questions", "shard-00000", local.read_table("questions", "shard-00000"))
for _ in range(3):
    folder.read_table("questions", "shard-00000")
"""


@pytest.mark.slow
@pytest.mark.parametrize("url", [None, "memory://run"])
def test_a_process_that_read_tables_ends_with_status_0(tmp_path, url):
    """Read through a Python file object, a third of these processes abort when they end."""
    folder = RunFolder(str(tmp_path))
    folder.write_table("questions", "shard-00000", questions(*map(str, range(1000))))
    command = [sys.executable, "-c", READ_AND_END, url or str(tmp_path), str(tmp_path)]
    for _ in range(10):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    folder = RunFolder(str(tmp_path))
    folder.write_json("run.json", {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left.*Free disk space"):
        folder.write_json("run.json", {"a": 2})
    assert folder.read_json("run.json") == {"a": 1}
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_torn_table_is_named(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.write_table("questions", "shard-00000", questions("a"))
    path = tmp_path / "questions" / "shard-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match=r"shard-00000\.parquet is torn"):
        folder.read_table("questions", "shard-00000")
    with pytest.raises(RunError, match=r"shard-00009\.parquet is missing"):
        folder.read_table("questions", "shard-00009")


def test_a_torn_run_json_is_named(tmp_path):
    (tmp_path / "run.json").write_text('{"config"')
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        RunFolder(str(tmp_path)).read_json("run.json")


def test_an_unknown_protocol():
    with pytest.raises(RunError, match="fsspec"):
        RunFolder("nosuch://bucket/run")


def test_rows_must_fit_the_schema():
    rows = Rows("questions")
    with pytest.raises(ValueError, match="record"):
        rows.add(question_id="a", prompt="p", prompt_ids=[[1]], answer="x")
    with pytest.raises(ValueError, match="2 rows, not 3"):
        rows.add(3, question_id="a", prompt=["p"] * 2, prompt_ids=[[1]] * 3, answer="", record="")


def test_every_column_says_what_it_means():
    keys = {"question_id", "spine_id", "position", "node_id", "teacher", "method", "token_id"}
    for table in table_names():
        for column in schema(table).names:
            known = {"candidate_id", "index", "num_nodes", "num_candidates", "num_contexts"}
            known |= {"num_questions", "value"}
            assert meaning(table, column) or column in keys | known, (table, column)
