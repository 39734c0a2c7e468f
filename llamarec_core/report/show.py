"""Draws each table by its form: as HTML for the page, and as LaTeX for an article. pandas' Styler does the drawing.

Here too: how the notebooks ran, and the data of the page *Ask it*.
"""

import hashlib
import html
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from llamarec_core.files import write_text
from llamarec_core.report.forms import FORMS, Form, display_name, plain, text

if TYPE_CHECKING:
    from llamarec_core.data import Dataset
    from llamarec_core.retrieval import Candidates
    from llamarec_core.study import Run

_NAMED = ("method", "reference", "strategy", "subset")  # columns whose values are shown by their names on pages
_PAGE = 45  # a LaTeX table of more rows than this goes on over pages
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "−": "$-$", "±": r"$\pm$",
        "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "→": r"$\to$", "≈": r"$\approx$", "…": r"\dots{}",
        "\N{NO-BREAK SPACE}": "~",
    }
)  # fmt: skip
STYLE = f"<style>\n{Path(__file__).with_name('style.css').read_text(encoding='utf-8')}</style>"
"""Part of every output, so that a notebook looks the same in JupyterLab and in the book."""


class Bold(str):
    """The text of a bold cell."""


@dataclass(frozen=True)
class ShownTable:
    """A table on a page. One that is too wide scrolls in its own box."""

    frame: pd.DataFrame
    form: Form
    caption: str = ""
    name: str = ""  # anchor on the page
    links: Mapping[str, str] = field(default_factory=dict)  # format → address of the file, as seen from the page

    @property
    def first(self) -> pd.DataFrame:
        """The rows before the fold."""
        return self.frame[self.frame["metric"].isin(self.form.first)] if self.form.first else self.frame

    def __repr__(self) -> str:
        return f"{self.caption}\n{laid_out(self.first, self.form).to_string()}".lstrip()

    def _repr_html_(self) -> str:
        label = html.escape(self.caption.partition(". ")[0] or "Table")
        body = _scrolled(self.first, self.form, label)
        if len(self.first) < len(self.frame):
            whole = _scrolled(self.frame, self.form, f"{label}, the whole table")
            body += f"<details><summary>The whole table</summary>{whole}</details>"
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        if not self.name:
            return f'{STYLE}<figure class="llamarec-figure">{caption}{body}</figure>'
        files = [f'<a href="{html.escape(link)}" download>{kind}</a>' for kind, link in self.links.items()]
        below = " · ".join([*files, f'<a href="#{self.name}">link to this table</a>'])
        return (
            f'{STYLE}<figure class="llamarec-figure" id="{self.name}">{caption}{body}'
            f'<p class="files">{below}</p></figure>'
        )


def show_table(frame: pd.DataFrame, form: str | None = None, *, caption: str = "", **options: Any) -> ShownTable:
    """Lay out any table by the form of that name, or with its columns as they are; the form's note ends the caption."""
    drawn = FORMS[form] if form else plain(frame)
    return ShownTable(drawn.prepare(frame), drawn, f"{caption} {drawn.note}".strip(), **options)


def write_table(frame: pd.DataFrame, path: Path, form: str | None = None, *, caption: str = "") -> list[Path]:
    """Write a table as tidy CSV and as LaTeX beside it. ``path`` has no suffix. Return both files.

    Numbers have six significant digits, so that the CSV is the same on every machine.
    """
    csv, tex = (path.with_name(f"{path.name}.{suffix}") for suffix in ("csv", "tex"))
    write_text(csv, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text(tex, to_latex(show_table(frame, form, caption=caption), label=f"tab:{path.name}"))
    return [csv, tex]


def publish_table(
    frame: pd.DataFrame, name: str, *, run: "Run", about: str, form: str | None = None, bench: bool = False
) -> ShownTable:
    """Write a tidy table to the results of a run, note its files in the run's record, and lay it out for the page.

    ``name`` is that of the files, and of the form unless ``form`` is given; ``table1`` stands at ``#table-1`` of the
    page. The caption is ``about`` and the number of users. A ``bench`` stands in ``results/bench``.
    """
    form = form or (name if name in FORMS else None)
    caption = f"{about} {_users(frame)}".strip()
    path = run.root / "results" / "bench" / name if bench else run.table(name)
    in_an_article = re.sub(r"^Table \d+: (.)", lambda found: found[1].upper(), caption)  # it numbers its own tables
    files = write_table(frame, path, form, caption=in_an_article)
    run.wrote(*files)
    addresses = [Path(os.path.relpath(file, run.executed_notebook.parent)).as_posix() for file in files]
    links = dict(zip(("CSV", "LaTeX"), addresses, strict=True))
    anchor = f"table-{name.removeprefix('table').removeprefix('_').replace('_', '-')}"
    return show_table(frame, form, caption=caption, name=anchor, links=links)


def laid_out(frame: pd.DataFrame, form: Form) -> pd.DataFrame:
    """Return the texts of a table as a page shows it; a :class:`ValueError` if two rows would share a cell."""
    named = {column: frame[column].map(display_name) for column in _NAMED if column in frame}
    bold = {heading: marks(frame).tolist() for heading, marks in form.bold.items()}
    columns: dict[str, None] = {}
    lines: dict[Any, dict[str, str]] = {}
    for place, row in enumerate(frame.assign(**named).to_dict("records")):
        names = tuple(text(cell, row) for cell in form.rows.values())
        line = lines.setdefault((names, None if form.across else place), {})
        head = text(form.across, row) if form.across else ""
        for heading, cell in form.cells.items():
            column = ", ".join(filter(None, (head, heading)))
            if column in line:
                raise ValueError(f"Two numbers would share the cell {names}, {column!r}.")
            line[column] = (Bold if heading in bold and bold[heading][place] else str)(text(cell, row))
            columns[column] = None
    index = pd.DataFrame([names for names, _ in lines], columns=list(form.rows), dtype=object)
    last = list(form.rows)[-1]
    index = index[[name for name in index if name == last or len(set(index[name])) > 1]]
    texts = pd.DataFrame(list(lines.values()), pd.MultiIndex.from_frame(index), list(columns), dtype=object).fillna("")
    return texts.loc[:, (texts != "").any()]


def to_latex(table: ShownTable, *, label: str) -> str:
    """Return a floating table with booktabs rules. TeX itself shrinks it to the page, or goes on over pages."""
    form = table.form
    texts = laid_out(table.frame if form.whole_in_latex else table.first, form)
    styler = texts.style.hide(axis="index", names=True)
    styler.format(lambda cell: _latex_cell(cell, stacked=form.across is not None))
    styler.format_index(lambda name: str(name).translate(_LATEX), axis="index")
    styler.format_index(_latex_heading, axis="columns")
    names = texts.index.names
    kinds = dict.fromkeys(names, "l") | {column: "l" if _is_words(texts[column]) else "r" for column in texts}
    kinds |= {heading: f"p{{{width}}}" for heading, width in form.prose.items() if heading in kinds}
    long = len(texts) > _PAGE
    options = {"environment": "longtable"} if long else {"position": "htbp", "position_float": "centering"}
    options |= {"caption": table.caption.translate(_LATEX) or None, "label": label}
    latex = styler.to_latex(hrules=True, multirow_align="naive", column_format="".join(kinds.values()), **options)
    filled = "".join(f"{name.translate(_LATEX)} & " for name in names)
    latex = latex.replace("\\toprule\n" + " & " * len(names), f"\\toprule\n{filled}")
    if not long:
        fit = r"\begin{adjustbox}{max width=\linewidth, max totalheight=0.85\textheight}"
        latex = latex.replace(r"\begin{tabular}", f"{fit}\n\\begin{{tabular}}", 1)
        latex = latex.replace("\\bottomrule\n\\end{tabular}", "\\bottomrule\n\\end{tabular}\n\\end{adjustbox}")
    return f"% needs \\usepackage{{adjustbox,booktabs,longtable,makecell}}\n{latex}"


def show_record(record: Mapping[str, Any]) -> ShownTable:
    """Show how one notebook ran, from its provenance record."""
    hashes = ", ".join(f"{name}: {value[:12]}" for name, value in record["data_sha256"].items())
    facts = {"command": record["command"], "data": hashes or "no data set was read"} | _circumstances(record)
    return show_table(pd.DataFrame({"record": facts.keys(), "of this run": facts.values()}))


def show_runs(records: Mapping[str, Mapping[str, Any]]) -> ShownTable:
    """Show how every notebook ran."""
    rows = []
    for record in records.values():
        notebook = Path(record["command"].split()[1]).stem
        row = {"notebook": notebook, "data set": record["parameters"].get("dataset", "all")}
        rows.append(row | _circumstances(record))
    return show_table(pd.DataFrame(rows))


def show_versions(records: Mapping[str, Mapping[str, Any]]) -> ShownTable:
    """Show every version of Python and of the packages that the notebooks ran with."""
    runs = [{"system": record["hardware"]["system"], **record["packages"]} for record in records.values()]
    versions = {name: ", ".join(of.dropna().unique()) for name, of in pd.DataFrame(runs).items()}
    return show_table(pd.DataFrame({"what": versions.keys(), "versions": versions.values()}))


def _circumstances(record: Mapping[str, Any]) -> dict[str, str]:
    hardware, commit = record["hardware"], (record["git_commit"] or "outside git")[:12]
    accelerators = ", ".join(hardware["accelerators"]) or "no GPU"
    return {
        "minutes": f"{record['wall_seconds'] / 60:.1f}",
        "peak GiB": f"{record['peak_memory_mib'] / 1024:.1f}",
        "commit": f"{commit} with uncommitted changes" if record["git_dirty"] else commit,
        "machine": f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, {accelerators}",
    }


def write_users(
    path: Path,
    dataset: "Dataset",
    candidates: "Candidates",
    probabilities: Mapping[str, np.ndarray],
    *,
    shown: np.ndarray,
    shuffled: Mapping[str, np.ndarray],
    history_length: int,
) -> None:
    """Write the data of the page *Ask it*: test users with their histories, candidates and P(candidate).

    All arrays are ``(users, candidates)``. ``shuffled`` holds P(candidate) of the orders that read labels, when
    candidate ``shown`` stands under each label.
    """

    def rounded(orders: Mapping[str, np.ndarray], row: int) -> dict[str, list[float]]:
        return {name: [round(float(value), 4) for value in values[row]] for name, values in orders.items()}

    users = [
        {
            "history": [dataset.titles[item] for item in dataset.history(int(user), "test")[-history_length:]],
            "candidates": [dataset.titles[item] for item in candidates.items[row]],
            "target": candidates.items[row].tolist().index(candidates.targets[row]),
            "orders": rounded(probabilities, row),
            "shown": shown[row].tolist(),
            "shuffled": rounded(shuffled, row),
        }
        for row, user in enumerate(candidates.users)
    ]
    told = json.dumps({"dataset": dataset.name, "users": users}, ensure_ascii=False, separators=(",", ":"))
    write_text(path, told.replace("<", "\\u003c"))  # no title can end the page's script element


def _users(frame: pd.DataFrame) -> str:
    """Say how many users each data set's rows are about."""
    if not {"dataset", "users", "subset"} <= set(frame.columns):
        return ""
    words = {"all": "{:,.0f} users", "retrieved": "{:,.0f} with their target retrieved"}
    counts = frame.dropna(subset="users").groupby(["dataset", "subset"], sort=False)["users"].max()
    said = pd.Series({(dataset, subset): words[subset].format(count) for (dataset, subset), count in counts.items()})
    return "; ".join(f"{dataset} {', '.join(of)}" for dataset, of in said.groupby(level=0, sort=False)) + "."


def _is_words(column: pd.Series) -> bool:
    """Whether a column holds words, which stand left."""
    return not column.str.match(r"[−+<>\d\[.]|$").all()


def _scrolled(frame: pd.DataFrame, form: Form, label: str) -> str:
    """Return the table in a region that scrolls. The keyboard reaches it and a screen reader names it."""
    texts = laid_out(frame, form)
    styler = texts.style.hide(axis="index", names=True).format(_html_cell)
    styler.format_index(escape="html", axis="index").format_index(escape="html", axis="columns")
    left = [f".col{place}" for place, column in enumerate(texts) if _is_words(texts[column])]
    wide = [f".level{level}.row_heading" for level, heading in enumerate(texts.index.names) if heading in form.prose]
    wide += [f"td.col{place}" for place, heading in enumerate(texts) if heading in form.prose]
    styles = dict.fromkeys(left, "text-align: left !important") | dict.fromkeys(wide, "min-width: 13em")
    styler.set_table_styles([{"selector": selector, "props": props} for selector, props in styles.items()])
    styler.cell_ids = False
    table = styler.to_html(
        table_uuid=hashlib.sha256(texts.to_csv().encode()).hexdigest()[:8],  # the same whenever it is drawn
        table_attributes='class="dataframe llamarec-table"',
        sparse_index=len(form.rows) > 1,  # a plain list can then be sorted
    )
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
