"""What is installed is what is in the tree."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed(project):
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "gradalign").rglob("__init__.py")
    } | {"gradalign_cli"}
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
