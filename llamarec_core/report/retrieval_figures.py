"""The figures of the retrieval pages."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llamarec_core.report.figures import PUBLISHED_MARK, color, described, new_figure
from llamarec_core.report.methods import display_name, in_order
from llamarec_core.report.retrieval import QUOTED


def grid_panels(grid: pd.DataFrame) -> Figure:
    """Plot validation Recall@10 over dropout, a line a weight decay, one panel for each data set and retriever.

    Args:
        grid: what :func:`llamarec_core.grid.grid_table` returns.
    """
    datasets, methods = list(grid["dataset"].unique()), in_order(grid["method"])
    figure, axes = new_figure(rows=len(datasets), columns=len(methods), height=1.9 * len(datasets) + 0.8, sharey="row")
    for axis, (dataset, method) in zip(axes, ((d, m) for d in datasets for m in methods), strict=True):
        points = grid[(grid["dataset"] == dataset) & (grid["method"] == method)].dropna(subset="recall@10")
        for number, (decay, line) in enumerate(points.groupby("weight_decay")):
            line = line.sort_values("dropout")
            axis.plot(
                line["dropout"], line["recall@10"], marker="o", color=f"C{number}", label=f"weight decay {decay:g}"
            )
        best = points[points["chosen"]]
        axis.plot(best["dropout"], best["recall@10"], marker="*", markersize=13, color="C3", linestyle="none")
        axis.set(title=f"{dataset}\n{display_name(method)}", xlim=(0.05, 0.55), xticks=[0.1, 0.3, 0.5])
        if points.empty:
            axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center")
    for axis in axes[-len(methods) :]:
        axis.set(xlabel="dropout")
    for axis in axes[:: len(methods)]:
        axis.set(ylabel="validation\nRecall@10")
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False)
    chosen = grid[grid["chosen"]]
    return described(
        figure,
        "Validation Recall@10 against dropout for each data set (rows) and retriever (columns). Best: "
        + "; ".join(
            f"{row.method} on {row.dataset} {row.recall:.4f} at dropout {row.dropout:g}"
            for row in chosen.rename(columns={"recall@10": "recall"}).itertuples()
        )
        + ".",
    )


def validation_curves(curves: Mapping[tuple[str, str], pd.DataFrame]) -> Figure:
    """Plot validation Recall@10 against epochs, one panel a data set, one line a retriever.

    Args:
        curves: (data set, method) → ``epoch`` and ``recall@10`` of the run chosen.
    """
    datasets = list(dict.fromkeys(dataset for dataset, _ in curves))
    figure, axes = new_figure(rows=len(datasets), height=2.1 * len(datasets) + 0.7)
    for axis, dataset in zip(axes, datasets, strict=True):
        for method in in_order(method for name, method in curves if name == dataset):
            curve = curves[dataset, method]
            axis.plot(curve["epoch"], curve["recall@10"], color=color(method), label=display_name(method))
            best = curve.loc[curve["recall@10"].idxmax()]
            axis.plot(best["epoch"], best["recall@10"], marker="*", markersize=12, color=color(method))
        axis.set(title=dataset, ylabel="validation Recall@10")
        axis.legend(loc="lower right")
    axes[-1].set(xlabel="epoch")
    return described(
        figure,
        "Validation Recall@10 against epochs for the chosen run of each retriever, one panel for each of "
        f"{', '.join(datasets)}; a star marks the epoch whose weights are kept.",
    )


def forest(table: pd.DataFrame) -> Figure:
    """Plot each retriever's metrics with 95 % intervals beside the published values, one column a data set.

    Args:
        table: from :func:`retrieval_table`.
    """
    datasets, methods = list(table["dataset"].unique()), in_order(table["method"])
    figure, axes = new_figure(rows=len(QUOTED), columns=len(datasets), height=4.6, sharey=True)
    for axis, (metric, dataset) in zip(axes, ((m, d) for m in QUOTED for d in datasets), strict=True):
        for place, method in enumerate(reversed(methods)):
            chosen = (table["dataset"] == dataset) & (table["method"] == method) & (table["metric"] == metric)
            for row in table[chosen].itertuples():
                axis.plot([row.ci_low, row.ci_high], [place, place], color=color(method), linewidth=2.5)
                axis.plot(row.measured, place, marker="o", color=color(method))
                axis.plot(row.published, place, **PUBLISHED_MARK)
        axis.set(title=dataset if metric == QUOTED[0] else None, xlabel=metric, ylim=(-0.6, len(methods) - 0.4))
        axis.set_yticks(range(len(methods)), [display_name(method) for method in reversed(methods)])
        axis.locator_params(axis="x", nbins=4)
    handles = [
        Line2D([], [], marker="o", color="0.3", linewidth=2.5, label="ours, 95 % interval over users"),
        Line2D([], [], label="published", **PUBLISHED_MARK),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    cells = table[table["metric"].isin(QUOTED)]
    return described(
        figure,
        "Our value with its 95 % interval, and the published value: "
        + "; ".join(
            f"{row.dataset} {display_name(row.method)} {row.metric} {row.measured:.4f}, published {row.published:.4f}"
            for row in cells.itertuples()
        )
        + ".",
    )


def noise_sizes(noise: pd.DataFrame, *, metric: str = "Recall@10") -> Figure:
    """Plot the size of each source of noise beside the published gaps, one panel a data set.

    Args:
        noise: from :func:`noise_table`.
        metric: the metric to show.
    """
    noise = noise[noise["metric"] == metric]
    datasets, sources = list(noise["dataset"].unique()), list(dict.fromkeys(noise["source"]))
    figure, axes = new_figure(rows=1, columns=len(datasets), height=3.0, sharey=True)
    for axis, dataset in zip(axes, datasets, strict=True):
        sizes = noise[noise["dataset"] == dataset].set_index("source")["size"].reindex(sources)
        colors = ["C1" if source.startswith("published") else "C0" for source in sources]
        axis.barh(range(len(sources)), sizes, color=colors)
        axis.set_yticks(range(len(sources)), sources)
        axis.set(title=dataset, xlabel=f"± {metric}")
        axis.locator_params(axis="x", nbins=2)  # numbers of neighbours would touch
    axes[0].invert_yaxis()  # the axes share it
    parts = [
        f"{dataset} {source} {size:.4f}" for dataset, source, size in noise[["dataset", "source", "size"]].to_numpy()
    ]
    return described(
        figure, f"Size of each source of noise in LRURec's {metric}, and published gaps: {'; '.join(parts)}."
    )


def serving_lines(bench: pd.DataFrame) -> Figure:
    """Plot the time that one new interaction takes against the length of the history before it.

    Args:
        bench: from :func:`llamarec_core.evaluation.compare`, with a column ``history`` (interactions).
    """
    figure, (axis,) = new_figure(height=3.0)
    for variant, rows in bench.groupby("variant", sort=False):
        milliseconds = 1000 * rows["median_seconds"]
        axis.errorbar(rows["history"], milliseconds, yerr=500 * rows["iqr_seconds"], marker="o", label=variant)
    axis.set(
        xscale="log", yscale="log", xlabel="interactions before (log)", ylabel="milliseconds (log)", ylim=(0.1, None)
    )
    axis.legend()
    parts = [f"{row.variant}, {row.history:,}: {1000 * row.median_seconds:.2f} ms" for row in bench.itertuples()]
    return described(figure, f"Time of one new interaction against the length of the history. {'; '.join(parts)}.")


def index_curves(curve: pd.DataFrame, *, recall: float = 0.95) -> Figure:
    """Plot recall@20 against queries per second for each catalogue, and time against catalogue size.

    Args:
        curve: ``catalogue``, ``items``, ``index``, ``probes``, ``recall@20`` (against exact search), ``median_seconds``
            of one query.
        recall: the right panel takes the fastest setting with at least this recall@20.
    """
    figure, (left, right) = new_figure(columns=2, height=3.2)
    for number, (catalogue, rows) in enumerate(curve.groupby("catalogue", sort=False)):
        for (index, line), style in zip(rows.groupby("index", sort=False), ("none", "-", "--"), strict=False):
            rate = 1 / line["median_seconds"]
            left.plot(rate, line["recall@20"], marker="o", markersize=4, linestyle=style, color=f"C{number}")
            left.plot([], [], marker="o", linestyle=style, color=f"C{number}", label=f"{catalogue}, {index}")
    left.set(xscale="log", xlabel="queries per second (log)", ylabel="recall@20", ylim=(0.2, 1.03))
    left.legend(fontsize=6.5, loc="lower left")
    enough = curve[curve["recall@20"] >= recall]
    fastest = enough.loc[enough.groupby(["items", "index"])["median_seconds"].idxmin()]
    for index, line in fastest.groupby("index", sort=False):
        right.plot(line["items"], 1000 * line["median_seconds"], marker="o", label=index)
    right.set(xscale="log", yscale="log", xlabel="items (log)", ylabel="milliseconds a query (log)")
    right.set_title(f"at recall@20 ≥ {recall:g}")
    right.legend()
    parts = [
        f"{row.index_name} at {row.items:,} items {1000 * row.median_seconds:.2f} ms"
        for row in fastest.rename(columns={"index": "index_name"}).itertuples()
    ]
    return described(
        figure,
        f"Left: recall@20 against queries per second. Right: time of a query at recall@20 of at least {recall:g}: "
        f"{'; '.join(parts)}.",
    )
