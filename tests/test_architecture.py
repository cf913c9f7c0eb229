"""Imports point one way: from what uses to what is used, also inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import gradalign

ROOT = Path(gradalign.__file__).parent

ROOMS = (
    "__init__",
    "api",
    "rescoring",
    "pipeline",
    "report",
    "planning",
    "checkup",
    "executors",
    "order",
    "diagnostics",
    "analysis",
    "stages",
    "engines",
    "models",
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

MOST = 16
"""Modules in one folder, its `__init__` aside: more cannot be taken in at a glance."""


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(("gradalign", *path.relative_to(ROOT).with_suffix("").parts))
        found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path, known: set[str]) -> Iterator[tuple[str, int]]:
    """Yield what a module imports of the package, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gradalign":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield (name if name in known else str(node.module)), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "gradalign":
                    yield alias.name, node.lineno


def room(name: str) -> str:
    """Return the module or package at the top that a module belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_room_has_its_place():
    assert {room(name) for name in modules()} == set(ROOMS)


def test_no_import_goes_up():
    known = modules()
    up = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for name, path in known.items()
        for target, line in imported(path, set(known))
        if room(name) != room(target) and ROOMS.index(room(target)) < ROOMS.index(room(name))
    ]
    assert not up, "\n".join(up)


def test_folders_can_be_taken_in_at_a_glance():
    full = {
        str(folder.relative_to(ROOT)): count
        for folder in (ROOT, *(path for path in ROOT.rglob("*") if path.is_dir()))
        if (count := sum(1 for path in folder.glob("*.py") if path.name != "__init__.py")) > MOST
    }
    assert not full
