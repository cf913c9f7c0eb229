"""The source of a user's own modules and plugins, hashed: which code a run's results come from."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

_LIBRARIES = (
    *(
        Path(sysconfig.get_path(name)).resolve()
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ),
    Path(__file__).resolve().parent,  # gradalign, also where it is used from a checkout
)


def source_fingerprint(module: str) -> str | None:
    """Hash a module's file, and every module of the user's own that it imports.

    The files are read and not run. What is installed (the standard library, gradalign, other
    packages) is not followed; of an installed module its own file is hashed.

    Args:
        module: its dotted name.

    Returns:
        A hash, None if there is no source to be found.
    """
    files: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        for full in _with_parents(name):
            if full in files:
                continue
            path = _source_of(full)
            if path is None or (full != module and _installed(path)):
                continue
            try:
                files[full] = path.read_bytes()
            except OSError:
                continue
            if not _installed(path):
                waiting += _imports(files[full], full, path.name == "__init__.py")
    if module not in files:
        return None
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode())
        digest.update(files[name])
    return "sha256:" + digest.hexdigest()


def plugin_fingerprint(group: str, name: str) -> str | None:
    """Hash what an installed plugin comes from: its distribution's version and its module.

    Args:
        group: of entry points, such as gradalign.methods.
        name: of the entry point.

    Returns:
        A hash, None if no plugin has that name.
    """
    for point in _entry_points(group, _installed_now()).select(name=name):
        version = f"{point.dist.name} {point.dist.version}" if point.dist else ""
        source = source_fingerprint(point.module) or ""
        return "sha256:" + hashlib.sha256(f"{version}\n{source}".encode()).hexdigest()
    return None


@lru_cache(maxsize=16)
def _entry_points(group: str, installed: tuple[tuple[str, int], ...]) -> EntryPoints:
    """Return a group's plugins; to find them, a file of each installed distribution is read."""
    return entry_points(group=group)


def _installed_now() -> tuple[tuple[str, int], ...]:
    """Return what changes when something is installed: the path, and times of its folders."""
    folders = [Path(entry or ".") for entry in sys.path]
    return tuple((str(path), path.stat().st_mtime_ns if path.exists() else 0) for path in folders)


def _with_parents(name: str) -> Iterator[str]:
    """Yield a, a.b and a.b.c of a.b.c: importing the last one runs all of them."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])


def _source_of(name: str) -> Path | None:
    """Find the file of a module as importing it would, without importing its parents."""
    path: list[str] | None = None
    spec: ModuleSpec | None = None
    for full in _with_parents(name):
        spec = None
        for finder in sys.meta_path:
            try:
                spec = finder.find_spec(full, path)
            except (ImportError, AttributeError, ValueError):
                continue
            if spec is not None:
                break
        if spec is None:
            return None
        places = spec.submodule_search_locations
        path = None if places is None else list(places)
        if path is None and full != name:
            return None
    if spec is None or not spec.has_location or not spec.origin:
        return None
    found = Path(spec.origin)
    return found if found.is_file() else None


def _installed(path: Path) -> bool:
    return any(path.resolve().is_relative_to(library) for library in _LIBRARIES)


def _imports(source: bytes, module: str, is_package: bool) -> Iterator[str]:
    """Yield the names of the modules that a source imports, wherever in it."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # whoever imports it reports it
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
