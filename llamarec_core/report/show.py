"""The one display layer: pandas' Styler draws a table by its form, as HTML for the page and as LaTeX for an article.

A published table has a stable name on its page, and beside it the files to download.
"""

import hashlib
import html
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from llamarec_core.files import replacing, write_text
from llamarec_core.report.forms import FORMS, Form, plain, text
from llamarec_core.report.methods import display_name

if TYPE_CHECKING:
    from llamarec_core.study import Run

_FORMATS = {"csv": "CSV", "tex": "LaTeX"}
_NAMED = ("method", "reference", "strategy", "subset")
"""Columns whose values are shown by their names on the page."""
_PAGE = 45
"""Rows from which on a LaTeX table goes on over pages."""
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "−": "$-$", "±": r"$\pm$",
        "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "→": r"$\to$", "≈": r"$\approx$", "…": r"\dots{}",
        "\N{NO-BREAK SPACE}": "~",
    }
)  # fmt: skip
STYLE = """<style>
.llamarec-figure { margin: 0 !important; text-align: left !important; }
.llamarec-figure figcaption { color: inherit; font-weight: normal; text-align: left; margin-bottom: 0.6em; }
.llamarec-figure .scroll { overflow-x: auto; }
.llamarec-figure table.llamarec-table { font-size: 0.85em; margin: 0 0 0.6em; width: auto; }
.llamarec-figure .llamarec-table :is(td, th) { padding: 0.3em 0.6em; text-align: right; vertical-align: top; }
.llamarec-figure .llamarec-table td { white-space: normal; font-variant-numeric: tabular-nums; }
.llamarec-figure .llamarec-table :is(.row_heading, .row_name) { text-align: left; font-weight: normal; }
.llamarec-figure .llamarec-table .row_heading { min-width: 5.5em; }
@media (max-width: 700px) { .llamarec-figure .llamarec-table :is(td, th) { padding: 0.25em; } }
.llamarec-figure .llamarec-table thead th { vertical-align: bottom; font-weight: bold; }
.llamarec-figure svg { display: block; max-width: 100%; height: auto; }
.llamarec-figure .files { margin: 0.2em 0 0; font-size: 0.85em; }
html[data-theme="dark"] .bd-content div.cell_output .text_html:has(figure.llamarec-figure) {
  background: none; color: inherit; padding: 0; }
</style>"""
"""Stands in each output, so that a notebook looks the same in JupyterLab and in the book."""


class Bold(str):
    """The text of a cell that stands out."""


@dataclass(frozen=True)
class ShownTable:
    """A table that a notebook shows as HTML; what is too wide scrolls in its own box."""

    frame: pd.DataFrame
    form: Form
    caption: str = ""
    name: str = ""
    """Anchor on the page."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Name of a format → address of the file, as seen from the page."""

    def __repr__(self) -> str:
        return f"{self.caption}\n{laid_out(_first(self.frame, self.form), self.form).to_string()}".lstrip()

    def _repr_html_(self) -> str:
        first = _first(self.frame, self.form)
        label = html.escape(self.caption.partition(". ")[0] or "Table")
        body = _scrolled(first, self.form, label)
        if len(first) < len(self.frame):
            whole = _scrolled(self.frame, self.form, f"{label}, the whole table")
            body += f"<details><summary>The whole table</summary>{whole}</details>"
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        files = [f'<a href="{html.escape(link)}" download>{kind}</a>' for kind, link in self.links.items()]
        files += [f'<a href="#{self.name}">link to this table</a>'] if self.name else []
        below = f'<p class="files">{" · ".join(files)}</p>' if files else ""
        place = f' id="{self.name}"' if self.name else ""
        return f'{STYLE}<figure class="llamarec-figure"{place}>{caption}{body}{below}</figure>'


def show_table(frame: pd.DataFrame, form: str | None = None, *, caption: str = "", **options: Any) -> ShownTable:
    """Lay a table out for a notebook or the book.

    Args:
        frame: a tidy table of the study, or any other.
        form: a name in :data:`~llamarec_core.report.forms.FORMS`; without it the columns stand as they are.
        caption: plain text above the table; the form's note follows it.
        options: others of :class:`ShownTable`.
    """
    drawn = FORMS[form] if form else plain(frame)
    return ShownTable(drawn.prepare(frame), drawn, f"{caption} {drawn.note}".strip(), **options)


def write_table(
    frame: pd.DataFrame, path_without_suffix: Path, form: str | None = None, *, caption: str = ""
) -> list[Path]:
    """Write a table as tidy CSV and as wide LaTeX, each whole or not at all, and return the files.

    The CSV's numbers have six significant digits, so that the file is the same on every machine. The LaTeX names the
    packages that it needs in its first line; its label is ``tab:`` and the file's name.

    Raises:
        InputError: the disk is full.
    """
    path = Path(path_without_suffix)
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("csv", "tex")]
    with replacing(files[0]) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    write_text(files[1], to_latex(show_table(frame, form, caption=caption), label=f"tab:{path.name}"))
    return files


def publish_table(
    frame: pd.DataFrame, name: str, *, run: "Run", about: str, form: str | None = None, bench: bool = False
) -> ShownTable:
    """Write a table as CSV and LaTeX, note the files in the run's record, and lay it out for the page.

    Args:
        frame: a tidy table, e.g. of :mod:`llamarec_core.report.tables`.
        name: its file's name without suffix; the page's anchor follows from it (``table1`` stands at ``#table-1``).
        run: the notebook's run.
        about: the caption: what the table is, on what it was measured. The users of each data set follow.
        form: a name in :data:`~llamarec_core.report.forms.FORMS`; without it that of ``name``, if there is one.
        bench: of times, measured by this run on this machine: the files stand in ``results/bench``.

    Raises:
        InputError: the disk is full.
    """
    form = form or (name if name in FORMS else None)
    caption = " ".join(filter(None, [about, _users(frame)]))
    path = run.root / "results" / "bench" / name if bench else run.table(name)
    in_an_article = re.sub(r"^Table \d+: (.)", lambda found: found[1].upper(), caption)  # which numbers its own tables
    files = write_table(frame, path, form, caption=in_an_article)
    run.wrote(*files)
    page = run.executed_notebook.parent
    links = {_FORMATS[file.suffix[1:]]: Path(os.path.relpath(file, page)).as_posix() for file in files}
    return show_table(frame, form, caption=caption, name=anchor(name), links=links)


def anchor(name: str) -> str:
    """Return where a table stands on its page: ``table-1`` for ``table1``, ``table-claims`` for ``claims``."""
    return "table-" + re.sub(r"[^a-z0-9]+", "-", name.removeprefix("table").lower()).strip("-")


def laid_out(frame: pd.DataFrame, form: Form) -> pd.DataFrame:
    """Return the texts of the wide table.

    Raises:
        ValueError: two rows of the frame would share a cell.
    """
    bold = {heading: is_bold(frame).tolist() for heading, is_bold in form.bold.items()}
    named = {column: frame[column].map(display_name) for column in _NAMED if column in frame}
    lines: dict[Any, dict[str, str]] = {}
    keys, columns = [], {}
    for place, row in enumerate(frame.assign(**named).to_dict("records")):
        keys.append(tuple(text(cell, row) for cell in form.rows.values()))
        line = lines.setdefault(keys[-1] if form.across else place, {})
        head = text(form.across, row) if form.across else ""
        for heading, cell in form.cells.items():
            column = ", ".join(filter(None, (head, heading)))
            if column in line:
                raise ValueError(f"Two numbers would share the cell {keys[-1]}, {column!r}.")
            line[column] = (Bold if heading in bold and bold[heading][place] else str)(text(cell, row))
            columns[column] = None
    named_rows = list(zip(*(dict.fromkeys(keys) if form.across else keys), strict=True)) or [()] * len(form.rows)
    levels = dict(zip(form.rows, named_rows, strict=True))
    *leading, last = levels
    kept = [*(name for name in leading if len(set(levels[name])) > 1), last]
    index = pd.MultiIndex.from_arrays([levels[name] for name in kept], names=kept)
    cells = [[line.get(column, "") for column in columns] for line in lines.values()]
    texts = pd.DataFrame(cells, index, columns, dtype=object)
    return texts.loc[:, (texts != "").any()]


def to_latex(table: ShownTable, *, label: str) -> str:
    """Return a floating table with booktabs rules. TeX itself shrinks it to the page, or goes on over pages."""
    form = table.form
    texts = laid_out(table.frame if form.whole_in_latex else _first(table.frame, form), form)
    styler = texts.style.hide(axis="index", names=True)
    styler.format(lambda cell: _latex_cell(cell, stacked=form.across is not None))
    styler.format_index(lambda name: str(name).translate(_LATEX), axis="index")
    styler.format_index(_latex_heading, axis="columns")
    names = texts.index.names
    kinds = dict.fromkeys(names, "l") | {column: "l" if _is_words(texts[column]) else "r" for column in texts}
    kinds |= {heading: f"p{{{width}}}" for heading, width in form.prose.items() if heading in kinds}
    options = {"position": "htbp", "position_float": "centering"}
    options = {"environment": "longtable"} if len(texts) > _PAGE else options
    options |= {"caption": table.caption.translate(_LATEX) or None, "label": label}
    latex = styler.to_latex(hrules=True, multirow_align="naive", column_format="".join(kinds.values()), **options)
    blank, filled = (" & ".join([*cells, ""]) for cells in ([""] * len(names), (n.translate(_LATEX) for n in names)))
    latex = latex.replace(f"\\toprule\n{blank}", f"\\toprule\n{filled}")
    if "environment" not in options:
        fit = r"\begin{adjustbox}{max width=\linewidth, max totalheight=0.85\textheight}"
        latex = latex.replace(r"\begin{tabular}", f"{fit}\n\\begin{{tabular}}", 1)
        latex = latex.replace("\\bottomrule\n\\end{tabular}", "\\bottomrule\n\\end{tabular}\n\\end{adjustbox}")
    return f"% needs \\usepackage{{adjustbox,booktabs,longtable,makecell}}\n{latex}"


def _users(frame: pd.DataFrame) -> str:
    """Say over how many users each data set's rows are."""
    if not {"dataset", "users", "subset"} <= set(frame.columns):
        return ""
    counts = frame.dropna(subset="users").groupby(["dataset", "subset"], sort=False)["users"].max().astype(int)
    names = {"all": "users", "retrieved": "with their target retrieved"}
    of_datasets = [
        f"{dataset} {', '.join(f'{count:,} {names[subset]}' for (_, subset), count in rows.items())}"
        for dataset, rows in counts.groupby("dataset", sort=False)
    ]
    return f"{'; '.join(of_datasets)}."


def _first(frame: pd.DataFrame, form: Form) -> pd.DataFrame:
    return frame[form.first(frame)] if form.first else frame


def _is_words(column: pd.Series) -> bool:
    """Whether a column holds words, which stand left."""
    return not column.str.match(r"[−+<>\d\[.]|$").all()


def _scrolled(frame: pd.DataFrame, form: Form, label: str) -> str:
    """Return the table in a region that scrolls, which the keyboard reaches and a screen reader names."""
    texts = laid_out(frame, form)
    styler = texts.style.hide(axis="index", names=True).format(_html_cell)
    styler.format_index(escape="html", axis="index").format_index(escape="html", axis="columns")
    left = [f".col{place}" for place, column in enumerate(texts) if _is_words(texts[column])]
    styles = [{"selector": selector, "props": "text-align: left !important"} for selector in left]
    prose = [f".level{level}.row_heading" for level, heading in enumerate(texts.index.names) if heading in form.prose]
    prose += [f"td.col{place}" for place, heading in enumerate(texts) if heading in form.prose]
    styler.set_table_styles(styles + [{"selector": selector, "props": "min-width: 13em"} for selector in prose])
    styler.cell_ids = False
    name = hashlib.sha256(texts.to_csv().encode()).hexdigest()[:8]  # names of styles depend on the content alone
    # equal headings share a cell only where several name a row: a list can then be sorted
    options = {"table_attributes": 'class="dataframe llamarec-table"', "sparse_index": len(form.rows) > 1}
    table = styler.to_html(table_uuid=name, **options)
    for heading in texts.index.names:
        named = f'<th class="row_name" scope="col">{html.escape(heading)}</th>'
        table = re.sub(r'<th class="blank[^>]*>&nbsp;</th>', named, table, count=1)
    table = re.sub(r'<th (?=[^>]*class="(col|row)_heading)', r'<th scope="\1" ', table)
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">{table}</div>'


def _html_cell(cell: str) -> str:
    return f"<strong>{html.escape(cell)}</strong>" if isinstance(cell, Bold) else html.escape(cell)


def _latex_cell(cell: str, *, stacked: bool) -> str:
    value, gap, details = cell.partition(" [")
    lines = re.sub(r"\] ", "]\n", f"[{details}").translate(_LATEX).split("\n") if stacked and gap else []
    value = (value if lines else cell).translate(_LATEX)
    value = f"\\textbf{{{value}}}" if isinstance(cell, Bold) else value
    below = "".join(rf"\\{{\scriptsize {line}}}" for line in lines)
    return f"\\makecell[tr]{{{value}{below}}}" if lines else value


def _latex_heading(heading: str) -> str:
    lines = [part.translate(_LATEX) for part in str(heading).split(", ")]
    return lines[0] if len(lines) == 1 else r"\makecell[br]{" + r"\\".join(lines) + "}"
