"""From kept trainings and scored runs to results, and from results to tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import gradalign
from validity.comparison import (
    Floats,
    Gains,
    best_of,
    calibration,
    difference,
    favoured,
    ranking,
    regret,
    signs,
)
from validity.pairs import Configuration, Pair
from validity.predicted import OURS, REHEARSED, RIVALS, SIGNED, predictors, rehearsals
from validity.trained import Series, in_blocks

Json = dict[str, Any]

PER_STEP = ("gain_one", "gain_batch")
"""Figures that, times the length of a step and the number of steps, are gains."""


def collect(
    pair: Pair, series: Sequence[Series], seeds: Sequence[int], report: gradalign.Report
) -> Json:
    """Put what was trained and what was said of it together.

    A configuration is in the results of a way if all seeds have ended.

    Args:
        pair: what was trained.
        series: every way of it.
        seeds: of the trainings.
        report: the scored run.
    """
    said = predictors(report, pair)
    rehearsed = rehearsals(report, pair, {one.way: one.settings for one in series})
    ways = {}
    rows = []
    for one in series:
        before = {str(seed): in_blocks(one.before(seed)) for seed in seeds}
        ways[one.way] = {"settings": asdict(one.settings), "before": before}
    for item in pair.configurations:
        right: Json = {}
        spent: dict[str, float] = {}
        trainer = ""
        for one in series:
            files = [one.file(item, seed) for seed in seeds]
            if not all(file.is_file() for file in files):
                continue
            kept = [json.loads(file.read_text()) for file in files]
            trainer = kept[0]["trainer"]
            spent[one.way] = round(sum(record["cpu_seconds"] for record in kept), 1)
            right[one.way] = {
                steps: {str(record["seed"]): in_blocks(record["after"][steps]) for record in kept}
                for steps in kept[0]["after"]
            }
        rows.append(
            {
                **_named(item),
                "trainer": trainer,
                "right": right,
                "cpu_seconds": spent,
                "predictors": {REHEARSED: rehearsed[item], **said[item]},
            }
        )
    return {
        "pair": pair.name,
        "seeds": list(seeds),
        "ways": ways,
        "scored": {
            "config": {
                name: report.metadata["config"][name]
                for name in ("limit", "num_rollouts", "continuations", "weights_space", "dtype")
            },
            "totals": report.metadata["totals"],
        },
        "rows": rows,
    }


def _named(item: Configuration) -> Json:
    """A configuration without the folder of its teacher."""
    model, plus, context = item.teacher.partition("+")
    return {
        "label": item.label,
        "teacher": model.rsplit("/", 1)[-1] + plus + context,
        "method": item.method,
        "estimator": item.estimator,
    }


def from_validity(item: Json) -> Json:
    """Read a pair of predictive_validity.json, whose held-out questions were not kept."""
    settings = item["settings"]
    rows = [
        {
            **_named(Configuration(row["teacher"], row["method"], row["estimator"])),
            "gains": {
                "length": dict(zip(map(str, settings["checkpoints"]), by_steps, strict=True))
            },
            "predictors": {
                **{name: row[name] for name in (*OURS, *RIVALS) if name in row},
                REHEARSED: {"length": _rehearsed(row, settings["checkpoints"])},
            },
        }
        for row in item["configurations"]
        for by_steps in [list(zip(*row["gains_by_checkpoint"], strict=True))]
    ]
    return {
        "pair": item["pair"],
        "seeds": list(range(item["seeds"])),
        "steps": str(item["steps"]),
        "ways": {"length": {"settings": settings, "succeeds": item["before"]}},
        "rows": rows,
    }


def _rehearsed(row: Json, checkpoints: Sequence[int]) -> dict[str, float]:
    """Rehearsed gains of a configuration by number of steps; NaN where trust has ended."""
    if "rehearsed_by_checkpoint" not in row:
        return {}
    told = zip(row["rehearsed_by_checkpoint"], row["rehearsed_trusted"], strict=True)
    values = [value if trusted else float("nan") for value, trusted in told]
    return dict(zip(map(str, checkpoints), values, strict=True))


def gains_of(result: Json, way: str, steps: str) -> tuple[list[Json], Gains]:
    """The rows of a pair that were trained in a way, and their gains after so many steps."""
    if "before" not in result["ways"][way]:
        gain_KS = np.asarray([row["gains"][way][steps] for row in result["rows"]])
        return result["rows"], Gains(gain_KS[:, :, None])
    settings, before = (result["ways"][way][name] for name in ("settings", "before"))
    rows = [row for row in result["rows"] if way in row["right"]]
    seeds = [str(seed) for seed in result["seeds"]]
    blocks = len(before[seeds[0]])
    # Blocks differ by a question at most, and count by their questions.
    scale = blocks / (settings["eval_prompts"] * settings["eval_responses"])
    gain_KSQ = np.asarray(
        [
            [
                np.asarray(row["right"][way][steps][seed]) - np.asarray(before[seed])
                for seed in seeds
            ]
            for row in rows
        ],
        dtype=np.float64,
    )
    return rows, Gains(gain_KSQ * scale)


def values_of(rows: Sequence[Json], way: str, steps: str) -> dict[str, Floats]:
    """Every predictor of these rows; one that depends on the training is a mapping."""
    found = {}
    for name in (*OURS, *RIVALS):
        found[name] = np.asarray(
            [_number(row["predictors"].get(name), way, steps) for row in rows], dtype=np.float64
        )
    return found


def _number(value: Any, way: str, steps: str) -> float:
    if isinstance(value, Mapping):
        value = value.get(way, {}).get(steps)
    return float("nan") if value is None else float(value)


def comparison(result: Json) -> Json:
    """Compare all predictors of a pair, by way and number of steps."""
    return {
        way: {
            str(steps): _compared(result, way, str(steps))
            for steps in result["ways"][way]["settings"]["checkpoints"]
        }
        for way in result["ways"]
        if sum(way in row.get("right", row.get("gains")) for row in result["rows"]) >= 3
    }


def counted(result: Json, by_steps: Json) -> str:
    """The number of steps that counts: the pair's own, or the longest training."""
    return str(result.get("steps") or list(by_steps)[-1])


def _compared(result: Json, way: str, steps: str) -> Json:
    rows, gains = gains_of(result, way, steps)
    values = values_of(rows, way, steps)
    rivals = {name: values[name] for name in RIVALS}
    best = best_of(rivals, gains)
    best_K, _ = favoured(values[best], gains)
    length = result["ways"][way]["settings"].get("step_norm")
    fixed = "learning_rate" not in result["ways"][way]["settings"]
    found: Json = {"best_rival": best, "predictors": {}}
    for name, value_K in values.items():
        used_K = favoured(value_K, gains)[0] if name in RIVALS else value_K
        row = {**ranking(value_K, gains), "regret": regret(used_K, gains)}
        if name in SIGNED:
            row["signs"] = signs(value_K, gains)
        if name in OURS:
            row["ahead_of_best_rival"] = difference(value_K, best_K, gains)
        if name == REHEARSED:
            row["calibration"] = calibration(value_K, gains)
        elif name in PER_STEP and fixed:
            row["calibration"] = calibration(value_K * length * int(steps), gains)
        found["predictors"][name] = row
    found["gain"] = {
        f"{row['label']} ({row['estimator']})": [float(mean), float(error)]
        for row, mean, error in zip(rows, gains.mean_K, gains.error_K, strict=True)
    }
    return found


def table(result: Json, compared: Json) -> str:
    """The results of a pair as text."""
    lines = [f"Pair {result['pair']}, seeds {', '.join(map(str, result['seeds']))}"]
    for way, by_steps in compared.items():
        settings, counts = result["ways"][way]["settings"], counted(result, by_steps)
        asked = settings["eval_prompts"] * settings["eval_responses"]
        lines += [
            "",
            f"{way}: {_told(settings)}; the student succeeds at {_before(result, way):.3f}; gain "
            f"after {counts} steps on {asked} responses to held-out questions",
        ]
        gains = by_steps[counts]["gain"]
        for label, (mean, error) in sorted(gains.items(), key=lambda item: -item[1][0]):
            lines.append(f"  {label:68s} {mean:+.3f} +- {error:.3f}")
        heads = " ".join(f"{steps:>7s}" for steps in by_steps)
        lines += [
            "",
            f"  {'Spearman with the gain after':28s} {heads}   after {counts}: interval, Kendall, "
            "regret, sign, slope and error, ahead of the best rival",
        ]
        for name, row in by_steps[counts]["predictors"].items():
            if row["spearman"] is None:
                continue
            found = [by_steps[steps]["predictors"][name]["spearman"] for steps in by_steps]
            cells = " ".join(f"{rho[0]:+7.3f}" if rho else f"{'-':>7s}" for rho in found)
            lines.append(f"  {name:28s} {cells}   {_details(row)}")
        lines.append(f"  best rival: {by_steps[counts]['best_rival']}")
    return "\n".join(lines)


def _before(result: Json, way: str) -> float:
    """The student's success before training, mean over seeds."""
    told = result["ways"][way]
    if "before" not in told:
        return float(told["succeeds"])
    asked = told["settings"]["eval_prompts"] * told["settings"]["eval_responses"]
    return float(np.mean([sum(right) / asked for right in told["before"].values()]))


def overview(results: Sequence[Json], compared: Mapping[str, Json]) -> str:
    """One small table of all pairs in Markdown: Spearman's correlation where it counts."""
    columns = [
        (result["pair"], way, counted(result, by_steps))
        for result in results
        for way, by_steps in compared[result["pair"]].items()
    ]
    heads = [
        f"{pair}, {steps} steps" + ("" if way == "length" else f", {way}")
        for pair, way, steps in columns
    ]
    lines = [" | ".join(["| predictor", *heads]) + " |", "| --- " * (len(heads) + 1) + "|"]
    for name in (*OURS, *RIVALS):
        rows = [compared[pair][way][steps]["predictors"][name] for pair, way, steps in columns]
        if any(row["spearman"] for row in rows):
            cells = [_cell(row["spearman"]) for row in rows]
            lines.append(" | ".join([f"| {NAMES[name]}", *cells]) + " |")
    return "\n".join(lines)


USED = {"rehearsed": REHEARSED, "weights_gain_one": "gain_one", "pooled": "pooled"}
"""What a verdict ranks by, and the predictor that it is."""

REAL = ("smollm2",)


def said_in_verdicts(results: Sequence[Json], compared: Mapping[str, Json]) -> Json:
    """What a verdict says of the number that it ranks by: a row per pair, at the steps that count.

    Of the ways in which a pair is trained it is the first.
    """
    found: Json = {name: [] for name in USED}
    for result in results:
        way, by_steps = next(iter(compared[result["pair"]].items()))
        steps = counted(result, by_steps)
        for name, predictor in USED.items():
            row = by_steps[steps]["predictors"][predictor]
            if row["spearman"] is not None:
                found[name].append(
                    {
                        "pair": result["pair"],
                        "real": result["pair"] in REAL,
                        "way": way,
                        "steps": int(steps),
                        "spearman": round(row["spearman"][0], 4),
                        "regret": round(row["regret"]["regret"], 4),
                    }
                )
    return found


def _cell(spearman: Sequence[float] | None) -> str:
    if not spearman:
        return "-"
    at, low, high = spearman
    return f"{at:+.2f} [{low:+.2f}, {high:+.2f}]"


NAMES = {
    REHEARSED: "rehearsed gain, where it is trusted",
    "gain_one": "gain per step of the weights, one question",
    "gain_batch": "gain per step of the weights, 32 questions",
    "weights": "cosine of the weights",
    "adamw_one": "gain of a step of AdamW, one question",
    "adamw": "gain of a step of AdamW, 32 questions",
    "pooled": "pooled alignment",
    "mean": "mean alignment",
    "balanced": "balanced alignment",
    "accuracy": "teacher's accuracy",
    "accuracy_gap": "accuracy gap to the student",
    "teacher_advantage": "teacher advantage",
    "grace": "GRACE",
    "reverse_kl": "KL(P\\|Q)",
    "forward_kl": "KL(Q\\|P)",
    "early_kl": "KL(P\\|Q), weighted by position",
    "overlap": "overlap ratio",
    "entropy_gap": "entropy gap, H(Q) - H(P)",
    "loss_decrease": "first-step decrease of the loss",
}
"""What docs call the predictors."""


def _told(settings: Json) -> str:
    if "learning_rate" not in settings:
        return f"steps of length {settings['step_norm']:g}"
    lora = f" on LoRA of rank {settings['lora_rank']}" if settings["lora_rank"] else ""
    return f"AdamW at {settings['learning_rate']:g}{lora}"


def _details(row: Json) -> str:
    _, low, high = row["spearman"]
    cells = [f"[{low:+.2f}, {high:+.2f}]", f"tau {row['kendall'][0]:+.2f}"]
    if row["regret"] is not None:
        cells.append(f"regret {row['regret']['regret']:.3f}+-{row['regret']['error']:.3f}")
    if "signs" in row and row["signs"]["count"]:
        cells.append(f"sign {row['signs']['agree']:.2f} of {row['signs']['count']}")
    if row.get("calibration"):
        cells.append(
            f"slope {row['calibration']['slope']:.2f}, error {row['calibration']['error']:.3f}"
        )
    if row.get("ahead_of_best_rival"):
        at, low, high = row["ahead_of_best_rival"]
        cells.append(f"ahead {at:+.2f} [{low:+.2f}, {high:+.2f}]")
    return "  ".join([*cells, f"n={row['count']}"])


def plot(result: Json, compared: Json, path: Path) -> bool:
    """Draw gains after the last step against predictors; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(compared), 4, figsize=(14, 3.3 * len(compared)), squeeze=False, sharey="row"
    )
    for line, (way, by_steps) in zip(axes, compared.items(), strict=True):
        steps = counted(result, by_steps)
        rows, gains = gains_of(result, way, steps)
        values = values_of(rows, way, steps)
        names = (REHEARSED, "gain_one", "pooled", by_steps[steps]["best_rival"])
        for axis, name in zip(line, names, strict=True):
            for row, x, y, error in zip(
                rows, values[name], gains.mean_K, gains.error_K, strict=True
            ):
                colour = _colour(row["teacher"])
                mark = "s" if row["estimator"] == "sampled" else "o"
                axis.errorbar(x, y, yerr=error, fmt=mark, ms=4.5, c=colour)
            spearman = by_steps[steps]["predictors"][name]["spearman"]
            rho = f"{spearman[0]:+.2f}" if spearman else "-"
            axis.set_title(f"{way}, {steps} steps: Spearman {rho}", fontsize=9)
            axis.axhline(0, lw=0.5, c="0.7")
            axis.set_xlabel(name)
        line[0].set_ylabel("gain in success")
    teachers = sorted({row["teacher"] for row in result["rows"]})
    handles = [
        plt.Line2D([], [], marker="o", ls="", c=_colour(name), label=name or "no teacher")
        for name in teachers
    ]
    figure.suptitle(result["pair"])
    figure.legend(handles=handles, loc="lower center", ncols=6, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.28 / len(compared), 1, 0.99))
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


_COLOURS = {
    "strong": "tab:green",
    "better": "tab:green",
    "middle": "tab:olive",
    "weak": "tab:orange",
    "worse": "tab:red",
    "harmful": "tab:red",
    "foreign": "black",
    "smollm2": "black",
    "self+answer": "tab:blue",
    "self+solution": "tab:cyan",
    "self+wrong-answer": "tab:purple",
    "self+other-answer": "tab:pink",
    "self+reference-free": "tab:brown",
    "self+rule": "tab:brown",
}


def _colour(teacher: str) -> str:
    return _COLOURS.get(teacher, "0.5")
