"""The figures of data, training, ranking and times; the forest plots of the results stand in ``figures``."""

import re
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, PercentFormatter

from llamarec_core.files import InputError
from llamarec_core.report.figures import GREY, INK, colour, described, legend_below, new_figure, spread, tell
from llamarec_core.report.methods import RETRIEVER, display_name, in_order

_STRATEGIES = {
    "verbalizer": ("o", "#d55e00"), "causal_lm": ("s", "#0072b2"), "palr": ("^", "#009e73"),
    "gpt4rec": ("v", "#7570b3"), "tallrec": ("D", "#a6761d"), "tallrec_apart": ("d", GREY), "p5": ("P", "#a8326e"),
}  # fmt: skip
"""Mark and colour of each strategy."""


def training_curve(frame: pd.DataFrame, *, x: str, metric: str) -> Figure:
    """Plot the training loss above the validation metric, against the same axis.

    Args:
        frame: one row a record, with ``training_loss`` in nats; where nothing was measured the cell is empty.
        x: column of the horizontal axis, e.g. ``step``.
        metric: column of the validation metric, e.g. ``recall@10``.
    """
    name = re.sub("ndcg|mrr", lambda found: found[0].upper(), metric).replace("recall", "Recall")
    losses, validations = (frame.dropna(subset=column).assign(best=False) for column in ("training_loss", metric))
    validations["best"] = validations.index == validations[metric].idxmax()
    panels = {
        "training loss (nats)": {"lrurec": losses.assign(value=losses["training_loss"])},
        f"validation {name}, the best starred": {"lrurec": validations.assign(value=validations[metric])},
    }
    caption = f"Training loss and validation {name} against {x}."
    return line_panels(panels, x, "value", caption=caption, labels=(x, ""), best="best", legend=False)


_SHOWN = {"ndcg@10": ("alone", "-"), "ndcg@10_with_retriever": ("with the retriever's score", "--"),
          "ndcg@10_shuffled": ("candidates shuffled", ":")}  # fmt: skip
_LINES = ("#0072b2", "#009e73", "#7570b3", GREY)


def learning_curve(curves: Mapping[str, pd.DataFrame], lines: Mapping[str, Mapping[str, float]]) -> Figure:
    """Plot what the ranker learns from answers, one column a data set.

    Args:
        curves: data set → ``answers`` seen, ``nats`` by which the target's log-probability exceeds the prior's, and
            validation ``ndcg@10``, ``ndcg@10_with_retriever`` and ``ndcg@10_shuffled``, as ``training.csv`` holds them.
            A column that is not there is left out.
        lines: data set → name → NDCG@10 on the same users without the ranker: of the retriever, of title overlap, …
    """
    figure, axes = new_figure(rows=2, columns=len(curves), height=4.8, sharex=True, sharey="row", height_ratios=(1, 2))
    handles, numbers = {}, []
    for upper, lower, (dataset, curve) in zip(axes, axes[len(curves) :], curves.items(), strict=False):
        look = {"color": colour("llamarec"), "marker": "o", "markersize": 3}
        upper.plot(curve["answers"], curve.get("nats", np.nan * curve["answers"]), **look)
        upper.axhline(0, color=INK, linewidth=1)
        for column, (name, style) in _SHOWN.items():
            points = curve.dropna(subset=column) if column in curve else curve[:0]
            if len(points):
                (handles[name],) = lower.plot(points["answers"], points[column], linestyle=style, label=name, **look)
                numbers.append(f"{dataset}, {name}: {points[column].iloc[0]:.4f} to {points[column].iloc[-1]:.4f}")
        for hue, (name, value) in zip(_LINES, lines.get(dataset, {}).items(), strict=False):
            handles[name] = lower.axhline(value, color=hue, linewidth=1.5, label=name)
            numbers.append(f"{dataset}, {name}: {value:.4f}")
        upper.set(title=dataset)
        seen = curve.loc[curve["answers"] > 0, "answers"]
        first, last = (np.log10(seen.min()), np.log10(seen.max())) if len(seen) else (0, 1)
        lower.set_xscale("symlog", linthresh=10**first, linscale=0.4)  # 0 stands on the axis too
        ticks = [0, *(10**power for power in range(int(np.ceil(first)), int(last) + 1))]
        lower.set_xticks(ticks, [f"{tick // 1000}k" if tick >= 1000 else str(tick) for tick in ticks])
        lower.set(xlabel="answers seen (log)")
    axes[0].set(ylabel="nats over\nthe prior")
    axes[len(curves)].set(ylabel="validation NDCG@10")
    spread(axes[len(curves) :], along="y")
    legend_below(figure, list(handles.values()), 3)
    caption = "What the ranker learns: how much better than the prior it tells the target, and how well it ranks."
    return described(figure, caption, numbers)


def rank_histogram(ranks: Mapping[str, np.ndarray], *, candidates: int = 20) -> Figure:
    """Plot where each method ranks the target among the candidates.

    Args:
        ranks: method → the users' ranks ``(users,)``; ranks beyond the candidates are counted in the title.
        candidates: number of candidates.
    """
    methods = in_order(ranks)
    columns = min(3, len(methods))
    rows = -(-len(methods) // columns)
    figure, axes = new_figure(rows=rows, columns=columns, height=2.1 * rows + 0.6, sharex=True, sharey=True)
    numbers = []
    for axis, method in zip(axes, methods, strict=False):
        values = np.asarray(ranks[method])
        shares = np.bincount(values[values <= candidates], minlength=candidates + 1)[1:] / len(values)
        beyond = (values > candidates).mean()
        axis.bar(np.arange(1, candidates + 1), shares, width=0.85, color=colour(method), linewidth=0)
        name = "\n".join(textwrap.wrap(display_name(method), 24))
        axis.set_title(f"{name}\n({beyond:.0%} beyond {candidates})", fontsize=9.5)
        axis.grid(visible=False, axis="x")
        numbers.append(f"{display_name(method)}: {shares[0]:.1%} at rank 1, {beyond:.1%} beyond {candidates}")
    for axis in axes[len(methods) :]:
        axis.set_visible(False)
    for axis in axes[: len(methods)][-columns:]:
        axis.tick_params(labelbottom=True)  # also above an empty place in the last row
    axes[0].yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes[0].set_xticks([tick for tick in (1, 5, 10, 15, 20) if tick <= candidates])
    figure.supxlabel("rank of the target", fontsize=10)
    figure.supylabel("share of users", fontsize=10)
    return described(figure, f"How often the target stands at each rank from 1 to {candidates}.", numbers)


def candidate_probabilities(
    titles: Sequence[str], *, before: np.ndarray, after: np.ndarray, target: int | None = None
) -> Figure:
    """Plot one user's P(candidate) before and after tuning.

    Args:
        titles: the candidates' titles, in the retriever's order.
        before: probabilities ``(candidates,)`` of the model as it came.
        after: the same of the tuned model.
        target: position of the target among the candidates, from 0; ``None`` if it was not retrieved.
    """
    figure, (axis,) = new_figure(height=0.27 * len(titles) + 1.2)
    # a dollar sign is escaped, because two of them would start a formula
    names = [textwrap.shorten(title, 40, placeholder="…").replace("$", r"\$") for title in titles]
    bars = pd.DataFrame({"before tuning": before, "after tuning": after}, names)
    bars.plot.barh(ax=axis, color=[GREY, colour("llamarec")], width=0.8, linewidth=0, legend=False)
    axis.axvline(1 / len(titles), color=INK, linestyle=":", label=f"uniform, 1/{len(titles)}")
    axis.set(xlabel="P(candidate)", ylabel="candidates, in the retriever's order", ylim=(len(titles) - 0.4, -0.6))
    axis.grid(visible=False, axis="y")
    numbers = []
    if target is not None:
        mark = {"color": "#009e73", "alpha": 0.25, "linewidth": 0, "zorder": 0, "label": "target"}
        axis.axhspan(target - 0.5, target + 0.5, **mark)
        axis.get_yticklabels()[target].set_fontweight("bold")
        numbers = [f"The target, {titles[target]}, goes from {before[target]:.3f} to {after[target]:.3f}"]
    legend_below(figure, axis.get_legend_handles_labels()[0], 4)
    return described(figure, "P(candidate) for one user's candidates, before and after tuning.", numbers)


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
    legend: bool = True,
) -> Figure:
    """Plot named lines against the same axes, in one panel or several.

    Args:
        panels: title → name of a line → its points. A line has the colour and mark of its name in every panel.
        x: column of the horizontal axis.
        y: column of the vertical axis.
        caption: what the figure shows.
        labels: of both axes.
        columns: how many panels stand side by side.
        log: the logarithmic axes, ``x``, ``y``, ``xy`` or none.
        best: a column that is true for points to mark by a star; without it none is.
        legend: whether the lines are named.
    """
    rows = -(-len(panels) // columns)
    height = 1.8 * rows + (1.8 if rows == 1 else 0.8)
    figure, axes = new_figure(rows=rows, columns=columns, height=height, sharex=True, sharey="row")
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    handles, numbers = {}, []
    for axis, (title, panel) in zip(axes, panels.items(), strict=False):
        for name, points in panel.items():
            hue = colour(name) if colour(name) != GREY else f"C{names.index(name)}"
            look = {"color": hue, "marker": "os^v"[names.index(name) % 4], "markersize": 4, "label": display_name(name)}
            (handles[name],) = axis.plot(points[x], points[y], **look)
            stars = points[points[best]] if best else points[:0]
            star = {"marker": "*", "markersize": 13, "linestyle": "", "clip_on": False, "in_layout": False}
            axis.plot(stars[x], stars[y], color=hue, **star)
            told = (stars if best else points)[[x, y]].to_numpy()
            numbers += [f"{title} {display_name(name)} at {at:,g}: {value:.4g}".strip() for at, value in told]
        axis.set(title=title, **{f"{letter}scale": "log" for letter in log})
        for letter in log:
            getattr(axis, f"{letter}axis").set_major_formatter(_plain)
        if not panel:
            axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center")
    for axis in axes[-columns:]:
        axis.set_xlabel(labels[0])
    for axis in axes[::columns]:
        axis.set_ylabel(labels[1])
    if not log:
        spread(axes, along="y")
    if legend:
        legend_below(figure, list(handles.values()), 4 if max(map(len, names)) < 20 else 1)
    return described(figure, caption, numbers)


def grid_panels(grid: pd.DataFrame) -> Figure:
    """Plot the Recall@10 of :func:`llamarec_core.grid.grid_table` over dropout, a line a weight decay."""
    methods = in_order(grid["method"])
    run = grid.dropna(subset="recall@10").astype({"chosen": bool}).sort_values("dropout")
    panels = {
        f"{dataset}\n{display_name(method)}": {
            f"weight decay {decay:g}": line
            for decay, line in run[(run["dataset"] == dataset) & (run["method"] == method)].groupby("weight_decay")
        }
        for dataset in grid["dataset"].unique()
        for method in methods
    }
    caption = "Validation Recall@10 against dropout; a star marks the setting chosen."
    options = {"labels": ("dropout", "validation\nRecall@10"), "columns": len(methods), "best": "chosen"}
    return line_panels(panels, "dropout", "recall@10", caption=caption, **options)


def validation_curves(curves: Mapping[tuple[str, str], pd.DataFrame]) -> Figure:
    """Plot validation Recall@10 against epochs, one panel a data set, one line a retriever.

    Args:
        curves: (data set, method) → ``epoch`` and ``recall@10`` of the run chosen.
    """
    panels: dict[str, dict[str, pd.DataFrame]] = {}
    for (dataset, method), curve in curves.items():
        best = curve.index == curve["recall@10"].idxmax()
        panels.setdefault(dataset, {})[method] = curve.assign(best=best)
    caption = "Validation Recall@10 against epochs; a star marks the epoch whose weights are kept."
    labels = ("epoch", "validation\nRecall@10")
    return line_panels(panels, "epoch", "recall@10", caption=caption, labels=labels, best="best")


def inference_times(table: pd.DataFrame, *, published: pd.DataFrame) -> Figure:
    """Plot the time to rank one request against the titles' mean length, the paper's beside ours (its Figure 3).

    Args:
        table: as ``results/bench/inference_time.csv`` holds it.
        published: what :func:`llamarec_core.evaluation.published_inference_times` loads.
    """
    whole = table[(table["part"] == "whole") & (table["batch"] == 1)]
    lines = {
        f"{method}, {precision}, {rows['backbone'].iloc[0]}": rows
        for (method, precision), rows in whole.groupby(["method", "precision"], sort=False)
    }
    lines |= {f"{method}, Llama-2-7B, published": rows for method, rows in published.groupby("method", sort=False)}
    caption = "Seconds to rank one request against the mean length of its titles."
    labels = ("mean title length (tokens)", "seconds a request (log)")
    return line_panels({"": lines}, "mean_title_length_tokens", "seconds", caption=caption, labels=labels, log="y")


def noise_sizes(noise: pd.DataFrame, *, metric: str = "Recall@10") -> Figure:
    """Plot the size of each source of noise in a metric beside the published gaps, one panel a data set."""
    noise = noise[noise["metric"] == metric]
    sizes = noise.pivot_table("size", "source", "dataset", sort=False)
    sizes = sizes.sort_index(key=lambda sources: sources.str.startswith("published"), kind="stable")
    colours = [colour("llamarec" if source.startswith("published") else "lrurec") for source in sizes.index]
    figure, axes = new_figure(columns=sizes.shape[1], height=0.35 * len(sizes) + 1.2, sharey=True)
    for axis, dataset in zip(axes, sizes, strict=True):
        sizes[dataset].plot.barh(ax=axis, color=colours, width=0.8, linewidth=0)
        axis.set(title=dataset, xlabel=f"± {metric}", ylabel=None, ylim=(len(sizes) - 0.4, -0.6))
        axis.grid(visible=False, axis="y")
        axis.locator_params(axis="x", nbins=2)  # numbers of neighbours would touch
    numbers = [f"{row.dataset}, {row.source}: {row.size:.4f}" for row in noise.itertuples()]
    return described(figure, f"How far LRURec's {metric} moves by noise alone, beside the published gaps.", numbers)


def quality_against_latency(table: pd.DataFrame) -> Figure:
    """Plot NDCG@10 over all users with its interval against the median time of a request, a panel a data set.

    Args:
        table: from :func:`~llamarec_core.report.strategies_table`. Of a strategy that reads no candidates its ranks in
            the whole catalogue are shown.

    Raises:
        InputError: the table holds no times.
    """
    of_all = table[table["subset"] == "all"]
    quality = of_all[of_all["metric"] == "NDCG@10"]
    keys = ["dataset", "method", "state", "ranked"]  # times stand beside a strategy's own way of ranking
    seconds = of_all.loc[of_all["metric"] == "seconds_p50", [*keys, "measured"]].rename(columns={"measured": "seconds"})
    points = seconds.merge(quality, on=keys)
    if points.empty:
        raise InputError("The table of strategies holds no times: run the strategies first.")
    datasets = list(points["dataset"].unique())
    figure, axes = new_figure(rows=len(datasets), height=2.6 * len(datasets) + 1.2, sharex=True)
    numbers = []
    for axis, dataset in zip(axes, datasets, strict=True):
        own = quality[(quality["dataset"] == dataset) & (quality["method"] == RETRIEVER)]["measured"].item()
        axis.axhline(own, color=INK, linestyle=":", linewidth=1.5, zorder=0)
        numbers.append(f"{dataset}, the retriever's order: {own:.3f}")
        for row in points[points["dataset"] == dataset].itertuples():
            words = f"{dataset}, {display_name(row.method)}, {row.state}: {row.measured:.3f}"
            words += f" [{row.ci_low:.3f}, {row.ci_high:.3f}] at {row.seconds:.2f} s"
            numbers.append(words)
            mark, hue = _STRATEGIES.get(row.method, ("o", GREY))
            place = row.seconds * {"tuned": 1.04}.get(row.state, 0.96)  # both states take the same time: side by side
            face = {"tuned": hue}.get(row.state, "white")
            tell(axis.plot([place, place], [row.ci_low, row.ci_high], color=hue, linewidth=1.5)[0], words)
            point = axis.plot(place, row.measured, marker=mark, color=hue, markerfacecolor=face, markersize=7)[0]
            tell(point, words)
        axis.set(title=dataset, ylabel="NDCG@10, all users", xscale="log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[-1].set(xlabel="median seconds of one request (log)")
    looks = {display_name(name): look for name, look in _STRATEGIES.items() if name in set(points["method"])}
    handles = [Line2D([], [], marker=mark, color=hue, linestyle="", label=name) for name, (mark, hue) in looks.items()]
    for face, label in (("white", "hollow: zero-shot"), (GREY, "filled: tuned")):
        handles.append(Line2D([], [], marker="o", color=GREY, linestyle="", markerfacecolor=face, label=label))
    handles.append(Line2D([], [], color=INK, linestyle=":", label="the retriever's order"))
    legend_below(figure, handles, 3)
    caption = "Quality against the time of one request: the higher and the further left, the better."
    return described(figure, caption, numbers)


def index_curves(curve: pd.DataFrame, *, recall: float = 0.95) -> Figure:
    """Plot the time of a query against the catalogue's size, at the fastest setting with that recall@20 at least."""
    enough = curve[curve["recall@20"] >= recall].assign(milliseconds=lambda rows: 1000 * rows["median_seconds"])
    fastest = enough.loc[enough.groupby(["items", "index"])["milliseconds"].idxmin()]
    lines = dict(tuple(fastest.groupby("index", sort=False)))
    caption = f"Time of a query against the size of the catalogue, at the fastest setting with recall@20 ≥ {recall:g}."
    labels = ("items (log)", "milliseconds a query (log)")
    return line_panels({"": lines}, "items", "milliseconds", caption=caption, labels=labels, log="xy")


def _plain(value: float, _: int) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
