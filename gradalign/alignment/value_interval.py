"""An interval for a success probability that few rollouts have measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_REACH = 1.959963984540054
"""Of a normal distribution 95 % lie within this many standard deviations."""


def value_interval(value: float, var: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of V, within [0, 1]; NaN where nothing was measured.

    A value that is 0 or 1 in all of few rollouts has a sample variance of 0 and is not certain:
    Wilson's interval inverts the test of V and does not use that variance. Where the variance says
    something, the number of rollouts is replaced by the number of independent ones that would have
    it, V (1 - V) / var, because values of later nodes make it smaller than the count's.

    Args:
        value: estimate of V, in [0, 1].
        var: its estimated variance; what is not positive says nothing.
        count: rollouts behind it; infinite where V is known.
    """
    if not math.isfinite(value) or not count > 0:
        return math.nan, math.nan
    value = min(max(value, 0.0), 1.0)
    spread = value * (1.0 - value)
    number = spread / var if var > 0 and spread > 0 else float(count)
    square = _REACH**2
    middle = value + square / (2.0 * number)
    reach = _REACH * math.sqrt(spread / number + (square / number**2) / 4.0)
    scale = 1.0 + square / number
    return max((middle - reach) / scale, 0.0), min((middle + reach) / scale, 1.0)


def branch_interval(row: Mapping[Any, Any], resolved: Mapping[str, Any]) -> tuple[float, float]:
    """Return the interval of V of a row of `branches`.

    A candidate that ends the response has a known V: its verdict.

    Args:
        row: a row of `branches`.
        resolved: `resolved` of run.json.
    """
    ends = int(row["token_id"]) in resolved.get("stop_token_ids", ())
    last = resolved.get("max_tokens")
    ends = ends or (last is not None and int(row["position"]) + 1 >= int(last))
    count = math.inf if ends else float(row["num_continuations"])
    return value_interval(float(row["value"]), float(row["value_var"]), count)
