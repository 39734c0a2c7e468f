"""The theme of every plot, and the plots of data and results.

Each function returns a matplotlib Figure whose axes carry their units; it is not registered with pyplot, so that
a notebook shows it once, as a cell's last value. ``figure.alt_text`` says in words what it shows.
"""

import base64
import html
import io
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, ScalarFormatter

from llamarec_core.data import Dataset
from llamarec_core.evaluation import METRICS
from llamarec_core.files import InputError, replacing
from llamarec_core.report.methods import METHOD_NAMES, display_name, in_order

_WIDTH = 6.0
"""In inches, fits the book's text, and stays readable when a phone shrinks it."""


def set_theme() -> None:
    """Set the look of every figure: colour-blind palette, a font that ships with matplotlib, SVG in notebooks.

    Figures keep a white ground, as a card on a dark page: their labels read in print and in both of the book's modes.
    """
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette="colorblind",
        font="DejaVu Sans",
        rc={
            "axes.edgecolor": "0.3",
            "axes.labelsize": 10,
            "axes.titlesize": 10.5,
            "font.size": 10,
            "legend.fontsize": 9,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "savefig.dpi": 200,
            "svg.hashsalt": "llamarec",  # names inside an SVG depend on its content alone
        },
    )
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats()  # none of its own: they have no place for the words
        sys.modules["IPython"].get_ipython().display_formatter.formatters["text/html"].for_type(Figure, as_html)


def as_html(figure: Figure) -> str:
    """Return a figure as an SVG image with its text for those who cannot see it."""
    with io.BytesIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
        source = base64.b64encode(file.getvalue()).decode()
    words = html.escape(getattr(figure, "alt_text", "Figure"))
    return f'<img src="data:image/svg+xml;base64,{source}" alt="{words}">'


def sequence_lengths_and_popularity(dataset: Dataset) -> Figure:
    """Plot how long the users' histories are, and how often each item occurs, by its popularity rank."""
    lengths = np.diff(dataset.offsets)  # (users,)
    occurrences = np.bincount(dataset.items, minlength=dataset.n_items + 1)[1:]
    occurrences = np.sort(occurrences[occurrences > 0])[::-1]
    figure, (left, right) = new_figure(columns=2, height=2.9)
    if lengths.min() == lengths.max():
        left.hist(lengths)
    else:
        sns.histplot(x=lengths, log_scale=True, bins=30, ax=left)
        left.xaxis.set_major_formatter(ScalarFormatter())
        left.xaxis.set_minor_formatter(NullFormatter())  # their labels would run into one another
    left.set(xlabel="interactions of a user (log)", ylabel="users", title="Sequence lengths")
    median = float(np.median(lengths))
    left.axvline(median, color="C1", linestyle="--", label=f"median {median:g}")
    left.legend()
    right.loglog(np.arange(1, len(occurrences) + 1), occurrences, linewidth=2)
    right.set(xlabel="item's popularity rank (log)", ylabel="interactions (log)", title="Item popularity")
    return described(
        figure,
        f"Two panels for {dataset.name}. Left: histogram of the {len(lengths):,} users' sequence lengths, from "
        f"{lengths.min():,} to {lengths.max():,} interactions, median {median:g}. Right: interactions of each item "
        f"against its popularity rank, falling from {occurrences[0]:,} to {occurrences[-1]:,}, both axes logarithmic.",
    )


def training_curve(
    frame: pd.DataFrame, *, x: str, loss: str = "training_loss", metric: str, warmed_up: bool = False
) -> Figure:
    """Plot the training loss above the validation metric, against the same axis.

    Args:
        frame: one row a record; where nothing was measured the cell is empty.
        x: column of the horizontal axis, e.g. ``iteration`` or ``step``.
        loss: column of the training loss, a cross-entropy in nats.
        metric: column of the validation metric, e.g. ``recall@10``.
        warmed_up: whether the row without a loss, from before training, may be the best.

    Raises:
        InputError: a column is missing.
    """
    for column in (x, loss, metric):
        if column not in frame.columns:
            raise InputError(f"The training curve lacks the column {column!r}: it has {', '.join(frame.columns)}.")
    losses, validations = (frame[[x, column]].dropna() for column in (loss, metric))
    name = metric.replace("ndcg", "NDCG").replace("recall", "Recall").replace("mrr", "MRR").replace("_", " ")
    figure, (upper, lower) = new_figure(rows=2, height=4.2, sharex=True)
    upper.plot(losses[x], losses[loss], color="C0")
    upper.set(ylabel="training loss (nats)")
    lower.plot(validations[x], validations[metric], color="C2", marker="o", markersize=4)
    lower.set(xlabel=x, ylabel=f"validation\n{name}")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    text = f"Training loss (upper panel) and validation {name} (lower panel) against {x}."
    if len(losses):
        text += f" The loss goes from {losses[loss].iloc[0]:.3g} to {losses[loss].iloc[-1]:.3g}."
    if len(validations):
        kept = validations.loc[validations.index.intersection(losses.index), metric]
        best = validations.loc[(kept if len(kept) and not warmed_up else validations[metric]).idxmax()]
        lower.plot(best[x], best[metric], color="C3", marker="*", markersize=13, linestyle="none", label="best, kept")
        lower.legend()
        text += f" The best validation is {best[metric]:.4f} at {x} {best[x]:g}."
    return described(figure, text)


def rank_histogram(ranks: Mapping[str, np.ndarray], *, candidates: int = 20) -> Figure:
    """Plot where each method ranks the target among the candidates.

    Args:
        ranks: method → the users' ranks ``(users,)``; ranks beyond the candidates are counted in the title.
        candidates: number of candidates.

    Raises:
        InputError: there is no method.
    """
    methods = _methods(ranks)
    columns = min(3, len(methods))
    rows = -(-len(methods) // columns)
    figure, axes = new_figure(rows=rows, columns=columns, height=2.3 * rows + 0.6, sharex=True, sharey=True)
    sentences = []
    for axis, method in zip(axes, methods, strict=False):
        values = np.asarray(ranks[method])
        shares = np.bincount(values[values <= candidates], minlength=candidates + 1)[1:] / len(values)
        beyond = (values > candidates).mean()
        axis.bar(np.arange(1, candidates + 1), shares, width=0.85, color=color(method), linewidth=0)
        axis.set_title(f"{_broken(method)}\n({beyond:.0%} beyond {candidates})", fontsize=9.5)
        axis.grid(visible=False, axis="x")
        sentences.append(f"{display_name(method)}: {shares[0]:.1%} at rank 1, {beyond:.1%} beyond {candidates}.")
    for axis in axes[len(methods) :]:
        axis.set_visible(False)
    for axis in axes[: len(methods)][-columns:]:
        axis.tick_params(labelbottom=True)  # also above an empty place in the last row
    axes[0].yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=1))
    axes[0].set_xticks([tick for tick in (1, 5, 10, 15, 20) if tick <= candidates])
    figure.supxlabel("rank of the target", fontsize=10)
    figure.supylabel("share of users", fontsize=10)
    return described(figure, f"Distribution of the target's rank from 1 to {candidates}. " + " ".join(sentences))


def metric_bars(table: pd.DataFrame, *, metrics: Sequence[str] = METRICS, subset: str = "all") -> Figure:
    """Plot each method's metrics with their 95 % intervals, and the published values beside them.

    Args:
        table: what :func:`llamarec_core.report.tables.results_table` returns; one row of bars a data set.
        metrics: the metrics to show.
        subset: ``all`` or ``retrieved``.

    Raises:
        InputError: the table has no row of that subset and those metrics.
    """
    table = table[table["metric"].isin(metrics) & (table["subset"] == subset)]
    if table.empty:
        raise InputError(f"The results hold none of {', '.join(metrics)} for the subset {subset!r}: nothing to plot.")
    datasets, methods = list(table["dataset"].unique()), in_order(table["method"])
    figure, axes = new_figure(rows=len(datasets), height=2.6 * len(datasets) + 0.9, sharex=True)
    places = np.arange(len(metrics))
    width = 0.84 / len(methods)
    for axis, dataset in zip(axes, datasets, strict=True):
        for number, method in enumerate(methods):
            rows = table[(table["dataset"] == dataset) & (table["method"] == method)].set_index("metric")
            rows = rows.reindex(metrics)
            x = places + (number - (len(methods) - 1) / 2) * width
            errors = [rows["measured"] - rows["ci_low"], rows["ci_high"] - rows["measured"]]
            axis.bar(
                x, rows["measured"], width=width * 0.92, color=color(method), label=display_name(method), linewidth=0
            )
            axis.errorbar(x, rows["measured"], yerr=errors, fmt="none", ecolor="0.15", elinewidth=1, capsize=2)
            if rows["published"].notna().any():
                axis.plot(x, rows["published"], **PUBLISHED_MARK)
        axis.set(
            title=dataset,
            ylabel="metric (0 to 1)" if len(metrics) > 1 else metrics[0],
            xticks=places,
            xticklabels=metrics,
        )
        axis.grid(visible=False, axis="x")
    handles, labels = axes[0].get_legend_handles_labels()
    if table["published"].notna().any():
        handles.append(mpl.lines.Line2D([], [], **PUBLISHED_MARK))
        labels.append("published")
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    best = table.loc[table.groupby(["dataset", "metric"], sort=False)["measured"].idxmax()]
    return described(
        figure,
        f"Bars of {', '.join(metrics)} with 95 % intervals over "
        f"{'all users' if subset == 'all' else 'the users whose target was retrieved'}, for "
        f"{', '.join(display_name(method) for method in methods)}. Best: "
        + "; ".join(
            f"{row.dataset} {row.metric} {row.measured:.4f} ({display_name(row.method)})" for row in best.itertuples()
        )
        + ".",
    )


def save_figure(figure: Figure, path_without_suffix: Path) -> list[Path]:
    """Write a figure as PNG, PDF and SVG, each whole or not at all, with no date inside; return the files.

    Raises:
        InputError: the disk is full.
    """
    path = Path(path_without_suffix)
    files = []
    for suffix, metadata in (("png", {}), ("pdf", {"CreationDate": None}), ("svg", {"Date": None})):
        files.append(path.with_name(f"{path.name}.{suffix}"))
        with replacing(files[-1]) as temporary:
            figure.savefig(temporary, format=suffix, metadata=metadata)
    return files


PUBLISHED_MARK = {
    "marker": "D", "markersize": 5, "color": "white", "markeredgecolor": "black", "linestyle": "none", "zorder": 3,
}  # fmt: skip
"""How a published value looks in every figure."""


def new_figure(*, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a new figure of the book's width, and its axes row by row."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def described(figure: Figure, alt_text: str) -> Figure:
    """Keep in words what a figure shows."""
    figure.alt_text = alt_text
    return figure


def _methods(ranks: Mapping[str, np.ndarray]) -> list[str]:
    if not ranks:
        raise InputError("There are no ranks to plot: give at least one method's.")
    return in_order(ranks)


def color(method: str) -> tuple[float, float, float]:
    """Return the method's colour, the same in every figure."""
    palette = sns.color_palette("colorblind")
    known = list(METHOD_NAMES)
    return palette[known.index(method) if method in known else -1]


def _broken(method: str) -> str:
    return "\n".join(textwrap.wrap(display_name(method), 24))
