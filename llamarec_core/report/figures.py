"""The theme of every figure, how one is shown and saved, and the forest plots of the results.

Each function returns a matplotlib Figure whose axes carry their units. It is not registered with pyplot, so that a
notebook shows it once, as a cell's last value: as SVG in the page's own text colour, with its caption below it and,
where a mark has a tooltip, its numbers under the pointer.
"""

import hashlib
import html
import io
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, ScalarFormatter

from llamarec_core.data import Dataset
from llamarec_core.files import InputError, replacing
from llamarec_core.report.forms import QUOTED
from llamarec_core.report.methods import display_name, in_order
from llamarec_core.report.show import STYLE

INK = "#262627"
"""Colour of text and axes in files; a page shows it in the colour of its own text, light or dark."""
GREY = "#808080"
_COLOURS = {
    "llamarec": "#d55e00", "llamarec-with-retriever": "#a8326e", "lrurec": "#0072b2", "sasrec": "#009e73",
    "bert4rec": "#a6761d", "narm": "#7570b3", "title-overlap-with-retriever": "#4d8f8f",
}  # fmt: skip
"""Middle tones, which are seen on a light and on a dark page; the subjects are the strongest, floors are grey."""
PUBLISHED_MARK = {
    "marker": "D", "markersize": 6, "color": "white", "markeredgecolor": INK, "linestyle": "none", "zorder": 4,
}  # fmt: skip
"""How a published value looks in every figure."""
_WIDTH = 6.0
"""In inches, fits the book's text, and stays readable when a phone shrinks it."""
_LEAST = 0.02
"""An axis of a metric spans at least this much: less is no difference to look at."""


def set_theme() -> None:
    """Set the look of every figure: colour-blind palette, a font that ships with matplotlib, SVG in notebooks."""
    colours = dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK)
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=list(_COLOURS.values()),
        font="DejaVu Sans",
        rc={
            **colours,
            "axes.labelsize": 10,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 10.5,
            "font.size": 10,
            "grid.alpha": 0.3,
            "grid.color": GREY,
            "legend.fontsize": 9,
            "legend.frameon": False,
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
    """Return a figure as SVG with its caption, and its numbers for those who cannot see it."""
    svg = _svg(figure, transparent=True).replace(INK, "currentColor")
    svg = svg[svg.index("<svg") :]
    own = "f" + hashlib.sha256(svg.encode()).hexdigest()[:6] + "-"  # names must differ between the figures of a page
    svg = re.sub(r'((?<= id=")|(?<=href="#)|(?<=url\(#))', own, svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(figure.alt_text)}"', 1)
    caption = f"<figcaption>{html.escape(figure.caption)}</figcaption>"
    return f'{STYLE}<figure class="llamarec-figure">{svg}{caption}</figure>'


def save_figure(figure: Figure, path_without_suffix: Path) -> list[Path]:
    """Write a figure as PNG, PDF and SVG, each whole or not at all, with no date inside; return the files.

    Raises:
        InputError: the disk is full.
    """
    path = Path(path_without_suffix)
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "pdf", "svg")]
    for file in files:
        with replacing(file) as temporary:
            if file.suffix == ".svg":
                temporary.write_text(_svg(figure), encoding="utf-8")
            else:
                metadata = {"CreationDate": None} if file.suffix == ".pdf" else {}
                figure.savefig(temporary, format=file.suffix[1:], metadata=metadata)
    return files


def _svg(figure: Figure, **options: Any) -> str:
    """Draw a figure as SVG, with the tooltips of its marks."""
    with io.StringIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None}, **options)
        svg = file.getvalue()
    for artist in figure.findobj(lambda artist: hasattr(artist, "tooltip")):
        opening = f'<g id="{artist.get_gid()}">'
        svg = svg.replace(opening, f"{opening}<title>{html.escape(artist.tooltip)}</title>")
    return svg


def new_figure(*, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a new figure of the book's width, and its axes row by row."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def described(figure: Figure, caption: str, numbers: Iterable[str] = ()) -> Figure:
    """Keep in words what a figure shows: a caption that is seen, and its numbers for those who cannot see it."""
    figure.caption = caption
    figure.alt_text = " ".join([caption, "; ".join(numbers)]).strip()
    return figure


def tell(artist: Line2D, words: str) -> None:
    """Give a mark a tooltip."""
    artist.tooltip = words
    artist.set_gid("mark-" + hashlib.sha256(f"{words}{artist.get_marker()}".encode()).hexdigest()[:10])


def colour(method: str) -> str:
    """Return the method's colour, the same in every figure."""
    return _COLOURS.get(method, GREY)


def spread(axes: Iterable[Axes], *, along: str = "x") -> None:
    """Widen axes of a metric that span next to nothing, about their middle; to be called when all is drawn."""
    for axis in axes:
        low, high = getattr(axis, f"get_{along}lim")()
        if high - low < _LEAST:
            middle = (low + high) / 2
            getattr(axis, f"set_{along}lim")(middle - _LEAST / 2, middle + _LEAST / 2)


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """Put a figure's legend under it."""
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def interval(axis: Axes, place: float, row: Any, *, colour: str, name: str) -> str:
    """Draw one line of a forest plot: our value with its interval, the published one as a diamond; return it in words.

    Args:
        axis: where to draw.
        place: height of the line.
        row: ``measured``, ``ci_low``, ``ci_high`` and perhaps ``published``.
        colour: of our value.
        name: of the line, for its tooltip.
    """
    published, said = getattr(row, "published", np.nan), []
    if pd.notna(row.measured):
        said.append(f"ours {row.measured:.4f} [{row.ci_low:.4f}, {row.ci_high:.4f}]")
    if pd.notna(published):
        said.append(f"published {published:.4f}")
    words = f"{name}: {', '.join(said)}".replace("-0.", "−0.")
    for values, look in (
        ([row.ci_low, row.ci_high], {"linewidth": 3}),
        ([row.measured], {"marker": "o"}),
        ([published], PUBLISHED_MARK),
    ):
        tell(axis.plot(values, [place] * len(values), **{"color": colour} | look)[0], words)
    return words


def _lines(axis: Axes, names: Sequence[str]) -> None:
    """Name the lines of a forest plot, the first on top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.locator_params(axis="x", nbins=5)


_OURS = {"marker": "o", "color": GREY, "linewidth": 3, "label": "ours, 95 % interval over users"}


def gains_forest(gains: pd.DataFrame, *, metric: str = "NDCG@10") -> Figure:
    """Plot the ranker's gain over the retriever, the paper's beside ours, one line a data set.

    Args:
        gains: ``dataset``, ``published``, ``measured``, ``ci_low`` and ``ci_high``, one row a data set.
        metric: in which the gain is measured, for the axis.
    """
    figure, (axis,) = new_figure(height=0.45 * len(gains) + 1.1)
    rows = list(gains.itertuples())
    words = [interval(axis, place, row, colour=colour("llamarec"), name=row.dataset) for place, row in enumerate(rows)]
    _lines(axis, [row.dataset for row in rows])
    axis.axvline(0, color=INK, linewidth=1)
    axis.set_xlabel(f"gain in {metric} over LRURec, users whose target was retrieved")
    published = Line2D([], [], **PUBLISHED_MARK, label="the paper, Llama-2-7B")
    spread([axis])
    legend_below(figure, [Line2D([], [], **_OURS | {"color": colour("llamarec")}), published], 2)
    return described(figure, f"LlamaRec's gain in {metric} over LRURec's own order of the same candidates.", words)


def forest(table: pd.DataFrame, *, metrics: Sequence[str] = QUOTED, subset: str = "all") -> Figure:
    """Plot each method's metrics with their intervals beside the published values, one column a data set.

    Args:
        table: what :func:`llamarec_core.report.tables.results_table` returns.
        metrics: the metrics to show, one row each.
        subset: ``all`` or ``retrieved``.

    Raises:
        InputError: the table has no row of that subset and those metrics.
    """
    table = table[table["metric"].isin(metrics) & (table["subset"] == subset)]
    if table.empty:
        raise InputError(f"The results hold none of {', '.join(metrics)} for the subset {subset!r}: nothing to plot.")
    datasets, methods = list(table["dataset"].unique()), in_order(table["method"])[::-1]
    height = len(metrics) * (0.3 * len(methods) + 0.9) + 0.4
    figure, axes = new_figure(rows=len(metrics), columns=len(datasets), height=height, sharey=True)
    words = []
    for axis, (metric, dataset) in zip(axes, ((m, d) for m in metrics for d in datasets), strict=True):
        rows = table[(table["dataset"] == dataset) & (table["metric"] == metric)].set_index("method")
        for place, method in enumerate(methods):
            if method in rows.index:
                name = f"{dataset}, {display_name(method)}, {metric}"
                words.append(interval(axis, place, rows.loc[method], colour=colour(method), name=name))
        axis.set(title=dataset if metric == metrics[0] else None, xlabel=metric)
        _lines(axis, [display_name(method) for method in methods])
        axis.locator_params(axis="x", nbins=3)
    spread(axes)
    published = [Line2D([], [], **PUBLISHED_MARK, label="published")] if table["published"].notna().any() else []
    legend_below(figure, [Line2D([], [], **_OURS), *published], 2)
    over = "all users" if subset == "all" else "the users whose target was retrieved"
    return described(figure, f"{' and '.join(metrics)} over {over}.", words)


def ablation_forest(table: pd.DataFrame) -> Figure:
    """Plot each variant's NDCG@10 with its interval, one panel a group.

    Args:
        table: from :func:`~llamarec_core.report.ablation_table`, of one data set.
    """
    groups = dict(tuple(table.groupby("group", sort=False)))
    sizes = [len(rows) for rows in groups.values()]
    height = 0.3 * sum(sizes) + 0.55 * len(groups) + 0.6
    figure, axes = new_figure(rows=len(groups), height=height, sharex=True, height_ratios=sizes)
    names = ("the group's first", "no difference beyond chance", "better", "worse")
    kinds = dict(zip(names, (GREY, "#0072b2", "#009e73", "#d55e00"), strict=True))
    words = []
    for axis, (group, rows) in zip(axes, groups.items(), strict=True):
        for place, row in enumerate(rows.itertuples()):
            beyond = "better" if row.difference > 0 else "worse"
            kind = beyond if row.p_holm < 0.05 else names[min(place, 1)]
            words.append(interval(axis, place, row, colour=kinds[kind], name=f"{group}, {row.method}"))
        _lines(axis, list(rows["method"]))
        axis.axvline(rows["measured"].iloc[0], color=GREY, linestyle=":", linewidth=1)
        axis.set_title(group, fontsize=9.5, loc="left")
    spread(axes)
    axes[-1].set(xlabel="NDCG@10, users whose target was retrieved")
    legend_below(figure, [Line2D([], [], color=of, marker="o", label=kind) for kind, of in kinds.items()], 2)
    return described(figure, "Each variant with its 95 % interval; dotted: the first of its group.", words)


def sequence_lengths_and_popularity(dataset: Dataset) -> Figure:
    """Plot how long the users' histories are, and how often each item occurs, by its popularity rank."""
    lengths = np.diff(dataset.offsets)  # (users,)
    occurrences = np.bincount(dataset.items, minlength=dataset.n_items + 1)[1:]
    occurrences = np.sort(occurrences[occurrences > 0])[::-1]
    figure, (left, right) = new_figure(columns=2, height=2.9)
    if lengths.min() == lengths.max():
        left.hist(lengths)
    else:
        sns.histplot(x=lengths, log_scale=True, bins=30, ax=left, color=colour("lrurec"), edgecolor="none")
        left.xaxis.set_major_formatter(ScalarFormatter())
        left.xaxis.set_minor_formatter(NullFormatter())  # their labels would run into one another
    left.set(xlabel="interactions of a user (log)", ylabel="users", title="Sequence lengths")
    median = float(np.median(lengths))
    left.axvline(median, color=colour("llamarec"), linestyle="--", label=f"median {median:g}")
    left.legend()
    right.loglog(np.arange(1, len(occurrences) + 1), occurrences, linewidth=2, color=colour("lrurec"))
    right.set(xlabel="item's popularity rank (log)", ylabel="interactions (log)", title="Item popularity")
    numbers = [f"{len(lengths):,} users with {lengths.min():,} to {lengths.max():,} interactions, median {median:g}"]
    numbers.append(f"items with {occurrences[0]:,} down to {occurrences[-1]:,} interactions")
    caption = f"{dataset.name}: how many interactions each user has, and how often each item occurs."
    return described(figure, caption, numbers)
