"""The source of a user's own modules: what it imports counts, what is installed does not."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from gradalign.sources import plugin_fingerprint, source_fingerprint


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    importlib.invalidate_caches()


def test_the_module_itself(path):
    write(path / "graded.py", "raise SystemExit('never run')")
    before = source_fingerprint("graded")
    assert before is not None
    assert source_fingerprint("graded") == before
    write(path / "graded.py", "raise SystemExit('not run either')")
    assert source_fingerprint("graded") != before
    assert "graded" not in sys.modules


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("import helping", "helping.py"),
        ("def f():\n    from helping import x", "helping.py"),
        ("import helping.deep.tools as t", "helping/deep/tools.py"),
        ("from helping.deep import tools", "helping/deep/tools.py"),
        ("import helping.deep.tools", "helping/__init__.py"),
    ],
)
def test_what_a_module_imports(path, text, part):
    write(path / "marks.py", f"import os, json, numpy\n{text}")
    if part == "helping.py":
        write(path / part, "x = 1")
    else:
        for name in ("__init__", "deep/__init__", "deep/tools"):
            write(path / "helping" / f"{name}.py", "x = 1")
    before = source_fingerprint("marks")
    write(path / part, "x = 2")
    assert source_fingerprint("marks") != before


def test_relative_imports_and_parents_of_a_package(path):
    for name in ("__init__", "marks", "scale", "sub/__init__", "sub/inner"):
        write(path / "pack" / f"{name}.py", "")
    write(path / "pack" / "sub" / "inner.py", "from .. import scale\nfrom ..marks import x")
    seen = {source_fingerprint("pack.sub.inner")}
    for name in ("__init__", "marks", "scale", "sub/__init__"):
        write(path / "pack" / f"{name}.py", "changed = True")
        seen.add(source_fingerprint("pack.sub.inner"))
    write(path / "pack" / "other.py", "nobody imports it")
    seen.add(source_fingerprint("pack.sub.inner"))
    assert len(seen) == 5


def test_modules_that_import_each_other(path):
    write(path / "one.py", "import other_one")
    write(path / "other_one.py", "import one")
    before = source_fingerprint("one")
    write(path / "other_one.py", "import one  # changed")
    assert None is not before != source_fingerprint("one")


def test_what_comes_with_gradalign_is_not_followed(path, monkeypatch):
    """In a checkout as where it is installed: a verifier imports some of it, that nearly all."""
    from gradalign import errors

    write(path / "marks.py", "from gradalign.errors import VerifierError")
    before = source_fingerprint("marks")
    read, original = [], Path.read_bytes

    def spy(self):
        read.append(self)
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", spy)
    assert source_fingerprint("marks") == before
    assert read == [path / "marks.py"]
    read.clear()
    assert source_fingerprint("gradalign.errors") is not None
    assert read == [Path(errors.__file__)]


def test_no_source(path):
    assert source_fingerprint("nobody_has_written_this") is None
    assert source_fingerprint("sys") is None
    write(path / "broken.py", "def (")
    assert source_fingerprint("broken") is not None
    assert plugin_fingerprint("gradalign.methods", "nobody_has_installed_this") is None


def test_a_plugin_is_known_by_its_version_and_its_module(path):
    def install(version: str, text: str) -> str | None:
        for old in path.glob("plug-*.dist-info/*"):
            old.unlink()
        info = path / f"plug-{version}.dist-info"
        write(info / "METADATA", f"Metadata-Version: 2.1\nName: plug\nVersion: {version}\n")
        write(info / "entry_points.txt", "[made.up.group]\ncare = plugged_in:Care\n")
        write(path / "plugged_in.py", text)
        for folder in path.glob("plug-*.dist-info"):
            if not list(folder.iterdir()):
                folder.rmdir()
        return plugin_fingerprint("made.up.group", "care")

    first = install("1.0", "Care = 1")
    assert first is not None
    assert install("1.0", "Care = 1") == first
    assert len({first, install("1.0", "Care = 2"), install("1.1", "Care = 1")}) == 3
