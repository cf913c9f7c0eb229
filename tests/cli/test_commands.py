"""The command line: speed of --help, listings, the same result as from Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import SMALL, flags

import gradalign
from gradalign.config import GROUPS, ScoreConfig, field_extra, flag_of
from gradalign.report.format import interval
from gradalign.store.folder import RunFolder
from gradalign.store.schema import schema
from gradalign_cli.main import main
from gradalign_cli.output import print_report

HEAVY = {"torch", "transformers", "vllm", "datasets", "ray", "pandas", "pyarrow", "numpy"}


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


@pytest.mark.parametrize("statement", ["import gradalign", "import gradalign_cli.main"])
def test_import_loads_nothing_heavy(statement):
    code = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_help_lists_the_commands(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0
    for command in ("score", "demo", "methods", "tasks", "contexts"):
        assert command in out


def test_version(capsys):
    status, out, _ = run(capsys, "--version")
    assert status == 0
    assert out.startswith("gradalign 0.")


def test_every_setting_is_a_flag_in_a_group(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = run(capsys, "score", "--help-all")
    for name in ScoreConfig.model_fields:
        assert field_extra(name)["group"] in GROUPS
        assert flag_of(name) in out
    for title in GROUPS.values():
        assert title in out


@pytest.mark.parametrize("kind", ["methods", "tasks", "contexts"])
def test_listings(capsys, kind):
    status, out, _ = run(capsys, kind, "list", "--json")
    assert status == 0
    records = json.loads(out)
    names = {record["name"].partition(":")[0] for record in records}
    wanted = {
        "methods": {"gkd", "minillm", "dr_grpo", "opd", "opsd"},
        "tasks": {"demo"},
        "contexts": {"none", "answer", "solution"},
    }
    assert wanted[kind] <= names
    status, out, _ = run(capsys, kind, "list")
    assert status == 0
    assert all(name in out for name in wanted[kind])


def test_one_method_in_full(capsys):
    status, out, _ = run(capsys, "methods", "show", "gkd:beta=0.2")
    assert status == 0
    assert "0.2" in out
    assert "beta" in out


def test_json_is_alone_on_stdout(capsys, small_copy, small_run):
    status, out, _ = run(capsys, "score", *flags(SMALL), "--output-dir", small_copy.path, "--json")
    assert status == 0
    records = json.loads(out)
    assert len(records) == len(small_run.summary)
    first = small_run.summary.iloc[0]
    assert records[0]["teacher"] == first["teacher"]
    assert records[0]["pooled"] == pytest.approx(first["pooled"])


def test_the_table_has_a_row_per_teacher_and_method(capsys, small_copy, small_run):
    status, out, _ = run(capsys, "score", *flags(SMALL), "--output-dir", small_copy.path)
    assert status == 0
    main_rows = small_run.summary[small_run.summary["split"] == "all"]
    for row in main_rows.itertuples():
        assert row.method in out
        assert interval(row.pooled, row.pooled_low, row.pooled_high) in out
    assert "targeted rollouts" in " ".join(out.split())  # lines wrap


def test_long_names_do_not_cut_the_numbers(capsys, small_run, tmp_path):
    """Off a terminal the table is as wide as it has to be."""
    folder, name = tmp_path / "run", "organisation/" + "long-" * 20 + "name+wrong-answer"
    shutil.copytree(small_run.path, folder)
    run_folder = RunFolder(str(folder))
    teachers = small_run.summary["teacher"].replace("demo:strong", name)
    for path in folder.glob("alignment/*.parquet"):
        table = pq.read_table(path).to_pandas()
        table["teacher"] = table["teacher"].astype(str).replace("demo:strong", name)
        pq.write_table(pa.Table.from_pandas(table).cast(schema("alignment")), path)
    rows = pa.Table.from_pandas(small_run.summary.assign(teacher=teachers)).cast(schema("summary"))
    run_folder.write_summary(rows)
    report = gradalign.read_report(str(folder))
    print_report(report, json_output=False)
    out = capsys.readouterr().out
    assert "…" not in out
    assert name in out
    for row in report.summary[report.summary["split"] == "all"].itertuples():
        assert interval(row.pooled, row.pooled_low, row.pooled_high) in out
    for command in (["recommend"], ["compare", str(folder)]):
        status, out, _ = run(capsys, command[0], str(folder), *command[1:])
        assert status == 0
        assert "…" not in out
        assert name in out


def test_environment_and_file_and_flag_in_order(capsys, monkeypatch, tmp_path):
    from gradalign_cli.options import build_config

    file = tmp_path / "settings.yaml"
    file.write_text("student: demo:student\nteachers: [demo:weak]\ntask: t\nnodes: 5\nseed: 7\n")
    config = build_config({"output_dir": "x", "nodes": 9, "seed": None}, str(file))
    assert (config.nodes, config.seed, config.teachers) == (9, 7, ["demo:weak"])
    monkeypatch.setenv("GRADALIGN_NODES", "0")
    status, _, err = run(capsys, "score", "--config", str(file), "--output-dir", str(tmp_path))
    assert status == 2
    assert "--nodes" in err


def test_a_saved_run_is_a_configuration(small_run):
    from gradalign.config import read_config_file

    values = read_config_file(f"{small_run.path}/run.json")
    assert ScoreConfig.build(values) == small_run.config


def test_prompts_are_shown_as_text_and_ids_and_nothing_runs(capsys, tmp_path):
    arguments = ["score", *flags(SMALL), "--output-dir", str(tmp_path / "run")]
    status, out, _ = run(capsys, *arguments, "--print-prompts", "2")
    assert status == 0
    assert not (tmp_path / "run").exists()
    assert out.count("--- ") == 2 * 3
    status, out, _ = run(capsys, *arguments, "--print-prompts", "1", "--json")
    views = json.loads(out)
    assert [view["reader"] for view in views] == ["student", *SMALL["teachers"]]
    assert "[" in views[2]["text"]
    assert len(views[2]["token_ids"]) > len(views[0]["token_ids"])


def test_one_task_in_full(capsys):
    status, out, _ = run(capsys, "tasks", "show", "demo:addition", "--limit", "2")
    assert status == 0
    assert out.count("--- ") == 2
    assert "verifier: demo:addition" in out


def test_a_sampling_warning(capsys, tmp_path):
    settings = {**SMALL, "limit": 1, "nodes": 2, "methods": ["gkd"], "temperature": 0.8}
    status, out, err = run(
        capsys,
        "score",
        *flags(settings),
        "--output-dir",
        str(tmp_path / "run"),
        "--display",
        "plain",
    )
    assert status == 0
    assert "temperature 0.8" in err
    assert "temperature 0.8" in out
