"""What is installed is what is in the tree."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed(project):
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "gradalign").rglob("__init__.py")
    } | {
        ".".join(("gradalign_cli", *path.parent.relative_to(ROOT / "cli").parts))
        for path in (ROOT / "cli").rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == found


def test_every_data_file_is_taken_along(project):
    globs = project["tool"]["setuptools"]["package-data"]
    taken = {
        file
        for package, patterns in globs.items()
        for pattern in patterns
        for file in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    data = {
        path
        for path in (ROOT / "gradalign").rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    assert data <= taken


def test_public_names_exist():
    import gradalign

    for name in gradalign.__all__:
        assert getattr(gradalign, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gradalign.nothing


def test_installed_command_runs():
    done = subprocess.run(
        [str(Path(sys.executable).parent / "gradalign"), "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("gradalign ")


def test_contributing_shows_the_method_that_a_test_runs():
    example = (ROOT / "tests" / "methods" / "example_method.py").read_text()
    code = example.split('"""\n\n', 1)[1].strip()
    assert f"```python\n{code}\n```" in (ROOT / "CONTRIBUTING.md").read_text()


def test_ci_runs_the_readmes_test_command():
    command = "./dev pytest"
    assert f"    {command}\n" in (ROOT / "README.md").read_text()
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


ONLY_DECLARED = """
import importlib.machinery, json, sys

hidden = frozenset(json.loads(sys.argv.pop(1)))


class Declared(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.partition(".")[0] in hidden:
            return None
        return super().find_spec(fullname, path, target)


sys.meta_path[:] = [
    Declared if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path
]
from gradalign_cli.main import main

main()
"""


def needed(requirements):
    """Return the distributions that requirements ask for, with all that these ask for."""
    found, waiting = set(), [(Requirement(text), ("",)) for text in requirements]
    while waiting:
        requirement, extras = waiting.pop()
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = canonicalize_name(requirement.name)
        asked = (name, frozenset(requirement.extras))
        if asked in found:
            continue
        found.add(asked)
        try:
            more = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # such as one for another system
            continue
        waiting += [(Requirement(text), ("", *requirement.extras)) for text in more]
    return {name for name, _ in found}


def test_a_run_needs_no_more_than_the_declared_dependencies(project, tmp_path):
    """The first command, where only what pip installs with gradalign can be imported."""
    declared = needed(project["project"]["dependencies"]) | {"gradalign"}
    assert "torch" in declared
    hidden = [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & declared
    ]
    assert "pytest" in hidden
    options = ["--limit", "2", "--num-rollouts", "1", "--nodes", "2", "--continuations", "2"]
    done = subprocess.run(
        [
            *(sys.executable, "-c", ONLY_DECLARED, json.dumps(hidden)),
            *("score", "--student", "demo:student", "--teacher", "demo:strong"),
            *("--teacher", "self+answer", "--task", "demo:addition", *options),
            *("--device", "cpu", "--output-dir", str(tmp_path / "run")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 questions" in done.stdout
