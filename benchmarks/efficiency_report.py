"""Table and plot of the estimators' errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MEASURES = ("pooled", "mean", "balanced")


@dataclass(frozen=True)
class Record:
    """Error of one variant at one size, for one method and measure.

    Attributes:
        variant: how continuations were spent.
        size: continuations per branch, or budget per branch.
        method: teacher and direction.
        measure: one of `MEASURES`.
        tokens: mean number of continued tokens.
        rmse: root-mean-square error over seeds.
        bias: mean error over seeds.
        seeds: how many.
    """

    variant: str
    size: float
    method: str
    measure: str
    tokens: float
    rmse: float
    bias: float
    seeds: int


def select(records: Sequence[Record], variant: str, method: str, measure: str) -> list[Record]:
    """Return one curve, by tokens."""
    wanted = (variant, method, measure)
    curve = [r for r in records if (r.variant, r.method, r.measure) == wanted]
    return sorted(curve, key=lambda record: record.tokens)


def mse_at(curve: Sequence[Record], tokens: float) -> float:
    """Mean squared error at a number of tokens: the power law that fits a curve.

    One error over 50 seeds is only known to a fifth; a straight line on logarithmic axes through
    all of a curve's points is steadier than interpolation between two.
    """
    x = np.log([record.tokens for record in curve])
    y = np.log([record.rmse**2 for record in curve])
    slope, level = np.polyfit(x, y, 1) if len(curve) > 1 else (-1.0, float(y[0] + x[0]))
    return float(np.exp(level + slope * np.log(tokens)))


def table(records: Sequence[Record], sizes: Mapping[str, Sequence[float]]) -> str:
    """Errors, and mean squared errors relative to `uniform` at equal tokens."""
    methods = sorted({record.method for record in records})
    lines = [
        "pooled alignment: root-mean-square error (bias) by method, and mean squared error",
        "relative to `uniform` at equal tokens (geometric mean over methods); then the errors of",
        "the mean and of the balanced alignment (root mean square over methods)",
        "",
        f"{'variant':13} {'size':>5} {'tokens':>8}  "
        + "  ".join(f"{method:>16}" for method in methods)
        + f"  {'MSE ratio':>9}  {'mean':>7}  {'balanced':>8}",
    ]
    for variant, options in sizes.items():
        for size in options:
            found = {
                (r.method, r.measure): r for r in records if r.variant == variant and r.size == size
            }
            mine = [found[method, "pooled"] for method in methods]
            ratios = [
                r.rmse**2 / mse_at(select(records, "uniform", r.method, "pooled"), r.tokens)
                for r in mine
            ]
            others = [
                np.sqrt(np.mean([found[method, measure].rmse ** 2 for method in methods]))
                for measure in ("mean", "balanced")
            ]
            lines.append(
                f"{variant:13} {size:5g} {mine[0].tokens:8.0f}  "
                + "  ".join(f"{f'{r.rmse:.4f} ({r.bias:+.3f})':>16}" for r in mine)
                + f"  {np.exp(np.mean(np.log(ratios))):9.3f}  {others[0]:7.4f}  {others[1]:8.4f}"
            )
    return "\n".join(lines)


def plot(records: Sequence[Record], folder: Path, method: str = "strong reverse") -> Path:
    """Error against tokens, one panel per measure, for one method.

    Returns:
        A .png written with matplotlib, or an .html written with plotly without it.
    """
    variants = list(dict.fromkeys(record.variant for record in records))
    try:
        import matplotlib as mpl
    except ImportError:
        return _plot_html(records, variants, folder, method)
    mpl.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(1, len(MEASURES), figsize=(15, 4.5), layout="constrained")
    for axis, measure in zip(axes, MEASURES, strict=True):
        for variant in variants:
            curve = select(records, variant, method, measure)
            axis.loglog([r.tokens for r in curve], [r.rmse for r in curve], "o-", label=variant)
        axis.set_xlabel("continued tokens")
        axis.set_title(f"{measure} alignment ({method} KL)")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes[0].set_ylabel("root-mean-square error")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    path = folder / "estimator_efficiency.png"
    figure.savefig(path, dpi=120)
    return path


def _plot_html(
    records: Sequence[Record], variants: Sequence[str], folder: Path, method: str
) -> Path:
    from plotly.subplots import make_subplots

    chart = make_subplots(cols=len(MEASURES), subplot_titles=MEASURES)
    for column, measure in enumerate(MEASURES, start=1):
        for variant in variants:
            curve = select(records, variant, method, measure)
            chart.add_scatter(
                x=[r.tokens for r in curve], y=[r.rmse for r in curve], name=variant,
                row=1, col=column,
            )  # fmt: skip
    chart.update_xaxes(type="log", title="continued tokens")
    chart.update_yaxes(type="log", title="root-mean-square error")
    path = folder / "estimator_efficiency.html"
    chart.write_html(path, include_plotlyjs=True)
    return path
