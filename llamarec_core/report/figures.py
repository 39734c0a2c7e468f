"""The figures' theme, how one is shown and saved, and the forest plots. ``curves`` holds all other figures.

A page shows a figure as SVG in the colour of the page's text, with its caption below. An artist's ``tooltip`` stands
under the pointer; all of them together are read to those who cannot see the figure.
"""

import hashlib
import html
import io
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llamarec_core.files import InputError, replacing, write_text
from llamarec_core.report.forms import QUOTED, display_name, in_order, text
from llamarec_core.report.show import STYLE

INK = "#262627"
"""Colour of text and axes in files. A page shows it in the colour of its own text, light or dark."""
GREY = "#808080"
_COLOURS = {
    "llamarec": "#d55e00", "llamarec-with-retriever": "#a8326e", "lrurec": "#0072b2", "sasrec": "#009e73",
    "bert4rec": "#a6761d", "narm": "#7570b3", "title-overlap-with-retriever": "#4d8f8f",
}  # fmt: skip
"""Middle tones, which are seen on a light and on a dark page. Methods that are not listed are grey."""
_KINDS = {"the group's first": GREY, "no difference beyond chance": "#0072b2", "better": "#009e73", "worse": "#d55e00"}
_OURS = "ours, 95 % interval over users"
_PUBLISHED = {"marker": "D", "markersize": 6, "color": "white", "markeredgecolor": INK, "linestyle": "", "zorder": 4}


def set_theme() -> None:
    """Set the look of every figure, and show each as SVG in notebooks."""
    ink = dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK)
    lines = {"axes.spines.right": False, "axes.spines.top": False, "grid.alpha": 0.3, "grid.color": GREY}
    files = {"savefig.dpi": 200, "svg.hashsalt": "llamarec"}  # names inside an SVG depend on its content alone
    rc = ink | lines | files | {"legend.frameon": False}
    sns.set_theme("paper", "whitegrid", [*_COLOURS.values()], "DejaVu Sans", font_scale=1.04, rc=rc)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats()  # none of its own: they have no place for the words
        shell.display_formatter.formatters["text/html"].for_type(Figure, as_html)


def colour(method: str) -> str:
    """Return the method's colour, the same in every figure."""
    return _COLOURS.get(method, GREY)


def new_figure(
    caption: str, titles: Collection[str], labels: tuple[str, str], *, height: float, columns: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure as wide as the book's text, and the axes of its panels, row by row, with these x and y labels."""
    figure = Figure(figsize=(6.0, height), layout="constrained")
    figure.caption = caption
    axes = list(figure.subplots(-(-len(titles) // columns), columns, squeeze=False, **options).flat)
    for axis in axes[len(titles) :]:
        axis.remove()
    for place, (axis, title) in enumerate(zip(axes, titles, strict=False)):
        below = place >= len(titles) - columns or not options.get("sharex")  # or above an empty place in the last row
        axis.tick_params(labelbottom=below)
        axis.set(title=title, xlabel=labels[0] if below else "", ylabel="" if place % columns else labels[1])
    return figure, axes[: len(titles)]


def spread(figure: Figure, *, along: str = "x") -> None:
    """Widen axes of a metric that span less than 0.02, which is no difference to look at."""
    for axis in figure.axes:
        low, high = getattr(axis, f"get_{along}lim")()
        if high - low < 0.02:
            axis.set(**{f"{along}lim": ((low + high - 0.02) / 2, (low + high + 0.02) / 2)})


def legend_below(figure: Figure, looks: Mapping[str, Mapping[str, Any]]) -> None:
    """Name marks and lines under a figure, in as many columns as fit."""
    columns = min(4, 80 // (max(map(len, looks), default=0) + 5)) or 1
    handles = [Line2D([], [], label=name, **{"linestyle": "", **look}) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def alt_text(figure: Figure) -> str:
    """Return what a figure shows in words: its caption and all tooltips."""
    return " ".join([figure.caption, "; ".join(dict.fromkeys(artist.tooltip for artist in _told(figure)))]).strip()


def as_html(figure: Figure) -> str:
    """Return a figure as SVG with its caption, for a page."""
    svg = _svg(figure, transparent=True).replace(INK, "currentColor")
    svg = svg[svg.index("<svg") :]
    own = "f" + hashlib.sha256(svg.encode()).hexdigest()[:6] + "-"  # names must differ between the figures of a page
    svg = re.sub(r'((?<= id=")|(?<=href="#)|(?<=url\(#))', own, svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt_text(figure))}"', 1)
    caption = f"<figcaption>{html.escape(figure.caption)}</figcaption>"
    return f'{STYLE}<figure class="llamarec-figure">{svg}{caption}</figure>'


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG, PDF and SVG. ``path`` has no suffix. Return the files."""
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "pdf", "svg")]
    for file, metadata in zip(files, ({}, {"CreationDate": None}), strict=False):
        with replacing(file) as temporary:
            figure.savefig(temporary, format=file.suffix[1:], metadata=metadata)
    write_text(files[2], _svg(figure))
    return files


def from_the_top(axis: Axes, rows: int) -> None:
    """Put the first of the rows on top."""
    axis.set_ylim(rows - 0.4, -0.6)
    axis.grid(visible=False, axis="y")


def forest(table: pd.DataFrame, *, metrics: Sequence[str] = QUOTED, subset: str = "all") -> Figure:
    """Plot each method's metrics in a table of results, one column a data set."""
    table = table[table["metric"].isin(metrics) & (table["subset"] == subset)]
    if table.empty:
        raise InputError(f"The results hold none of {', '.join(metrics)} for the subset {subset!r}: nothing to plot.")
    methods, datasets = in_order(table["method"])[::-1], table["dataset"].unique()
    parts = dict(tuple(table.assign(colour=table["method"].map(colour)).groupby(["dataset", "metric"])))
    panels = {
        f"{dataset}\n{metric}": parts[dataset, metric].set_index("method").reindex(methods).rename(display_name)
        for metric, dataset in product(metrics, datasets)
    }
    over = "all users" if subset == "all" else "users whose target was retrieved"
    legend = {_OURS: GREY} | ({"published": "white"} if table["published"].notna().any() else {})
    caption = f"{' and '.join(metrics)} over {over}."
    return _forests(panels, caption, "mean over users", legend, columns=len(datasets), sharey=True)


def gains_forest(gains: pd.DataFrame) -> Figure:
    """Plot the ranker's gain over the retriever: ``published``, ``measured`` and its interval, a row a ``dataset``."""
    orange, label = colour("llamarec"), f"gain in {QUOTED[0]} over LRURec"
    caption = f"LlamaRec's {label}'s order of the same candidates, for users whose target was retrieved."
    panels = {"": gains.set_index(gains["dataset"].map(display_name)).assign(colour=orange)}
    figure = _forests(panels, caption, label, {_OURS: orange, "the paper, Llama-2-7B": "white"})
    figure.axes[0].axvline(0, color=INK, linewidth=1)
    return figure


def ablation_forest(table: pd.DataFrame) -> Figure:
    """Plot the NDCG@10 of each variant of a ranker on one data set, one panel a group."""
    first, alike, better, worse = _KINDS.values()
    beyond = np.where(table["difference"] > 0, better, worse)
    colours = np.where(table["difference"].isna(), first, np.where(table["p_holm"] < 0.05, beyond, alike))
    groups = table.assign(colour=colours).set_index("method").groupby("group", sort=False)
    panels, ratios = dict(tuple(groups)), groups.size()
    caption = "Each variant with its 95 % interval, on users whose target was retrieved. Dotted: its group's first."
    figure = _forests(panels, caption, QUOTED[0], _KINDS, sharex=True, height_ratios=ratios)
    for axis, rows in zip(figure.axes, panels.values(), strict=True):
        axis.axvline(rows["measured"].iloc[0], color=GREY, linestyle=":", linewidth=1)
    return figure


def _forests(
    panels: Mapping[str, pd.DataFrame], caption: str, label: str, legend: Mapping[str, str], **options: Any
) -> Figure:
    """Draw a forest plot by title: its rows from the top, named by the index, each in its ``colour``."""
    columns = options.get("columns", 1)
    height = (0.3 * sum(map(len, panels.values())) + 0.6 * len(panels)) / columns + 0.7
    figure, axes = new_figure(caption, panels, (label, ""), height=height, **options)
    for axis, (title, rows) in zip(axes, panels.items(), strict=True):
        for place, (name, row) in enumerate(rows.to_dict("index").items()):
            ours = text("ours {measured:.4f} [{ci_low:.4f}, {ci_high:.4f}]", row)
            said = ", ".join(filter(None, [ours, text("published {published:.4f}", row)]))
            if said:
                values = [row["ci_low"], row["measured"], row["ci_high"]]
                (mark,) = axis.plot(values, [place] * 3, "o-", markevery=[1], linewidth=3, color=row["colour"])
                (diamond,) = axis.plot(row.get("published", np.nan), place, **_PUBLISHED)
                mark.tooltip = diamond.tooltip = f"{title or label}, {name}: {said}".replace("\n", ", ")
        axis.set_yticks(range(len(rows)), rows.index)
        from_the_top(axis, len(rows))
        axis.locator_params(axis="x", nbins=6 - columns)
    spread(figure)
    ours = {"marker": "o", "linestyle": "-", "linewidth": 3}
    marks = {name: _PUBLISHED if of == "white" else ours | {"color": of} for name, of in legend.items()}
    legend_below(figure, marks)
    return figure


def _told(figure: Figure) -> list[Artist]:
    return figure.findobj(lambda artist: hasattr(artist, "tooltip"))


def _svg(figure: Figure, **options: Any) -> str:
    told, file = _told(figure), io.StringIO()
    for number, artist in enumerate(told):
        artist.set_gid(f"mark-{number}")
    figure.savefig(file, format="svg", metadata={"Date": None}, **options)
    titles = {f'<g id="mark-{number}">': html.escape(artist.tooltip) for number, artist in enumerate(told)}
    return re.sub(r'<g id="mark-\d+">', lambda found: f"{found[0]}<title>{titles[found[0]]}</title>", file.getvalue())
