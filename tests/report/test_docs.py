"""The documentation says what is so: generated pages, listings, and the notebook run."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import SMALL

import gradalign
from gradalign.contexts import CONTEXTS
from gradalign.contexts import get as get_context
from gradalign.demo import model_path
from gradalign.diagnostics import NAMES
from gradalign.engines.registry import ENGINES, open_engine
from gradalign.engines.requests import Request
from gradalign.models.sampling import SamplingSettings
from gradalign.report.export import export
from gradalign_cli.main import main
from tests.requires import require

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


def test_good_numbers_are_those_of_the_kept_trainings():
    spec = importlib.util.spec_from_file_location("docs_reading", DOCS / "reading.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = json.loads(module.RESULTS.read_text())
    page = (DOCS / "reading.md").read_text()
    assert page == module.text(results), "run python docs/reading.py"
    rows = [row for pair in results["pairs"] for row in pair["configurations"]]
    shown = re.findall(r"^\| `(.*?)` \| ([+-]\d\.\d{3}) ± ", page, flags=re.MULTILINE)
    assert sorted(shown) == sorted((row["label"], f"{row['gain']:+.3f}") for row in rows)
    # Each table of bins counts every configuration with a teacher once.
    bins = re.findall(r"^\| [a-z0-9. ]+ \| (\d+) \| (\d+) \| (\d+) \|", page, flags=re.MULTILINE)
    taught = sum(bool(row["teacher"]) for row in rows)
    assert sum(int(count) for line in bins for count in line) == taught * len(module.NUMBERS)


PAGES = sorted([*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("http") or (page.parent / link).exists(), link


FACES = {
    "gradalign",
    "gradalign.contexts",
    "gradalign.engines",
    "gradalign.methods",
    "gradalign.tasks",
    "gradalign.verifiers",
}
"""What a user imports from: packages that say in `__all__` what is public."""


def listed_code() -> dict[str, str]:
    """Return the Python code that users are shown, by where it stands."""
    code = {
        f"{page.name}, listing {number}": text
        for page in PAGES
        for number, text in enumerate(
            re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL), 1
        )
    }
    cells = json.loads((DOCS / "example.ipynb").read_text())["cells"]
    code |= {
        f"example.ipynb, cell {number}": "".join(cell["source"])
        for number, cell in enumerate(cells, 1)
        if cell["cell_type"] == "code"
    }
    return code


LISTED = listed_code()


def test_there_is_code_in_pages_and_notebook():
    assert {place.split(",")[0] for place in LISTED} >= {
        "README.md",
        "CONTRIBUTING.md",
        "extending.md",
        "selective-distillation.md",
        "example.ipynb",
    }


@pytest.mark.parametrize("place", LISTED)
def test_listings_import_from_public_packages_only(place):
    for node in ast.walk(ast.parse(LISTED[place])):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gradalign"):
            assert node.module in FACES, f"{place}: from {node.module} import ..."
            public = importlib.import_module(node.module).__all__
            for alias in node.names:
                assert alias.name in public, f"{place}: {node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("gradalign"):
                    assert alias.name in FACES, f"{place}: import {alias.name}"


def test_the_readme_shows_the_page():
    text = (DOCS.parent / "README.md").read_text()
    ((alt, path),) = re.findall(r"!\[([^\]]*)\]\(([^)]*page\.png)\)", text)
    assert "page" in alt
    assert "gradalign report" in alt
    picture = (DOCS.parent / path).read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert picture[12:16] == b"IHDR"
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert 800 <= width <= 4000
    assert 400 <= height <= 6000
    assert picture.endswith(b"IEND\xaeB`\x82")
    assert 20_000 < len(picture) < 1_000_000


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
                    main([command, "--help-all"])
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
    assert "PlainEngine" in engine


def test_the_engine_of_extending_scores(tmp_path):
    *_, engine = listings("extending.md")
    names: dict = {"__name__": "listing"}
    exec(compile(engine, "engine", "exec", dont_inherit=True), names)
    model, sampling = str(model_path("student")), SamplingSettings(stop_token_ids=(2,))
    try:
        with open_engine("plain", model, sampling=sampling) as mine:
            requests = [Request((1, 5 + i, 7), 6, seed=i) for i in range(4)]
            together = {i: done.token_ids.tolist() for i, done in mine.generate(requests)}
            for i, request in enumerate(requests):
                ((_, alone),) = mine.generate([request])
                assert together[i] == alone.token_ids.tolist()
            with open_engine("transformers", model, sampling=sampling) as theirs:
                sequences, starts = [(1, 5, 7, 9, 8), (1, 6, 6)], [3, 1]
                pairs = zip(
                    mine.logprobs(sequences, starts),
                    theirs.logprobs(sequences, starts),
                    strict=True,
                )
                for one, other in pairs:
                    np.testing.assert_allclose(one, other, atol=1e-4)
        settings = {
            **SMALL,
            "limit": 1,
            "teachers": ["demo:strong"],
            "methods": ["opd"],
            "diagnose": ["none"],
            "engine": "plain",
        }
        report = gradalign.score(**settings, output_dir=str(tmp_path / "run"))
        assert report.metadata["noise_floor"]["largest"] < 1e-3
        assert report.summary["pooled"].notna().any()
    finally:
        ENGINES._items.pop("plain")


def test_the_listing_of_selective_distillation_trains(small_run, tmp_path, monkeypatch):
    require("trl")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.chdir(tmp_path)
    export(small_run, "weights.parquet", teacher="demo:strong", method="gkd")
    (code,) = listings("selective-distillation.md")
    for short_and_quiet in ("max_steps=2", "report_to=[]", "use_cpu=True", "bf16=False"):
        code = code.replace('GKDConfig("out", ', f'GKDConfig("out", {short_and_quiet}, ')
    names = {"STUDENT": str(model_path("student")), "TEACHER": str(model_path("strong"))}
    exec(compile(code, "listing", "exec", dont_inherit=True), names)
    trainer = names["trainer"]
    losses = [entry for entry in trainer.state.log_history if "train_loss" in entry]
    assert losses
    assert 0 < losses[-1]["train_loss"] < 1
    # With weights of 0 and 1: TRL's own loss where the labels of what weighs 0 are left out.
    rows = [names["row"](item) for item in names["frame"].to_dict("records")]
    batch = names["collate"](rows)
    assert set(batch["weights"].unique().tolist()) == {0.0, 1.0}
    own = trainer.compute_loss(trainer.model, dict(batch))
    masked = batch["labels"].masked_fill(batch["weights"] == 0, -100)
    theirs = trainer_class(trainer).compute_loss(trainer, trainer.model, batch | {"labels": masked})
    assert own.item() == pytest.approx(theirs.item(), rel=1e-5)
    # And the weights decide what is learned: without any, nothing.
    nothing = batch | {"weights": torch.zeros_like(batch["weights"])}
    assert trainer.compute_loss(trainer.model, nothing).item() == 0.0


def trainer_class(trainer):
    """TRL's own trainer, of which the listing's is a subclass."""
    return type(trainer).__mro__[1]


@pytest.mark.slow
def test_the_numbers_of_the_first_command_are_those_that_it_prints(tmp_path):
    """Within what another processor's rounding may change; other seeds would change more."""
    from gradalign_cli.commands.demo import SETTINGS

    place = {"output_dir": str(tmp_path / "run"), "engine": "transformers", "device": "cpu"}
    report = gradalign.score(**SETTINGS, **place, diagnose=["none"], control=True)
    readme = (DOCS.parent / "README.md").read_text()
    (block,) = re.findall(r"^    Alignment with .*\n((?: {4}.*\n)+)", readme, flags=re.MULTILINE)
    teacher, shown = "", {}
    for line in block.splitlines()[2:]:
        numbers = re.findall(r"(?<= )[+-]?\d[\d.]*%?(?= |$)", re.sub(r"\[.*?\]", " ", line))
        if line.startswith("      "):
            shown[teacher, line.split()[0]] = [float(number.rstrip("%")) for number in numbers]
        elif not numbers:
            teacher = "" if "no teacher" in line else line.strip().removesuffix(" (control)")
    (nodes, flat) = re.search(r"In every row: nodes ([\d,]+), flat ([\d,]+)\.", block).groups()
    whole = report.summary[report.summary["split"] == "all"]
    assert {(row.teacher, row.method) for row in whole.itertuples()} == set(shown)
    parts = report.summary.set_index(["teacher", "method", "split"])["pooled"]
    for row in whole.itertuples():
        pooled, mean, correct, incorrect, positive = shown[row.teacher, row.method]
        assert pooled == pytest.approx(row.pooled, abs=0.02)
        assert mean == pytest.approx(row.mean_cosine, abs=0.02)
        assert correct == pytest.approx(parts[row.teacher, row.method, "correct"], abs=0.04)
        assert incorrect == pytest.approx(parts[row.teacher, row.method, "incorrect"], abs=0.04)
        assert positive == pytest.approx(100 * row.positive_share, abs=2)
        assert int(nodes.replace(",", "")) == row.num_nodes
        assert int(flat.replace(",", "")) == pytest.approx(row.num_flat, rel=0.02)
    # The same run in the table of costs.
    costs = (DOCS / "costs.md").read_text()
    for label, name in (
        ("generated tokens of spines", "spine_tokens"),
        ("candidates", "branches"),
        ("targeted rollouts", "continuations"),
        ("generated tokens of targeted rollouts", "continuation_tokens"),
        ("tokens read in these passes", "forced_tokens"),
        ("continuation tokens scored", "scored_tokens"),
    ):
        (row,) = re.findall(rf"^\| {label} \| (.*) \| .* \| (.*) \|$", costs, flags=re.MULTILINE)
        plan, actual = (int(text.replace(",", "")) for text in row)
        assert plan == report.metadata["plan"]["figures"][name]
        assert actual == pytest.approx(report.metadata["actual"]["figures"][name], rel=0.02)


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
