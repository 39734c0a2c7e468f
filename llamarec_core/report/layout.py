"""Tables as a person reads them: the wide form, on the page (HTML) and in an article (LaTeX, booktabs).

A tidy table of :mod:`llamarec_core.report.tables` becomes one row a metric and one column a method. Each of our
numbers stands above its 95 % interval and its difference to the published one; the best of a row is bold and the second
best underlined, as in the paper. What a reader cites is the tidy CSV and the ``.tex`` that :func:`write_table` writes
side by side.
"""

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from llamarec_core.files import replacing, write_text
from llamarec_core.report.ablations import ablation_display, training_display
from llamarec_core.report.claims import claims_display
from llamarec_core.report.latex import to_latex
from llamarec_core.report.methods import METHOD_NAMES, STRATEGY_NAMES, display_name, in_order
from llamarec_core.report.pairs import strategy_pairs_display
from llamarec_core.report.strategies import differences_display, strategies_display

_LONG = 30
"""Characters from which on a cell's text is broken into lines."""
_STYLE = """<style>
.llamarec-figure { margin: 0 !important; text-align: left !important; }
.llamarec-figure figcaption { color: inherit; font-weight: normal; text-align: left; margin-bottom: 0.6em; }
.llamarec-figure > div { overflow-x: auto; }
.llamarec-figure table.llamarec-table { font-size: 0.8em; margin: 0; width: auto; }
.llamarec-figure table.llamarec-table :is(td, th) {
  padding: 0.3em 0.22em; text-align: right; vertical-align: top; font-variant-numeric: tabular-nums; }
.llamarec-figure table.llamarec-table.plain :is(td, th) { text-align: left; padding: 0.3em 0.8em 0.3em 0; }
.llamarec-figure table.llamarec-table.plain td { white-space: nowrap; }
.llamarec-figure table.llamarec-table .text { display: inline-block; min-width: 9em; white-space: normal; }
@media (max-width: 700px) { .llamarec-figure table.llamarec-table .text { min-width: 15em; } }
.llamarec-figure table.llamarec-table th[colspan] { text-align: center; }
.llamarec-figure table.llamarec-table tbody th { text-align: left; white-space: nowrap; }
.llamarec-figure table.llamarec-table tbody th:last-of-type {
  position: sticky; left: 0; background: var(--pst-color-background, var(--jp-layout-color0, Canvas)); }
.llamarec-figure table.llamarec-table small { display: block; white-space: nowrap; font-size: 0.85em; opacity: 0.85; }
.llamarec-figure .second-best { text-decoration: underline; }
.llamarec-figure .files { margin: 0.4em 0 0; font-size: 0.85em; }
</style>"""
"""Stands in each table's output, so that a notebook looks the same in JupyterLab and in the book."""


def write_table(frame: pd.DataFrame, path_without_suffix: Path, *, caption: str | None = None) -> list[Path]:
    """Write a table as tidy CSV and as wide LaTeX, each whole or not at all.

    The CSV's numbers have six significant digits, so that the file is the same on every machine. The LaTeX
    names the packages that it needs in its first line; its label is ``tab:`` and the file's name.

    Args:
        frame: a table of :mod:`llamarec_core.report.tables`, or any other.
        path_without_suffix: e.g. ``results/quick/tables/results``.
        caption: plain text; special characters are escaped.

    Returns:
        The files written.

    Raises:
        InputError: the disk is full.
    """
    path = Path(path_without_suffix)
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("csv", "tex")]
    with replacing(files[0]) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    write_text(files[1], to_latex(_wide(frame), caption=caption, label=f"tab:{path.name}"))
    return files


def show_table(frame: pd.DataFrame, *, caption: str | None = None) -> "ShownTable":
    """Lay a table out for a notebook or the book.

    Args:
        frame: a table of :mod:`llamarec_core.report.tables`, or any other.
        caption: plain text above the table.
    """
    return ShownTable(frame, caption)


@dataclass(frozen=True)
class ShownTable:
    """A table that a notebook shows as HTML; on a narrow screen it scrolls sideways instead of being cut."""

    frame: pd.DataFrame
    caption: str | None = None
    name: str | None = None
    """Anchor on the page."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Name of a format → address of the file, as seen from the page."""

    def __repr__(self) -> str:
        text = _wide(self.frame).map(lambda cell: " ".join([cell.value, *cell.details])).to_string()
        return f"{self.caption}\n{text}" if self.caption else text

    def _repr_html_(self) -> str:
        wide = _wide(self.frame).map(_html_cell).rename(index=_escape_html, columns=_escape_html)
        numbers = _fitting(_LAYOUTS, self.frame) and not _fitting(_DISPLAYS, self.frame)
        kind = "llamarec-table" if numbers else "llamarec-table plain"
        table = wide.to_html(escape=False, border=0, classes=kind)
        caption = html.escape(self.caption or "")
        heading = f"<figcaption>{caption}</figcaption>" if caption else ""
        # a region that scrolls must be reachable by keyboard, and named for those who cannot see it
        label = caption.partition(". ")[0] or "Table"
        region = f'<div role="region" tabindex="0" aria-label="{label}">{table}</div>'
        place = f' id="{self.name}"' if self.name else ""
        files = [f'<a href="{html.escape(link)}" download>{kind}</a>' for kind, link in self.links.items()]
        if self.name:
            files.append(f'<a href="#{self.name}">link to this table</a>')
        below = f'<p class="files">{" · ".join(files)}</p>' if files else ""
        return f'{_STYLE}<figure class="llamarec-figure"{place}>{heading}{region}{below}</figure>'


class _Cell(NamedTuple):
    """One cell of a wide table."""

    value: str
    details: tuple[str, ...] = ()
    """Smaller lines below the value."""
    emphasis: str = ""
    """``best`` (bold), ``second`` (underlined) or nothing."""


def _wide(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the wide form of a table as a frame of cells, with text as index and columns."""
    display = _fitting(_DISPLAYS, frame)
    layout = None if display else _fitting(_LAYOUTS, frame)
    if layout:
        return layout(frame)
    frame = display(frame) if display else frame
    plain = frame.set_index(frame.columns[0]).map(_plain_cell).rename(columns=_words)
    return plain.rename_axis(index=None, columns=_words(frame.columns[0]))


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _fitting(forms: Mapping[frozenset[str], Callable], frame: pd.DataFrame) -> Callable | None:
    return next((form for columns, form in forms.items() if columns <= set(frame.columns)), None)


def _plain_cell(value: object) -> _Cell:
    if pd.isna(value):
        return _Cell("")
    if isinstance(value, bool):
        return _Cell("yes" if value else "no")
    if not isinstance(value, float):
        return _Cell(str(value))
    return _Cell(_number(value))


def _number(value: float) -> str:
    """Write a number of a table without an exponent."""
    if abs(value) < 1e-9:
        return "0"
    if abs(value) < 1e-4:
        return np.format_float_positional(value, precision=2, unique=False, fractional=False, trim="-")
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _wide_metrics(frame: pd.DataFrame) -> pd.DataFrame:
    """Lay out results or comparisons: a row for each data set, subset and metric, a column for each method."""
    measured = "measured" in frame.columns
    frame, cells = (frame, _result_cells) if measured else (_by_pair(frame), _comparison_cells)
    keys = [key for key in ("dataset", "subset") if len(frame[key].unique()) > 1] + ["metric"]
    of_row = ["dataset", "subset", "metric"]
    if frame.duplicated([*of_row, "method"]).any():
        raise ValueError("Two numbers of one data set, subset, metric and method would share a cell.")
    groups = [group for _, group in frame.groupby(of_row, sort=False)]
    wide = pd.DataFrame(
        [cells(group.set_index("method")) for group in groups],
        columns=pd.MultiIndex.from_product([_columns(frame), ["paper", "ours"]]),
        index=pd.MultiIndex.from_frame(pd.concat([group[keys].head(1) for group in groups])),
    )
    wide = wide.dropna(axis="columns", how="all")
    wide = wide.map(_or_empty).rename(columns=METHOD_NAMES | STRATEGY_NAMES)
    wide = wide.rename_axis(index=[None] * wide.index.nlevels)
    # where the paper prints nothing at all, the header needs no second line
    return wide if "paper" in wide.columns.get_level_values(1) else wide.droplevel(1, axis="columns")


def _by_pair(frame: pd.DataFrame) -> pd.DataFrame:
    """Name comparisons by their pairs, but for those of several methods with one reference, which the caption names."""
    if frame["reference"].nunique() == 1 < frame["method"].nunique():
        return frame
    return frame.assign(method=frame["method"].map(display_name) + " − " + frame["reference"].map(display_name))


def _columns(frame: pd.DataFrame) -> list[str]:
    """Return the methods, those that the paper measures too before the others: they are seen without scrolling."""
    printed = set(frame.loc[frame["published"].notna(), "method"]) if "published" in frame else set()
    return sorted(in_order(frame["method"]), key=lambda method: method not in printed)


def _result_cells(group: pd.DataFrame) -> dict[tuple[str, str], _Cell]:
    """Return the cells of one metric; ``group`` has one row a method."""
    cells = {}
    for kind, column in (("paper", "published"), ("ours", "measured")):
        values = group[column].dropna()
        ranking = sorted(values.unique(), reverse=True)
        for method, value in values.items():
            place = ranking.index(value) if len(ranking) > 1 else len(ranking)
            details = _beside_the_paper(group.loc[method]) if kind == "ours" else ()
            cells[method, kind] = _Cell(f"{value:.4f}", details, {0: "best", 1: "second"}.get(place, ""))
    return cells


def _beside_the_paper(row: pd.Series) -> tuple[str, ...]:
    """Return our interval and, where the paper prints a value, the difference to it with its mark."""
    low, high, printed = row["ci_low"], row["ci_high"], row["published"]
    interval = f"[{low:.3f}, {high:.3f}]".replace("0.", ".")  # a column each: they fit the page without the zeros
    if pd.isna(printed):
        return (interval,)
    mark = "≈" if low <= printed <= high else "↑" if low > printed else "↓"
    return interval, f"{_signed(row['measured'] - printed)} {mark}"


def _comparison_cells(group: pd.DataFrame) -> dict[tuple[str, str], _Cell]:
    """Return the differences of one metric, bold where they are beyond chance after Holm's correction."""
    return {
        (method, "ours"): _Cell(
            _signed(row["difference"]),
            (
                f"[{_signed(row['ci_low'])}, {_signed(row['ci_high'])}]",
                "p < 0.001" if row["p_holm"] < 0.001 else f"p = {row['p_holm']:.3f}",
            ),
            "best" if row["p_holm"] < 0.05 else "",
        )
        for method, row in group.iterrows()
    }


def _wide_statistics(frame: pd.DataFrame) -> pd.DataFrame:
    """Lay out Table 2: a row for each data set, the printed figure below ours."""
    columns = {
        _words(quantity).capitalize(): rows.set_index("dataset").apply(_statistics_cell, axis="columns")
        for quantity, rows in frame.groupby("quantity", sort=False)
    }
    return pd.DataFrame(columns).loc[frame["dataset"].unique()].map(_or_empty).rename_axis(index=None)


def _statistics_cell(row: pd.Series) -> _Cell:
    whole = row["measured"] == round(row["measured"])
    printed = () if pd.isna(row["published"]) else (f"paper: {row['published']}",)
    return _Cell(f"{row['measured']:,.0f}" if whole else f"{row['measured']:.4g}", printed)


def _or_empty(cell: object) -> _Cell:
    return cell if isinstance(cell, _Cell) else _Cell("")


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _escape_html(text: str) -> str:
    return html.escape(str(text))


def _html_cell(cell: _Cell) -> str:
    value = html.escape(cell.value)
    if len(cell.value) > _LONG:
        value = f'<span class="text">{value}</span>'
    if cell.emphasis == "best":
        value = f"<strong>{value}</strong>"
    elif cell.emphasis == "second":
        value = f'<span class="second-best">{value}</span>'
    details = "".join(f"<small>{html.escape(line)}</small>" for line in cell.details)
    return value + details


_DISPLAYS = {
    frozenset({"statement", "verdict"}): claims_display,
    frozenset({"group", "first_label"}): ablation_display,
    frozenset({"tuning", "reached_with_retriever"}): training_display,
    frozenset({"ranked", "formula"}): strategies_display,
    frozenset({"state", "reference"}): strategy_pairs_display,
    frozenset({"strategy", "two_stage"}): differences_display,
}
"""Columns that tell a table → what is shown of it, a line a row, as it is."""

_LAYOUTS = {frozenset({"method", "subset", "ci_low"}): _wide_metrics, frozenset({"quantity"}): _wide_statistics}
"""Columns that tell a table → its wide layout; other tables are shown as they are."""
