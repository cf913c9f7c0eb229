"""What `shared_rule` prints: tables of its numbers, and the conclusion that they allow."""

from __future__ import annotations

from typing import Any

import numpy as np

SHARED = "system:@rule.txt"
SPECIFIC = ("answer", "solution")
CONTROL = "wrong-answer"
CONTEXTS = (SHARED, *SPECIFIC, CONTROL)
METHODS = ("gkd:beta=0", "gkd", "opd")
SPLITS = ("all", "correct", "incorrect")
LEVEL = 0.95


def verdict(row: dict[str, Any]) -> str:
    """Say which way a comparison of the family falls."""
    if not row["adjusted_p"] < 1.0 - LEVEL:
        return "not told apart"
    return "better" if row["difference"] > 0 else "worse"


def holds(count: dict[str, int]) -> str:
    """Judge the claim by how many comparisons came out better, worse and not told apart."""
    if count["better"] and count["worse"]:
        return "depends on the method and on what the rule is compared with"
    some = " where a difference can be told" if count["not told apart"] else ""
    if count["better"]:
        return f"holds{some}"
    if count["worse"]:
        return f"does not hold (it is the other way round{some})"
    return "is neither confirmed nor refuted (no difference can be told)"


def conclusion(result: dict[str, Any]) -> list[str]:
    """What the numbers say, whichever way they fall."""
    lines = []
    for measure, name in (("pooled", "pooled alignment"), ("mean_cosine", "mean cosine")):
        family = [
            row
            for row in result["comparisons"]
            if "adjusted_p" in row and row["measure"] == measure
        ]
        said = [verdict(row) for row in family]
        count = {word: said.count(word) for word in ("better", "worse", "not told apart")}
        lines.append(
            f"By {name} 'a shared rule aligns better than instance-specific information' "
            f"{holds(count)} here. Of {len(said)} comparisons (methods times answer, solution) "
            f"the rule is better in {count['better']}, worse in {count['worse']}, not told apart "
            f"in {count['not told apart']}."
        )
    rates = result["success"]
    for row in result["success_differences"]:
        there = row["low"] > 0 or row["high"] < 0
        lines.append(
            f"By themselves {row['first']} succeeds in "
            f"{rates[row['first']]['from_scratch']['estimate']:.1%} and {row['second']} in "
            f"{rates[row['second']]['from_scratch']['estimate']:.1%}: "
            + ("not the same competence" if there else "no difference in competence can be told")
            + f" (difference {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}])."
        )
    part = "from_half_of_incorrect_spines"
    lines.append(
        "After the first half of a response that went wrong they succeed in "
        + ", ".join(f"{rates[name][part]['estimate']:.1%} ({name})" for name in rates)
        + "."
    )
    lines.append(
        f"Measured on {result['num_nodes']} nodes of {result['num_questions']} questions and one "
        f"sibling (seed {result['config']['seed']}), per node and before any update: not whether "
        "the student keeps what it is taught once the information is gone."
    )
    return lines


def table(result: dict[str, Any]) -> str:
    """The numbers as text."""

    def cell(found: dict[str, float]) -> str:
        return f"{found['estimate']:6.3f} [{found['low']:6.3f},{found['high']:6.3f}]"

    lines = ["success rate [95 % interval]", f"{'':24}{'from scratch':>25}{'half, was right':>25}"]
    lines[-1] += f"{'half, was wrong':>25}"
    for name, parts in result["success"].items():
        lines.append(f"{name:24}" + "".join(f"{cell(found):>25}" for found in parts.values()))
    lines += ["", "pooled alignment [95 % interval], mean cosine"]
    lines.append(f"{'':24}{'method':12}" + "".join(f"{split + ' spines':>32}" for split in SPLITS))
    of = {(row["teacher"], row["method"], row["split"]): row for row in result["alignment"]}
    for name in (f"self+{context}" for context in CONTEXTS):
        for method in METHODS:
            line = f"{name:24}{method:12}"
            for split in SPLITS:
                row = of[name, method, split]
                line += f"{cell(row['pooled'])}{row['mean_cosine']:7.3f}".rjust(32)
            lines.append(line)
    differences = {
        (row["measure"], row["second"], row["method"], row["split"]): row
        for row in result["comparisons"]
    }
    for measure in ("pooled", "mean_cosine"):
        lines += ["", f"self+{SHARED} minus the other, {measure} on the same nodes"]
        lines.append(
            f"{'the other':24}{'method':12}"
            + "".join(f"{split:>25}" for split in SPLITS)
            + "   Holm's p (all), verdict"
        )
        for second in (f"self+{name}" for name in (*SPECIFIC, CONTROL)):
            for method in METHODS:
                rows = [differences[measure, second, method, split] for split in SPLITS]
                line = f"{second:24}{method:12}" + "".join(
                    f"{row['difference']:+.3f} [{row['low']:+.3f},{row['high']:+.3f}]".rjust(25)
                    for row in rows
                )
                if "adjusted_p" in rows[0]:
                    line += f"   {rows[0]['adjusted_p']:.2g}, {verdict(rows[0])}"
                lines.append(line)
    return "\n".join(lines)


def rounded(value: Any) -> Any:
    """Numbers to five significant digits, NaN as null: the file is for reading."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return value
