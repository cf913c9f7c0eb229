"""Gains of real trainings, from a table of the user's, to hold rehearsed ones against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradalign.errors import UsageError
from gradalign.estimates import Arm

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("teacher", "method", "steps", "gain")


def read_measured(path: str, arms: Sequence[Arm]) -> pd.DataFrame:
    """Read a CSV file of gains.

    Args:
        path: the file; columns `COLUMNS`, a row per training and number of steps. The teacher is
            empty for methods that look at none.
        arms: of the run.

    Raises:
        UsageError: the file cannot be read, lacks a column, or has no row of these arms.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--measured {path} cannot be read: {error}.") from None
    if lacking := [name for name in COLUMNS if name not in table.columns]:
        raise UsageError(
            f"--measured {path} has no column {lacking[0]!r}.",
            f"Give {', '.join(COLUMNS)}, a row per training and number of steps.",
        )
    table = table[list(COLUMNS)]
    table["teacher"] = table["teacher"].fillna("").astype(str)
    for name in ("steps", "gain"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    known = {tuple(arm) for arm in arms}
    pairs = zip(table["teacher"], table["method"].astype(str), strict=True)
    table = table[[pair in known for pair in pairs]].dropna()
    if not len(table):
        raise UsageError(
            f"--measured {path} has no gain of a teacher and method of the run.",
            f"It has {', '.join(map(str, arms[:3]))}, ...",
        )
    return table
