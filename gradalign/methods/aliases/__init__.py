"""What trainers' own options are called here: one table, and their files read by it."""

from __future__ import annotations

from gradalign.methods.aliases.files import (
    STANDARD_INPUT,
    overrides_of,
    read_settings,
    read_text,
    settings_of,
)
from gradalign.methods.aliases.table import (
    Beside,
    Spelling,
    Trainer,
    Version,
    chosen,
    listed,
    recognised,
    spelled,
    trainers,
)

__all__ = [
    "STANDARD_INPUT",
    "Beside",
    "Spelling",
    "Trainer",
    "Version",
    "chosen",
    "listed",
    "overrides_of",
    "read_settings",
    "read_text",
    "recognised",
    "settings_of",
    "spelled",
    "trainers",
]
