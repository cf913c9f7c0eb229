"""Imports point one way: from what uses to what is used, also inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import gradalign
import gradalign_cli

ROOT = Path(gradalign.__file__).parent
ROOTS = {"gradalign": ROOT, "gradalign_cli": Path(gradalign_cli.__file__).parent}

ROOMS = (
    "__init__",
    "api",
    "rescoring",
    "pipeline",
    "report",
    "planning",
    "checkup",
    "lint",
    "executors",
    "order",
    "diagnostics",
    "rehearsal",
    "analysis",
    "stages",
    "engines",
    "models",
    "tokenization",
    "tasks",
    "contexts",
    "verifiers",
    "store",
    "methods",
    "branching",
    "alignment",
    "estimates",
    "rounding",
    "reasoning_gym_data",
    "questions",
    "plain_numbers",
    "demo",
    "config",
    "setting_errors",
    "limits",
    "sources",
    "registry",
    "progress",
    "runtime",
    "errors",
)
"""Every module and package at the top of gradalign; each may import those below it."""

FACADE = "gradalign.report.report"
"""Its class is short for what others do with it: `Report.plot` makes a `Plots`, which takes a
`Report`. Those others may name it as a type, and as nothing else."""

MOST = 16
"""Modules in one folder, its `__init__` aside: more cannot be taken in at a glance."""


@dataclass(frozen=True)
class Import:
    """What a module imports of ours.

    Attributes:
        target: the imported module, or the package if a name of its `__init__` is imported.
        line: where.
        as_type: whether it is under `if TYPE_CHECKING`, and never done.
    """

    target: str
    line: int
    as_type: bool


@cache
def modules(package: str = "gradalign") -> dict[str, Path]:
    """Return every module of a package by its dotted name."""
    found = {}
    for path in ROOTS[package].rglob("*.py"):
        name = ".".join((package, *path.relative_to(ROOTS[package]).with_suffix("").parts))
        found[name.removesuffix(".__init__")] = path
    return found


@cache
def imports() -> dict[str, list[Import]]:
    """Return what every module of both packages imports of them, also inside functions."""
    known = {name: path for package in ROOTS for name, path in modules(package).items()}
    return {name: list(imported(name, path, set(known))) for name, path in known.items()}


def imported(name: str, path: Path, known: set[str]) -> Iterator[Import]:
    """Yield what a module imports of `known`."""
    tree = ast.parse(path.read_text())
    types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for part in node.body
        for inner in ast.walk(part)
    }
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
            targets = [target if target in known else base for target in targets]
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            continue
        for target in targets:
            if target.split(".")[0] in ROOTS:
                yield Import(target, node.lineno, node in types)


def room(name: str) -> str:
    """Return the module or package at the top that a module belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_room_has_its_place():
    assert {room(name) for name in modules()} == set(ROOMS)


def test_no_import_goes_up():
    up = [
        f"{path.relative_to(ROOT)}:{found.line} imports {found.target}"
        for name, path in modules().items()
        for found in imports()[name]
        if room(name) != room(found.target)
        and ROOMS.index(room(found.target)) < ROOMS.index(room(name))
    ]
    assert not up, "\n".join(up)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of a circle, none if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other():
    """Neither when they are loaded nor later; a registry that loads by name is no import."""
    graph = {
        name: {one.target for one in found if not (one.as_type and one.target == FACADE)}
        for name, found in imports().items()
    }
    assert set().union(*graph.values()) <= graph.keys()
    assert not circle(graph)


@pytest.mark.parametrize(
    "text",
    [
        "from gradalign import config",
        "def f():\n    from gradalign.config import LEVELS",
        "def f():\n    import gradalign.config",
        "if TYPE_CHECKING:\n    from gradalign.config import ScoreConfig",
        "from .config import LEVELS",
        "from . import config",
    ],
)
def test_a_circle_is_found_wherever_the_import_is(text, tmp_path):
    (path := tmp_path / "errors.py").write_text(text)
    (found,) = imported("gradalign.errors", path, set(imports()))
    assert (found.target, found.as_type) == ("gradalign.config", text.startswith("if"))
    graph = {"gradalign.config": {found.target for found in imports()["gradalign.config"]}}
    assert not circle(graph)
    assert circle({**graph, "gradalign.errors": {found.target}})


def test_folders_can_be_taken_in_at_a_glance():
    full = {
        str(folder.relative_to(ROOT)): count
        for folder in (ROOT, *(path for path in ROOT.rglob("*") if path.is_dir()))
        if (count := sum(1 for path in folder.glob("*.py") if path.name != "__init__.py")) > MOST
    }
    assert not full


def test_no_module_has_the_name_of_an_installed_one():
    """Workers of engines find what lies beside their own modules first."""
    assert not set(ROOMS) & set(packages_distributions())
