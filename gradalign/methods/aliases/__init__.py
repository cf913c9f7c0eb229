"""What trainers' own options are called here: one table, and their files read by it."""

from __future__ import annotations

from gradalign.methods.aliases.files import read_settings
from gradalign.methods.aliases.table import Spelling, Trainer, chosen, listed, spelled, trainers

__all__ = ["Spelling", "Trainer", "chosen", "listed", "read_settings", "spelled", "trainers"]
