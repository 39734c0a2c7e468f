"""The figures of data, training, ranking and times: curves, bars, and quality against time."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter, PercentFormatter

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.report.figures import GREY, INK, colour, from_the_top, legend_below, new_figure, spread
from llamarec_core.report.forms import RETRIEVER, display_name, in_order, text

_STRATEGIES = {
    "verbalizer": ("o", "#d55e00"), "causal_lm": ("s", "#0072b2"), "palr": ("^", "#009e73"),
    "gpt4rec": ("v", "#7570b3"), "tallrec": ("D", "#a6761d"), "tallrec_apart": ("d", GREY), "p5": ("P", "#a8326e"),
}  # fmt: skip
"""Mark and colour of each strategy."""
_PLAIN = FuncFormatter(lambda at, _: f"{at:,.0f}" if at >= 1 else f"{at:g}")


def line_panels(
    panels: Mapping[str, Mapping[str, pd.DataFrame]],
    x: str,
    y: str,
    *,
    caption: str,
    labels: tuple[str, str],
    columns: int = 1,
    log: str = "",
    best: str | None = None,
    **options: Any,
) -> Figure:
    """Plot lines by the title of a panel and their name, which have the same look in every panel.

    ``log`` names the logarithmic axes, ``columns`` is how many panels stand side by side, and ``best`` is a column that
    is true for points to mark by a star.
    """
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    looks = {
        name: {"color": f"C{number}" if colour(name) == GREY else colour(name), "marker": "os^v"[number % 4]}
        for number, name in enumerate(names)
    }
    height = 1.8 * -(-len(panels) // columns) + (0.8 if len(panels) > columns else 1.8) + 0.1 * len(names)
    shape = {"height": height, "columns": columns, "sharex": True, "sharey": "row", **options}
    figure, axes = new_figure(caption, panels, labels, **shape)
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        for name, points in panel.items():
            (line,) = axis.plot(points[x], points[y], **looks[name], markersize=4, label=display_name(name))
            told = points[points[best]] if best else points.iloc[[0, -1]] if len(points) > 12 else points
            values = ", ".join(f"{value:.4g} at {at:,g}" for at, value in told[[x, y]].to_numpy())
            line.tooltip = f"{title} {display_name(name)}: {values}".replace("\n", " ").strip()
            if best:
                axis.plot(told[x], told[y], "*", color=line.get_color(), markersize=13, clip_on=False, in_layout=False)
        if not panel:
            axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center")
        for letter in log:
            axis.set(**{f"{letter}scale": "log"})
            getattr(axis, f"{letter}axis").set_major_formatter(_PLAIN)
    if not log:
        spread(figure, along="y")
    if len(names) > 1:
        legend_below(figure, {display_name(name): look | {"linestyle": "-"} for name, look in looks.items()})
    return figure


def training_curve(frame: pd.DataFrame, *, x: str, metric: str) -> Figure:
    """Plot the ``training_loss`` above a validation metric such as ``recall@10``, where each was measured."""
    name = re.sub("ndcg|mrr", lambda found: found[0].upper(), metric).replace("recall", "Recall")
    panels = {}
    for column, title in (("training_loss", "training loss (nats)"), (metric, f"validation {name}, the best starred")):
        best = frame[column].eq(frame[column].max()) & (column == metric)
        panels[title] = {"lrurec": frame.assign(value=frame[column], best=best).dropna(subset="value")}
    caption = f"Training loss and validation {name} against {x}."
    return line_panels(panels, x, "value", caption=caption, labels=(x, ""), best="best")


def learning_curve(curves: Mapping[str, pd.DataFrame], lines: Mapping[str, Mapping[str, float]]) -> Figure:
    """Plot what the ranker learns from answers, one column a tuning: its title → its ``training.csv``.

    ``lines`` hold, by title and name, the NDCG@10 of the same users without the ranker.
    """
    shown = {
        "nats over the prior": {"nats": "alone"},
        "validation NDCG@10": {"ndcg@10": "alone", "ndcg@10_with_retriever": "with the retriever's score",
                               "ndcg@10_shuffled": "candidates shuffled"},
    }  # fmt: skip
    panels = {}
    for (label, columns), (title, curve) in product(shown.items(), curves.items()):
        known = {column: name for column, name in columns.items() if column in curve}  # a short tuning has not all
        panels[f"{title}\n{label}"] = {
            name: curve.assign(value=curve[column]).dropna(subset="value") for column, name in known.items()
        }
    for title, values in lines.items():
        ends = curves[title].iloc[[0, -1]]
        panels[f"{title}\nvalidation NDCG@10"] |= {name: ends.assign(value=value) for name, value in values.items()}
    caption = "What the ranker learns: how much better than the prior it predicts the target, and how well it ranks."
    shape = {"labels": ("answers seen (log)", ""), "columns": len(curves), "height_ratios": (2, 3)}
    figure = line_panels(panels, "answers", "value", caption=caption, **shape)
    answers = pd.concat(curve["answers"] for curve in curves.values())
    first = min(answers[answers > 0], default=1)
    digits = (1,) if answers.max() >= 100 * first else (1, 2, 5)
    ticks = [digit * 10**power for power in range(9) for digit in digits]
    ticks = [0, *(tick for tick in ticks if first <= tick <= answers.max())]
    for axis in figure.axes:
        axis.set_xscale("symlog", linthresh=first, linscale=0.4)  # 0 stands on the axis too
        axis.set(xlim=(-first / 4, None), xticks=ticks)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


def grid_panels(grid: pd.DataFrame) -> Figure:
    """Plot the Recall@10 of :func:`llamarec_core.grid.grid_table` over dropout, a line a weight decay."""
    run = grid.astype({"chosen": bool}).sort_values("dropout").dropna(subset="recall@10")
    panels = {}
    for dataset, method in product(grid["dataset"].unique(), in_order(grid["method"])):
        lines = run[(run["dataset"] == dataset) & (run["method"] == method)].groupby("weight_decay")
        panels[f"{dataset}\n{display_name(method)}"] = {f"weight decay {decay:g}": line for decay, line in lines}
    caption = "Validation Recall@10 against dropout. A star marks the setting chosen."
    options = {"labels": ("dropout", "validation\nRecall@10"), "columns": grid["method"].nunique(), "best": "chosen"}
    return line_panels(panels, "dropout", "recall@10", caption=caption, **options)


def validation_curves(curves: Mapping[tuple[str, str], pd.DataFrame]) -> Figure:
    """Plot validation ``recall@10`` against ``epoch``, one panel a data set; the keys are (data set, method)."""
    panels: dict[str, dict[str, pd.DataFrame]] = {}
    for (dataset, method), curve in curves.items():
        best = curve.index == curve["recall@10"].idxmax()
        panels.setdefault(dataset, {})[method] = curve.assign(best=best)
    caption = "Validation Recall@10 against epochs. A star marks the epoch whose weights are kept."
    labels = ("epoch", "validation\nRecall@10")
    return line_panels(panels, "epoch", "recall@10", caption=caption, labels=labels, best="best")


def inference_times(table: pd.DataFrame, *, published: pd.DataFrame) -> Figure:
    """Plot the time to rank one request against its titles' mean length, the paper's beside ours (its Figure 3)."""
    whole = table[(table["part"] == "whole") & (table["batch"] == 1)]
    whole = whole.assign(line=whole["method"] + ", " + whole["precision"] + ", " + whole["backbone"])
    lines = pd.concat([whole, published.assign(line=published["method"] + ", Llama-2-7B, published")])
    panels = {"": dict(tuple(lines.groupby("line", sort=False)))}
    caption = "Seconds to rank one request against the mean length of its titles."
    labels = ("mean title length (tokens)", "seconds a request (log)")
    return line_panels(panels, "mean_title_length_tokens", "seconds", caption=caption, labels=labels, log="y")


def index_curves(curve: pd.DataFrame) -> Figure:
    """Plot the time of a query against the catalogue's size, at the fastest setting that finds 95 % of the best 20."""
    enough = curve[curve["recall@20"] >= 0.95].assign(milliseconds=1000 * curve["median_seconds"])
    fastest = enough.loc[enough.groupby(["items", "index"])["milliseconds"].idxmin()]
    panels = {"": dict(tuple(fastest.groupby("index", sort=False)))}
    caption = "Time per query against the size of the catalogue, at the fastest setting with recall@20 ≥ 0.95."
    labels = ("items (log)", "milliseconds a query (log)")
    return line_panels(panels, "items", "milliseconds", caption=caption, labels=labels, log="xy")


def rank_histogram(ranks: Mapping[str, np.ndarray], *, candidates: int = 20) -> Figure:
    """Plot how often each method gives the target each rank; ``ranks`` are by method, one a user."""
    columns = min(3, len(ranks))
    caption = f"How often the target has each rank from 1 to {candidates}."
    shape = {"columns": columns, "height": 2.1 * -(-len(ranks) // columns) + 0.6, "sharex": True, "sharey": True}
    figure, axes = new_figure(caption, ranks, ("rank of the target", "share of users"), **shape)
    for axis, method in zip(axes, in_order(ranks), strict=True):
        shares = np.bincount(ranks[method], minlength=candidates + 1)[1 : candidates + 1] / len(ranks[method])
        name, beyond = display_name(method), np.mean(ranks[method] > candidates)
        for bar in axis.bar(range(1, candidates + 1), shares, width=0.85, color=colour(method), linewidth=0):
            bar.tooltip = f"{name}: {shares[0]:.1%} at rank 1, {beyond:.1%} beyond {candidates}"
        axis.set_title(f"{textwrap.fill(name, 24)}\n({beyond:.0%} beyond {candidates})", fontsize=9.5)
        axis.grid(visible=False, axis="x")
    axes[0].yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes[0].set_xticks([tick for tick in (1, 5, 10, 15, 20) if tick <= candidates])
    return figure


def candidate_probabilities(titles: Sequence[str], *, before: np.ndarray, after: np.ndarray, target: int) -> Figure:
    """Plot P(candidate), ``(candidates,)``, before and after tuning; ``target`` is the target's position."""
    caption = "P(candidate) for one user's candidates, before and after tuning."
    figure, (axis,) = new_figure(caption, [""], ("", ""), height=0.27 * len(titles) + 1.2)
    # a dollar sign is escaped, because two of them would start a formula
    names = [textwrap.shorten(title, 40, placeholder="…").replace("$", r"\$") for title in titles]
    bars = pd.DataFrame({"before tuning": before, "after tuning": after}, names)
    bars.plot.barh(ax=axis, color=[GREY, colour("llamarec")], width=0.8, linewidth=0, legend=False)
    axis.set(xlabel="P(candidate)", ylabel="candidates, in the retriever's order")
    axis.axvline(1 / len(titles), color=INK, linestyle=":", label=f"uniform, 1/{len(titles)}")
    mark = axis.axhspan(target - 0.5, target + 0.5, color="#009e73", alpha=0.25, linewidth=0, zorder=0, label="target")
    mark.tooltip = f"The target, {titles[target]}, goes from {before[target]:.3f} to {after[target]:.3f}"
    axis.get_yticklabels()[target].set_fontweight("bold")
    from_the_top(axis, len(titles))
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def noise_sizes(noise: pd.DataFrame) -> Figure:
    """Plot the size of each source of noise in Recall@10 beside the published gaps, one panel a data set."""
    sizes = noise[noise["metric"] == "Recall@10"].pivot_table("size", "source", "dataset", sort=False)
    sizes = sizes.sort_index(key=lambda sources: sources.str.startswith("published"), kind="stable")
    colours = [colour("llamarec" if source.startswith("published") else "lrurec") for source in sizes.index]
    caption = "How far noise alone moves LRURec's Recall@10, beside the published gaps."
    shape = {"height": 0.35 * len(sizes) + 1.2, "columns": len(sizes.columns), "sharey": True}
    figure, axes = new_figure(caption, sizes.columns, ("± Recall@10", ""), **shape)
    for axis, (dataset, values) in zip(axes, sizes.items(), strict=True):
        for (source, value), bar in zip(values.items(), axis.barh(values.index, values, color=colours), strict=True):
            bar.tooltip = f"{dataset}, {source}: {value:.4f}"
        axis.locator_params(axis="x", nbins=2)  # numbers of neighbours would touch
        from_the_top(axis, len(values))
    return figure


def quality_against_latency(table: pd.DataFrame) -> Figure:
    """Plot NDCG@10 over all users against the median time of a request, from ``strategies.csv``; a panel a data set."""
    of_all = table[table["subset"] == "all"].assign(name=table["method"].map(display_name))
    quality = of_all[of_all["metric"] == "NDCG@10"]
    keys = ["dataset", "method", "state", "ranked"]  # times stand beside a strategy's own way of ranking
    seconds = of_all[of_all["metric"] == "seconds_p50"].set_index(keys)["measured"]
    points = quality.join(seconds.rename("seconds"), on=keys, how="inner")
    if points.empty:
        raise InputError("The table of strategies holds no times: run the strategies first.")
    panels = dict(tuple(points.groupby("dataset", sort=False)))
    caption = "Quality against the time of one request. Higher and further left is better."
    labels = ("median seconds of one request (log)", "NDCG@10, all users")
    figure, axes = new_figure(caption, panels, labels, height=2.6 * len(panels) + 1.2, sharex=True)
    for axis, (dataset, rows) in zip(axes, panels.items(), strict=True):
        own = quality.loc[(quality["dataset"] == dataset) & (quality["method"] == RETRIEVER), "measured"].item()
        line = axis.axhline(own, color=INK, linestyle=":", linewidth=1.5, zorder=0)
        line.tooltip = f"{dataset}, the retriever's order: {own:.3f}"
        for row in rows.to_dict("records"):
            mark, hue = _STRATEGIES[row["method"]]
            tuned = row["state"] == "tuned"
            at = [row["seconds"] * (1.04 if tuned else 0.96)] * 3  # both states take the same time: side by side
            look = {"marker": mark, "markevery": [1], "markersize": 7, "linewidth": 1.5, "color": hue}
            values = [row["ci_low"], row["measured"], row["ci_high"]]
            (point,) = axis.plot(at, values, markerfacecolor=hue if tuned else "white", **look)
            written = "{dataset}, {name}, {state}: {measured:.3f} [{ci_low:.3f}, {ci_high:.3f}] at {seconds:.2f} s"
            point.tooltip = text(written, row)
        _plain_log(axis)
    marks = {name: look for name, look in _STRATEGIES.items() if name in set(points["method"])}
    looks = {display_name(name): {"marker": mark, "color": hue} for name, (mark, hue) in marks.items()}
    looks["filled: tuned"] = {"marker": "o", "color": GREY}
    looks["hollow: zero-shot"] = looks["filled: tuned"] | {"markerfacecolor": "white"}
    looks["the retriever's order"] = {"color": INK, "linestyle": ":"}
    legend_below(figure, looks)
    return figure


def sequence_lengths_and_popularity(dataset: Dataset) -> Figure:
    """Plot how long the users' histories are, and how often each item occurs, by its popularity rank."""
    lengths, occurrences = np.diff(dataset.offsets), np.bincount(dataset.items)  # (users,), (items + 1,)
    occurrences = np.sort(occurrences[occurrences > 0])[::-1]
    caption = f"{dataset.name}: how many interactions each user has, and how often each item occurs."
    titles, labels = ("Sequence lengths", "Item popularity"), ("interactions of a user (log)", "users")
    figure, (left, right) = new_figure(caption, titles, labels, columns=2, height=2.9)
    left.hist(lengths, np.geomspace(lengths.min(), lengths.max() + 1, 31), color=colour("lrurec"), linewidth=0)
    _plain_log(left)
    median, least, most = np.median(lengths), lengths.min(), lengths.max()
    middle = left.axvline(median, color=colour("llamarec"), linestyle="--", label=f"median {median:g}")
    middle.tooltip = f"{len(lengths):,} users with {least:,} to {most:,} interactions, median {median:g}"
    left.legend()
    (curve,) = right.loglog(range(1, len(occurrences) + 1), occurrences, linewidth=2, color=colour("lrurec"))
    curve.tooltip = f"items with {occurrences[0]:,} down to {occurrences[-1]:,} interactions"
    right.set(xlabel="item's popularity rank (log)", ylabel="interactions (log)")
    return figure


def _plain_log(axis: Axes) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(_PLAIN)
    axis.xaxis.set_minor_formatter(NullFormatter())  # their labels would run into one another
