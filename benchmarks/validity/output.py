"""The benchmark's table, JSON and plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = (
    ("pooled", "pooled", 7),
    ("mean", "mean", 7),
    ("balanced", "balanc.", 7),
    ("weights", "weights", 7),
    ("gain_one", "gain 1", 7),
    ("gain_batch", "gain 32", 7),
    ("rehearsed", "rehears", 7),
    ("pooled_every", "pooled*", 7),
    ("mean_every", "mean*", 7),
    ("teacher_advantage", "adv.", 7),
    ("accuracy", "accur.", 7),
    ("reverse_kl", "KL(P|Q)", 8),
    ("overlap", "overlap", 8),
    ("entropy_gap", "H(Q)-H(P)", 9),
    ("grace", "GRACE", 7),
)
"""Predictors in the table of configurations: name, heading, width."""


def table(result: dict[str, Any]) -> str:
    """The results of one pair as text."""
    settings = result["settings"]
    heads = " ".join(f"{head:>{width}s}" for _, head, width in COLUMNS)
    lines = [
        f"Pair {result['pair']}: student succeeds {result['before']:.3f}; gain after "
        f"{result['steps']} steps of length {settings['step_norm']:g}, {result['seeds']} seeds, "
        f"{settings['eval_prompts']} held-out prompts each",
        "* every teacher's top tokens are candidates; (t) trained by TRL; weights: cosine of the "
        "updates of all weights; gain: per step of length 1, on 1 and on 32 questions",
        "",
        f"{'configuration':58s} {'gain':>7s} {'+-':>6s} {heads}",
    ]
    for row in sorted(result["configurations"], key=lambda item: -item["gain"]):
        label = row["label"] + (" (t)" if row["trainer"] == "trl" else "")
        cells = " ".join(_number(row.get(name), width) for name, _, width in COLUMNS)
        lines.append(f"{label:58s} {row['gain']:+7.3f} {_number(row['gain_se'], 6)} {cells}")
    for title, key in (
        ("all configurations that have the predictor", "correlations"),
        ("configurations with a teacher only", "correlations_teachers"),
        ("without teachers told something false, useless or nothing", "correlations_informed"),
    ):
        lines += ["", f"Spearman correlation with the gain, {title}:"]
        lines += [_with_interval(name, value, "rho") for name, value in result[key].items()]
    lines.append(f"  agreement of two seeds' gains: {result['reliability']:+.3f}")
    lines += ["", "Difference of correlations, configurations with a teacher:"]
    lines += [
        _with_interval(f"{name} - {other}", value, "difference")
        for name, others in result["differences"].items()
        for other, value in others.items()
    ]
    parts = (_lengths, _rehearsals, _told, _trials, _selections)
    return "\n".join([*lines, *(line for part in parts for line in part(result))])


def _with_interval(name: str, value: dict[str, Any], what: str) -> str:
    return (
        f"  {name:22s} {value[what]:+.3f}  [{value['low']:+.3f}, {value['high']:+.3f}]  "
        f"n={value['count']}"
    )


def _lengths(result: dict[str, Any]) -> list[str]:
    """Lines on the correlations after fewer and more steps."""
    checkpoints = result["settings"]["checkpoints"]
    if len(checkpoints) < 2:
        return []
    heads = " ".join(f"{steps:>7d}" for steps in checkpoints)
    lines = ["", f"Spearman correlation by steps:  {heads}"]
    for name in result["by_checkpoint"][0]:
        cells = " ".join(f"{found[name]['rho']:+7.3f}" for found in result["by_checkpoint"])
        lines.append(f"  {name:30s}{cells}")
    return lines


def _rehearsals(result: dict[str, Any]) -> list[str]:
    """Lines on rehearsed gains against those of training."""
    lines = ["", "Rehearsed gain against trained gain:"]
    for row in result["rehearsals"]:
        lines.append(
            f"  {row['steps']:3d} steps: slope {row['slope']:.2f}, root mean squared error "
            f"{row['error']:.3f}, signs {row['signs']:.0%}; {row['trusted']} trusted: slope "
            f"{row['slope_trusted']:.2f}, error {row['error_trusted']:.3f}"
        )
        lines += [
            f"    Spearman's correlation less that of {name}: {value['difference']:+.3f} "
            f"[{value['low']:+.3f}, {value['high']:+.3f}]"
            for name, value in row["minus"].items()
        ]
    return lines


def _told(result: dict[str, Any]) -> list[str]:
    """Lines on false, useless and missing information, and on position alone."""
    lines = ["", f"Verdict of the run: {result['verdict']['headline']}", ""]
    lines.append(
        "Best method of teachers told something false or useless less that of another, gain per "
        "step on one question, and gain in training:"
    )
    for row in result["against_controls"]:
        lines.append(
            f"  {row['control']:22s} - {_short(row['other']):22s} said "
            f"{_ends(row, 'said')}  trained {row['gained']:+.3f}"
            + ("  AHEAD" if row["ahead"] else "  ahead alone" if row["ahead_alone"] else "")
        )
    if result["information"]:
        lines += ["", "What is told less the same words without it, mean over methods:"]
    for row in result["information"]:
        lines.append(
            f"  {row['teacher']:22s} said {row['said_told']:+.3f} less {row['said_free']:+.3f}: "
            f"{_ends(row, 'said')}  trained {row['gained_first']:+.3f} less "
            f"{row['gained_second']:+.3f}: {row['gained']:+.3f}"
        )
    lines += ["", "Position alone, rank correlation over nodes with cosine and with a . m:"]
    for row in result["position"]:
        name = f"{row['method']} @ {_short(row['teacher'])}"
        lines.append(f"  {name:58s} {_ends(row, 'cosine')}  {_ends(row, 'weights_dot')}")
    return lines


def _ends(row: dict[str, Any], name: str) -> str:
    """A number with its interval; dashes where there is none."""
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _short(teacher: str) -> str:
    return teacher.rsplit("/", 1)[-1]


def _trials(result: dict[str, Any]) -> list[str]:
    """Lines on the length of the step, and on TRL against the plain loop."""
    lines = []
    if result["tuning"]:
        steps = ", ".join(str(count) for count in result["settings"]["checkpoints"])
        lines += ["", f"Trial seed, gain after {steps} steps by length of the step:"]
        for row in result["tuning"]:
            lines.append(f"  {row['step_norm']:<9g} tuned on  {_gains(row['gains'])}")
            lines.append(f"  {'':9s} random    {_gains(row['random'])}")
    if result["both_loops"]:
        lines += ["", "One seed, gain by TRL's trainer and by the plain loop:"]
        lines += [
            f"  {row['label']:24s} {_gains(row['trl'])}  | {_gains(row['plain'])}"
            for row in result["both_loops"]
        ]
    return lines


def _gains(gains: Sequence[float]) -> str:
    return " ".join(f"{gain:+.3f}" for gain in gains)


def _selections(result: dict[str, Any]) -> list[str]:
    if not result.get("selective"):
        return []
    names = list(result["selective"][0]["gains"])
    lines = [
        "",
        f"Selective distillation, {result['selective_steps']} steps: gain, its standard error, and "
        "share of the tokens",
        f"{'configuration':24s} " + " ".join(f"{name:>21s}" for name in names),
    ]
    for row in result["selective"]:
        cells = []
        for gain in row["gains"].values():
            spread = f" ({gain['se']:.3f})" if gain["se"] is not None else ""
            cells.append(f"{gain['mean']:+.3f}{spread} {gain['share']:.0%}")
        lines.append(f"{row['label']:24s} " + " ".join(f"{cell:>21s}" for cell in cells))
    return lines


def _number(value: float | None, width: int) -> str:
    there = value is not None and np.isfinite(value)
    return f"{value:{width}.3f}" if there else " " * (width - 1) + "-"


def plot(results: Sequence[dict[str, Any]], path: Path) -> bool:
    """Draw the gain against predictors; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = ("pooled", "weights", "gain_one", "grace", "accuracy")
    figure, axes = plt.subplots(
        len(results), len(names), figsize=(3.4 * len(names), 3.2 * len(results)), squeeze=False
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
    "self+other-answer": "tab:pink",
    "self+reference-free": "tab:brown",
    "": "0.3",
}


def _family(teacher: str) -> str:
    return teacher if "+" in teacher else teacher.replace("\\", "/").split("/")[-1].split(":")[-1]
