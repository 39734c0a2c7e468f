"""The figures of the comparison: quality against latency, and Figure 3 of the paper."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from llamarec_core.files import InputError
from llamarec_core.report.figures import PUBLISHED_MARK, described, new_figure
from llamarec_core.report.methods import STRATEGY_NAMES, display_name
from llamarec_core.report.strategies import RETRIEVER

_LINE = 0.075
"""Height of a line of text, as a share of a panel's."""

_CHARACTER = 0.0165
"""Width of a character, as a share of a panel's."""


def quality_against_latency(table: pd.DataFrame) -> Figure:
    """Plot NDCG@10 over all users with its interval against the median time of a request, a panel a data set.

    Args:
        table: from :func:`~llamarec_core.report.strategies_table`; of a strategy that reads no candidates its ranks
            in the whole catalogue are shown.

    Raises:
        InputError: the table holds no times.
    """
    points = _points(table)
    if points.empty:
        raise InputError("The table of strategies holds no times: run `5_strategies` first.")
    of_all = table[(table["metric"] == "NDCG@10") & (table["subset"] == "all")]
    found = of_all[of_all["method"] == RETRIEVER]
    datasets = list(points["dataset"].unique())
    figure, axes = new_figure(rows=len(datasets), height=3.1 * len(datasets) + 0.5, sharex=True)
    for axis, dataset in zip(axes, datasets, strict=True):
        _panel(axis, points[points["dataset"] == dataset])
        reference = found.loc[found["dataset"] == dataset, "measured"].item()
        axis.axhline(reference, color="0.35", linestyle=":", linewidth=1.5, zorder=0)
        axis.set(title=dataset, ylabel="NDCG@10, all users")
    axes[-1].set(xlabel="median seconds of one request (log)")
    handles = [
        axes[0].plot([], [], marker="o", color="0.3", linestyle="none", markerfacecolor=face, label=label)[0]
        for face, label in (("white", "zero-shot"), ("0.3", "tuned"))
    ]
    handles.append(axes[0].plot([], [], color="0.35", linestyle=":", label="the retriever's order")[0])
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    parts = [f"{row.dataset}, the retriever's order: {row.measured:.3f}" for row in found.itertuples()]
    parts += [
        f"{row.dataset}, {display_name(row.method)}, {row.state}: {row.measured:.3f} [{row.ci_low:.3f}, "
        f"{row.ci_high:.3f}] at {row.seconds:.2f} s"
        for row in points.itertuples()
    ]
    return described(
        figure,
        "NDCG@10 over all users with its 95 % interval against the median time of one request (log axis), a point for "
        f"each strategy and state; a dotted line shows the retriever's order. {'; '.join(parts)}.",
    )


def _points(table: pd.DataFrame) -> pd.DataFrame:
    """Return what is plotted, one row a strategy and state: ``measured`` with its interval, and ``seconds``."""
    keys = ["dataset", "method", "state", "ranked"]
    of_all = table[table["subset"] == "all"]
    seconds = of_all[of_all["metric"] == "seconds_p50"].rename(columns={"measured": "seconds"})
    quality = of_all.loc[of_all["metric"] == "NDCG@10", [*keys, "measured", "ci_low", "ci_high"]]
    return seconds[[*keys, "seconds"]].merge(quality, on=keys)  # times stand beside a strategy's own way of ranking


def _panel(axis: Axes, points: pd.DataFrame) -> None:
    palette = dict(zip(STRATEGY_NAMES, sns.color_palette("colorblind"), strict=False))
    axis.set_xscale("log")
    for row in points.itertuples():
        tuned, hue = row.state == "tuned", palette[row.method]
        errors = [[row.measured - row.ci_low], [row.ci_high - row.measured]]
        place = row.seconds * (1.03 if tuned else 0.97)  # both states take the same time: side by side
        face = hue if tuned else "white"
        axis.errorbar(place, row.measured, yerr=errors, fmt="o", color=hue, markerfacecolor=face, capsize=2)
    axis.set_xlim(points["seconds"].min() / 2, points["seconds"].max() * 2)
    low, high = points["ci_low"].min(), max(points["ci_high"].max(), 1e-3)
    axis.set_ylim(low - 0.05 * (high - low), high + 0.6 * (high - low))  # room for the names
    _name(axis, points, palette)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())


def _name(axis: Axes, points: pd.DataFrame, palette: dict[str, tuple[float, float, float]]) -> None:
    """Write each strategy's name above its points, higher where another name stands already."""
    to_axes = axis.transScale + axis.transLimits
    written: list[tuple[float, float, float]] = []  # middle, half width and height of each name, as shares of the panel
    for method, rows in points.groupby("method", sort=False):
        x, y = to_axes.transform((np.exp(np.log(rows["seconds"]).mean()), rows["ci_high"].max()))
        half, y = _CHARACTER * len(display_name(method)) / 2, y + 0.02
        x = min(max(x, half), 1 - half)
        while any(abs(x - at) < half + other and abs(y - height) < _LINE for at, other, height in written):
            y += _LINE / 3
        written.append((x, half, y))
        shade = tuple(0.65 * channel for channel in palette[method])  # darker: pale letters are hard to read
        axis.text(x, y, display_name(method), transform=axis.transAxes, ha="center", fontsize=9, color=shade)


def inference_times(table: pd.DataFrame, *, published: pd.DataFrame) -> Figure:
    """Plot the time to rank one request against the titles' mean length, the paper's beside ours (its Figure 3).

    Args:
        table: ``mean_title_length_tokens``, ``method``, ``precision``, ``backbone``, ``batch``, ``part``, ``seconds``
            and ``iqr_seconds``, as ``results/bench/inference_time.csv`` holds them.
        published: what :func:`llamarec_core.evaluation.published_inference_times` loads.
    """
    whole = table[(table["part"] == "whole") & (table["batch"] == 1)]
    figure, (axis,) = new_figure(height=3.6)
    for number, ((method, precision), rows) in enumerate(whole.groupby(["method", "precision"], sort=False)):
        axis.errorbar(
            rows["mean_title_length_tokens"], rows["seconds"], yerr=rows["iqr_seconds"] / 2, marker="o", capsize=2,
            color=f"C{number}", label=f"{method}, {precision}, {rows['backbone'].iloc[0]}",
        )  # fmt: skip
    for method, rows in published.groupby("method", sort=False):
        mark = PUBLISHED_MARK | {"linestyle": ":", "color": "0.3", "markerfacecolor": "white"}
        axis.plot(rows["mean_title_length_tokens"], rows["seconds"], label=f"{method}, Llama-2-7B, published", **mark)
    axis.set(xlabel="mean title length (tokens)", ylabel="seconds a request (log)", yscale="log")
    axis.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=1, frameon=False)
    parts = [
        f"{row.method}, {row.precision}, at {row.mean_title_length_tokens:g} tokens: {row.seconds:.2f} s"
        for row in whole.itertuples()
    ]
    return described(
        figure,
        "Seconds to rank one request against the mean title length in tokens (log axis): ours, and the published times "
        f"of generation. Ours: {'; '.join(parts)}.",
    )
