"""The benchmark's table, JSON and plot."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("gradalign", "torch", "transformers", "numpy", "scipy")


def environment() -> dict[str, Any]:
    """Where and when the numbers were made."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def table(result: dict[str, Any]) -> str:
    """The results of one pair as text."""
    lines = [
        f"Pair {result['pair']}: student succeeds {result['before']:.3f}; "
        f"{result['settings']['steps']} steps of length {result['settings']['step_norm']:g}, "
        f"{result['seeds']} seeds, {result['settings']['eval_prompts']} held-out prompts each",
        "",
        f"{'configuration':58s} {'gain':>7s} {'+-':>6s} {'pooled':>7s} {'mean':>7s} {'update':>7s} "
        f"{'accur.':>7s} {'KL(P|Q)':>8s} {'overlap':>8s}",
    ]
    for row in sorted(result["configurations"], key=lambda item: -item["gain"]):
        lines.append(
            f"{row['label']:58s} {row['gain']:+7.3f} {_number(row['gain_se'], 6)} "
            + " ".join(
                _number(row.get(name), width)
                for name, width in (
                    ("pooled", 7),
                    ("mean", 7),
                    ("update", 7),
                    ("accuracy", 7),
                    ("reverse_kl", 8),
                    ("overlap", 8),
                )
            )
        )
    for title, key in (
        ("all configurations that have the predictor", "correlations"),
        ("configurations with a teacher only", "correlations_teachers"),
    ):
        lines += ["", f"Spearman correlation with the gain, {title}:"]
        for name, value in result[key].items():
            lines.append(
                f"  {name:22s} {value['rho']:+.3f}  [{value['low']:+.3f}, {value['high']:+.3f}]  "
                f"n={value['count']}"
            )
    lines.append(f"  agreement of the gain with itself over seeds: {result['reliability']:+.3f}")
    if result.get("selective"):
        lines += ["", "Selective distillation, gain by the tokens that are learnt from:"]
        names = list(result["selective"][0]["gains"])
        lines.append(f"{'configuration':40s} " + " ".join(f"{name:>14s}" for name in names))
        for row in result["selective"]:
            cells = (f"{gain['mean']:+.3f} ({gain['share']:.0%})" for gain in row["gains"].values())
            lines.append(f"{row['label']:40s} " + " ".join(f"{cell:>14s}" for cell in cells))
    return "\n".join(lines)


def _number(value: float | None, width: int) -> str:
    there = value is not None and np.isfinite(value)
    return f"{value:{width}.3f}" if there else " " * (width - 1) + "-"


def plot(results: Sequence[dict[str, Any]], path: Path) -> bool:
    """Draw gain against pooled, mean and update-level alignment; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = ("pooled", "mean", "update", "accuracy")
    figure, axes = plt.subplots(
        len(results), len(names), figsize=(4 * len(names), 3.6 * len(results)), squeeze=False
    )
    for line, result in zip(axes, results, strict=True):
        for axis, name in zip(line, names, strict=True):
            for row in result["configurations"]:
                value = row.get(name)
                if value is None or not np.isfinite(value):
                    continue
                colour = _COLOURS.get(_family(row["teacher"]), "0.5")
                axis.errorbar(value, row["gain"], yerr=row["gain_se"], fmt="o", ms=5, c=colour)
            rho = result["correlations"][name]["rho"]
            axis.set_title(f"{result['pair']}: {name}, Spearman {rho:+.2f}", fontsize=10)
            axis.axhline(0, lw=0.5, c="0.7")
            axis.set_xlabel(name)
        line[0].set_ylabel("gain in success")
    handles = [
        plt.Line2D([], [], marker="o", ls="", c=colour, label=name or "no teacher")
        for name, colour in _COLOURS.items()
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


_COLOURS = {
    "strong": "tab:green",
    "middle": "tab:olive",
    "weak": "tab:red",
    "self+answer": "tab:blue",
    "self+solution": "tab:cyan",
    "self+wrong-answer": "tab:purple",
    "": "0.3",
}


def _family(teacher: str) -> str:
    return teacher if "+" in teacher else teacher.replace("\\", "/").split("/")[-1].split(":")[-1]
