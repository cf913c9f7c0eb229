"""What belongs under a summary: how much was done, what failed, what to mind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradalign.estimates import Arm

if TYPE_CHECKING:
    import pandas as pd

_COUNTED = {
    "truncated": "rollouts ran into --max-tokens and count as failures",
    "skipped_pairs": "pairs of spine and teacher were skipped: the context was missing",
    "unknown_candidates": (
        "candidates were left out for a teacher that has no such token, or whose server gave no "
        "probability of them"
    ),
    "other_allocation": (
        "nodes have rollouts that an earlier verifier's rewards allotted: values are unbiased, but "
        "not as exact as rollouts of their own would make them"
    ),
}


_MISSED_SHARE = 0.9
"""From this share of all ends on, a teacher that gives them no mass is said to end otherwise."""

_LARGE_SHARE = 0.5
"""From this share of the squared direction outside the candidates on, it is said."""


def remarks(path: str, metadata: Mapping[str, Any], summary: pd.DataFrame | None) -> list[str]:
    """Return the lines, the size of the run first.

    Args:
        path: the run folder.
        metadata: its run.json.
        summary: its summary; None while there is none.
    """
    totals: Mapping[str, int] = metadata.get("totals", {})
    lines = [
        f"{path}: {totals.get('questions', 0):,} questions, "
        f"{totals.get('spines', 0):,} spines ({totals.get('correct_spines', 0):,} correct), "
        f"{totals.get('nodes', 0):,} nodes, {totals.get('branches', 0):,} branches, "
        f"{totals.get('continuations', 0):,} targeted rollouts."
    ]
    for name, text in _COUNTED.items():
        if totals.get(name):
            lines.append(f"{totals[name]:,} {text}.")
    failed = {
        name.removeprefix("verifier_"): count
        for name, count in totals.items()
        if name.startswith("verifier_") and count
    }
    if failed:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(failed.items()))
        lines.append(
            f"{sum(failed.values()):,} verifications failed ({kinds}): missing, not wrong."
        )
    rules: Mapping[str, int] = metadata.get("read_by", {})
    if rules:
        counts = ", ".join(f"{count:,} {rule}" for rule, count in rules.items())
        lines.append(f"How answers were read: {counts}.")
    if former := metadata.get("resolved", {}).get("allocated_by"):
        lines.append(
            f"Verified anew by {metadata['resolved']['verifier']}; rollouts were made under "
            f"{former}. Former verdicts: table verdicts."
        )
    lines += noise_remark(metadata)
    floor = metadata.get("noise_floor")
    if floor:
        lines.append(
            f"Noise floor: engine {floor['engine']} and the scoring passes differ by "
            f"{floor['mean']:.1e} nats on average and {floor['largest']:.1e} at most, over "
            f"{floor['tokens']:,} tokens of {floor['spines']:,} spines."
        )
    if summary is not None:
        lines += _flat(summary)
        lines += _unpooled(summary)
        lines += _special(summary, bool(metadata.get("config", {}).get("mask_special")))
    lines += [f"{note[:1].upper()}{note[1:]}" for note in metadata.get("prompt_notes", [])]
    lines += metadata.get("resolved", {}).get("warnings", ())
    lines += end_remarks(metadata)
    return lines + sampling_warning(metadata.get("config", {}))


_QUIET, _NOISY = 0.2, 1.0
"""Noise over signal below which more rollouts per question gain little, and above which much."""


def noise_remark(metadata: Mapping[str, Any]) -> list[str]:
    """Say how much of |g|^2 is noise of the rollouts, and what would lower the error most.

    Args:
        metadata: run.json.
    """
    if "noise_over_signal" not in metadata:  # of an older version, or no summary yet
        return []
    ratio = metadata["noise_over_signal"]
    if ratio is None:
        if not metadata.get("totals", {}).get("continuations"):
            return []
        return ["Rollouts alone could explain the ideal gradient: more rollouts (--continuations)."]
    advice = "more questions (--limit) or more rollouts (--continuations) narrow intervals alike"
    if ratio < _QUIET:
        advice = "more questions (--limit) narrow intervals, more rollouts hardly"
    elif ratio > _NOISY:
        advice = "more rollouts (--continuations) narrow intervals most"
    return [f"Noise over signal in the ideal gradient: {ratio:.2g}; {advice}."]


def end_remarks(metadata: Mapping[str, Any]) -> list[str]:
    """Say which teachers do not end where the student does, and what is not looked at.

    Args:
        metadata: run.json.
    """
    lines, said = [], set()
    outside = metadata.get("outside", {})
    for label, ends in metadata.get("ends", {}).items():
        if ends["missed"] < _MISSED_SHARE * ends["ends"]:
            continue
        where = f"{ends['missed']:,} of {ends['ends']:,} ends"
        if ends["missed"] == ends["ends"]:
            where = "every end"
        lines.append(
            f"teacher {label} gives the student's end token next to nothing at {where} (student "
            f"{ends['student']:.2f}, teacher below 0.0001): it ends responses "
            f"with another token, or elsewhere. {_outside(label, outside.get(label, {}))}"
        )
        said.add(label)
    lines += [
        _outside(label, shares)
        for label, shares in outside.items()
        if label not in said and max(shares.values()) > _LARGE_SHARE
    ]
    return lines


def _outside(label: str, shares: Mapping[str, float]) -> str:
    """Say how much of the directions of a teacher lies outside the candidates."""
    if not shares:
        return "No method has a direction there."
    method, share = max(shares.items(), key=lambda item: item[1])
    return (
        f"{share:.0%} of the squared direction of {method} of {label} lies outside the candidates, "
        "where nothing was tried: it counts as length that gains nothing."
    )


def sampling_warning(config: Mapping[str, Any]) -> list[str]:
    """Say what sampling settings other than the plain ones mean, if there are any."""
    changed = [
        f"{name} {config[name]}"
        for name, plain in (("temperature", 1.0), ("top_p", 1.0), ("top_k", 0))
        if config.get(name, plain) != plain
    ]
    if not changed:
        return []
    return [
        f"Sampled with {', '.join(changed)}: P is that distribution too, so the alignment is that "
        "of an update on the distribution as it is sampled, not on the model's own."
    ]


def _flat(summary: pd.DataFrame) -> list[str]:
    """Say what it means that nothing has an alignment."""
    whole = summary[summary["split"] == "all"]
    if not whole["num_nodes"].any() or (whole["num_flat"] < whole["num_nodes"]).any():
        return []
    return [
        "Every position is flat: whatever was forced there, its continuations ended alike. Check "
        "the verifier, or take questions that this student sometimes solves."
    ]


def _unpooled(summary: pd.DataFrame) -> list[str]:
    """Say why what has no pooled alignment has none; flat positions have a line of their own."""
    whole = summary[summary["split"] == "all"]
    if "reason" not in whole:
        return []
    if _flat(summary):
        whole = whole[whole["num_nodes"] == 0]
    by_reason: dict[str, list[str]] = {}
    for row in whole[whole["pooled"].isna()].to_dict("records"):
        if isinstance(row["reason"], str) and row["reason"]:
            arm = str(Arm(row["teacher"], row["method"]))
            by_reason.setdefault(row["reason"], []).append(arm)
    return [
        f"No pooled alignment for {', '.join(arms[:5])}{', ...' if len(arms) > 5 else ''}: {why}."
        for why, arms in by_reason.items()
    ]


def _special(summary: pd.DataFrame, masked: bool) -> list[str]:
    """Say what nodes at special tokens change."""
    keys = ["teacher", "method"]
    parts = {
        split: summary[summary["split"] == split].set_index(keys)
        for split in ("with-special", "without-special")
    }
    both, without = parts["with-special"], parts["without-special"]
    if not len(both):
        return []
    nodes = int((both["num_nodes"] - without["num_nodes"].reindex(both.index).fillna(0)).max())
    change = (without["pooled"] - both["pooled"]).dropna()
    text = f"{nodes:,} nodes are at special tokens and " + (
        "were left out" if masked else "are included (--mask-special leaves them out)"
    )
    if not len(change):
        return [text + "."]
    place = int(change.abs().to_numpy().argmax())
    teacher, method = change.index[place]
    largest = float(change.iloc[place]) * (-1 if masked else 1)
    name = f"{method} of {teacher}" if teacher else str(method)
    return [f"{text}; that would change pooled by {largest:+.3f} at most ({name})."]
