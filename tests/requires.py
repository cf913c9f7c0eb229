"""Optional dependencies of tests: skipped when absent, unless everything is demanded."""

from __future__ import annotations

import importlib
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
