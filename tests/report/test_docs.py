"""The documentation says what is so: generated pages, listings, and the notebook run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from gradalign.contexts import get as get_context
from gradalign.contexts.base import CONTEXTS
from gradalign.diagnostics import NAMES
from gradalign.report.export import export
from gradalign_cli.main import main

DOCS = Path(__file__).parents[2] / "docs"


def listings(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


def test_columns_are_those_of_the_schemas():
    spec = importlib.util.spec_from_file_location("docs_columns", DOCS / "columns.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (DOCS / "columns.md").read_text()
    assert text == module.text(), "run python docs/columns.py"
    empty = [line for line in text.splitlines() if re.match(r"\| `\w+` \| .* \|  \|", line)]
    assert not empty, f"columns without a meaning: {empty}"


PAGES = sorted([*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_the_readme_shows_the_page():
    assert "](docs/images/page.png)" in (DOCS.parent / "README.md").read_text()
    assert (DOCS / "images" / "page.png").read_bytes().startswith(b"\x89PNG")


def test_every_diagnostic_is_explained():
    text = (DOCS / "diagnostics.md").read_text()
    for name in NAMES:
        assert f"## {name}\n" in text
        assert f"| `{name}` |" in text


def test_commands_of_the_docs_have_these_options(capsys, monkeypatch):
    """Every `gradalign COMMAND --option` in the docs is an option of that command."""
    monkeypatch.setenv("COLUMNS", "200")
    help_of: dict[str, str] = {}
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for command, rest in re.findall(r"^ {4}gradalign (\w+)(.*)$", text, flags=re.MULTILINE):
            if command not in help_of:
                with pytest.raises(SystemExit):
                    main([command, "--help"])
                help_of[command] = capsys.readouterr().out
            for option in re.findall(r"(?<!\S)(--[a-z-]+)", rest):
                assert option in help_of[command], f"{page.name}: gradalign {command} {option}"


def test_the_listings_of_extending_work(monkeypatch):
    task, verifier, context, engine = listings("extending.md")
    names: dict = {"__name__": "listing"}
    exec(compile(task, "task", "exec", dont_inherit=True), names)
    found = names["Countdown"]().questions(3, seed=1)
    assert [q.id for q in found] == [q.id for q in names["Countdown"]().questions(3, seed=1)]
    exec(compile(verifier, "verifier", "exec", dont_inherit=True), names)
    assert names["shorter"](found[0].answer, found[0]) == 1.0
    assert names["shorter"]("", found[0]) == 0.0
    exec(compile(context, "context", "exec", dont_inherit=True), names)
    try:
        made = get_context("first-character", found)
        prompt = made.prompt(found[0], None, ())
        assert prompt.startswith(f"The answer begins with {found[0].answer[0]}.")
        assert prompt.endswith(found[0].prompt)
    finally:
        CONTEXTS._items.pop("first-character")
    compile(engine, "engine", "exec", dont_inherit=True)


def test_the_listing_of_selective_distillation_trains(small_run, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    from gradalign.demo import model_path

    monkeypatch.chdir(tmp_path)
    export(small_run, "weights.parquet", teacher="demo:strong", method="gkd")
    (code,) = listings("selective-distillation.md")
    code = code.replace(
        'TrainingArguments("out", ',
        'TrainingArguments("out", max_steps=2, report_to=[], use_cpu=True, ',
    )
    names = {"STUDENT": str(model_path("student")), "TEACHER": str(model_path("strong"))}
    exec(compile(code, "listing", "exec", dont_inherit=True), names)
    losses = [entry for entry in names["trainer"].state.log_history if "train_loss" in entry]
    assert losses
    assert 0 < losses[-1]["train_loss"] < 1


@pytest.mark.slow
def test_the_notebook_runs():
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(DOCS / "example.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    html = [o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert any("pooled" in text for text in html)
    assert not [output for output in outputs if output.output_type == "error"]
