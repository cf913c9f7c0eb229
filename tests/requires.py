"""Optional dependencies of tests: skipped when absent, unless everything is demanded."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

import pytest


def require(module: str) -> ModuleType:
    """Import a module, or skip; with GRADALIGN_REQUIRE_ALL=1 its absence is a failure."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if os.environ.get("GRADALIGN_REQUIRE_ALL") == "1":
            pytest.fail(f"{module} is missing and GRADALIGN_REQUIRE_ALL is set: {error}")
        pytest.skip(f"needs {module}: {error}", allow_module_level=True)


def needs(*modules: str) -> None:
    """Skip a file of tests where a module is absent, or fail; nothing is imported for that.

    Every worker collects every file, and few run it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            require(module)
