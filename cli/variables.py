"""GRADALIGN_ variables that nothing reads: a typing error in one would go unnoticed."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Mapping

from gradalign.config import ScoreConfig, flag_of
from gradalign.errors import UsageError

PREFIX = "GRADALIGN_"

OTHER = ("API_KEY", "CHROMIUM", "REQUIRE_ALL", "TEST_MODELS", "VALIDITY_MODELS", "VENV")
"""What else is read: the key of servers, and what the repository's scripts and tests ask for."""

ALIKE = 0.7
"""Names that resemble each other so much are one name and its misspelling."""


def check_variables(environment: Mapping[str, str] | None = None) -> None:
    """Find variables that look like settings and are none.

    One that is close to a setting's name is an error, because the run would go on without it.
    Any other gets a warning: it may belong to somebody else's script.

    Args:
        environment: the variables; those of this process by default.

    Raises:
        UsageError: a variable that is probably misspelt.
    """
    known = [*(name.upper() for name in ScoreConfig.model_fields), *OTHER]
    flags = {
        flag_of(name).removeprefix("--").replace("-", "_").upper(): name.upper()
        for name in ScoreConfig.model_fields
    }
    for name in sorted(os.environ if environment is None else environment):
        asked = name.upper().removeprefix(PREFIX)
        if not name.upper().startswith(PREFIX) or name in {f"{PREFIX}{item}" for item in known}:
            continue
        alike = difflib.get_close_matches(asked, [*known, *flags], n=1, cutoff=ALIKE)
        if alike:
            raise UsageError(
                f"the environment variable {name} is none of gradalign's.",
                f"Did you mean {PREFIX}{flags.get(alike[0], alike[0])}? Correct it or unset it.",
            )
        warnings.warn(
            f"the environment variable {name} is none of gradalign's and was not read.",
            stacklevel=2,
        )
