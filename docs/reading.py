"""Write docs/reading.md from the kept trainings: python docs/reading.py."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "predictive_validity.json"

CLEAR = 0.03
"""A gain in success that is this far from 0, by more than two standard errors, is one."""

CONTROL_METHODS = ("random", "uniform_negative")
CONTROL_TEACHERS = ("self+wrong-answer", "self+other-answer", "self+reference-free")

NUMBERS = (
    ("pooled", "pooled", (0.0, 0.2, 0.4)),
    ("weights", "cosine of the weights", (0.0, 0.2, 0.5)),
    ("gain_one", "gain per step, 1 question", (0.0, 0.2, 0.4)),
    ("gain_batch", "gain per step, 32", (0.0, 0.5, 1.0)),
)
"""What the tool says: the benchmark's name of it, its heading, and the edges of its bins."""

ENDS = {"pooled": ("pooled_low", "pooled_high"), "weights": ("weights_low", "weights_high")}
"""The 95 % intervals that the results hold."""

GROUPS = {
    "well": "trained well",
    "little": "hardly moved",
    "badly": "trained badly",
}

INTRODUCTION = """# What is a good number?

Generated from `benchmarks/results/predictive_validity.json` by `python docs/reading.py`; a test
holds it to that file. What is meant by +0.1 or +0.4 can only be said by looking at teachers that
were trained. Here is every configuration of the two pairs that we have trained
([how](../benchmarks/README.md#does-it-tell-the-truth)), with what `gradalign score` said of it
before, and what training gained: success on held-out questions after less before.

Trained **well** is a gain above +{clear:.2f}, **badly** one below -{clear:.2f}, in both cases by
more than two standard errors over seeds; the rest hardly moved. Controls are the random
direction, a constant negative advantage (`uniform_negative`, that of "Does on-policy distillation
really distill?", arXiv 2608.31046), and the student told a false answer, another question's answer
or nothing in the same words (`reference-free`). Two pairs of tiny models are few: a gain per step
is in units of these models' weights, so compare it within a run and not between students. A cosine
has no unit, and its size depends on the method.

Read the interval first: a number whose interval holds 0 says nothing yet, however large it is.
`{random}` shows how far from 0 a direction without any meaning comes.
"""


def group_of(row: Mapping[str, Any]) -> str:
    """Say how a configuration trained."""
    reach = CLEAR + 2 * row["gain_se"]
    return "well" if row["gain"] >= reach else "badly" if row["gain"] <= -reach else "little"


def is_control(row: Mapping[str, Any]) -> bool:
    """Whether a configuration teaches nothing, or something false or useless."""
    return row["method"] in CONTROL_METHODS or row["teacher"] in CONTROL_TEACHERS


def _place(row: Mapping[str, Any]) -> str:
    return "control" if is_control(row) else group_of(row)


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:+.{digits}f}"


def _cell(row: Mapping[str, Any], name: str) -> str:
    text = _number(row.get(name))
    if name not in ENDS or row.get(name) is None:
        return text
    return f"{text} [{', '.join(_number(row[end]) for end in ENDS[name])}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join([_line(heads), _line(["---"] * len(heads)), *map(_line, rows)])


def _trained(pair: Mapping[str, Any]) -> str:
    """Every configuration of a pair, the best training first."""
    heads = ["configuration", "gain in training", *(head for _, head, _ in NUMBERS)]
    parts = [
        f"\n## {pair['pair']}\n\nThe student succeeds at {pair['before']:.2f} before; "
        f"{pair['steps']} steps, {pair['seeds']} seeds.\n"
    ]
    rows = sorted(pair["configurations"], key=lambda row: -row["gain"])
    for group, title in (*GROUPS.items(), ("control", "controls")):
        own = [row for row in rows if _place(row) == group]
        if not own:
            continue
        lines = [
            [
                f"`{row['label']}`",
                f"{_number(row['gain'], 3)} ± {row['gain_se']:.3f}",
                *(_cell(row, name) for name, _, _ in NUMBERS),
            ]
            for row in own
        ]
        parts.append(f"\n### {pair['pair']}: {title}\n\n{_table(heads, lines)}")
    return "".join(parts)


def _bins(edges: Sequence[float]) -> list[tuple[str, float, float]]:
    ends = [float("-inf"), *edges, float("inf")]
    names = [
        f"below {edges[0]:g}",
        *(f"{low:g} to {high:g}" for low, high in itertools.pairwise(edges)),
        f"above {edges[-1]:g}",
    ]
    return list(zip(names, ends[:-1], ends[1:], strict=True))


def _meaning(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Count, by what the tool said, how configurations trained."""
    rows = [row for pair in pairs for row in pair["configurations"] if row["teacher"]]
    parts = [
        "\n## What followed from which number\n\nAll configurations with a teacher of both pairs, "
        "the controls among them: how many trained how, and the range of their gains.\n"
    ]
    for name, head, edges in NUMBERS:
        lines = []
        for title, low, high in _bins(edges):
            own = [row for row in rows if row.get(name) is not None and low <= row[name] < high]
            gains = sorted(row["gain"] for row in own)
            spread = f"{_number(gains[0])} to {_number(gains[-1])}" if gains else "-"
            counts = [str(sum(group_of(row) == group for row in own)) for group in GROUPS]
            lines.append([title, *counts, spread])
        table = _table([head, *GROUPS.values(), "gains"], lines)
        parts.append(f"\n{table}")
    return "".join(parts)


def _information(pairs: Sequence[Mapping[str, Any]]) -> str:
    """What the words alone explain of what teachers that were told something do."""
    parts = [
        "\n## What the information has, and what the words alone\n\n`self+reference-free` is the "
        "student in a told teacher's words without what is told. A told teacher less that one is "
        "what the information itself has: in gain per step (1 question, 95 % interval), and in "
        "training (± one standard error over seeds), each the mean over forward KL, JSD and "
        "reverse KL.\n"
    ]
    heads = ["pair", "teacher", "gain per step", "reference-free", "difference",
             "gain in training", "reference-free", "difference"]  # fmt: skip
    lines = [
        [
            pair["pair"],
            f"`{row['teacher']}`",
            _number(row["said_told"]),
            _number(row["said_free"]),
            f"{_number(row['said'])} [{_number(row['said_low'])}, {_number(row['said_high'])}]",
            _number(row["gained_first"], 3),
            _number(row["gained_second"], 3),
            f"{_number(row['gained'], 3)} ± {row['gained_se']:.3f}",
        ]
        for pair in pairs
        for row in pair["information"]
    ]
    parts.append(f"\n{_table(heads, lines)}")
    return "".join(parts)


def text(results: Mapping[str, Any]) -> str:
    """Return the whole page.

    Args:
        results: what `benchmarks/predictive_validity.py` wrote.
    """
    pairs = results["pairs"]
    return "".join(
        [
            INTRODUCTION.format(clear=CLEAR, random="random"),
            _meaning(pairs),
            _information(pairs),
            *map(_trained, pairs),
        ]
    )


if __name__ == "__main__":
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    Path(__file__).with_name("reading.md").write_text(text(results), encoding="utf-8")
