"""A table as it is published: on the page under a stable name, beside it the files to download."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import yaml

from llamarec_core.report.forms import FORMS
from llamarec_core.report.show import ShownTable, show_table, write_table

if TYPE_CHECKING:
    from llamarec_core.study import Run

_FORMATS = {"csv": "CSV", "tex": "LaTeX"}


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


def study_citation(root: Path, *, key: str, note: str) -> str:
    """Return a BibTeX entry of this study; its facts are those of ``CITATION.cff``.

    Args:
        root: the study's folder.
        key: of the entry.
        note: what exactly is cited, in LaTeX.
    """
    facts = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    fields = {
        "title": f"{{{facts['title']}}}",
        "author": " and ".join(_author(author) for author in facts["authors"]),
        "year": str(facts["date-released"])[:4],
        "version": facts["version"],
        "url": facts["repository-code"],
        "note": note,
    }
    lines = [f"  {field:7} = {{{value}}}," for field, value in fields.items()]
    return "\n".join([f"@software{{{key},", *lines, "}"])


def _author(author: dict[str, str]) -> str:
    if "name" in author:
        return f"{{{author['name']}}}"
    return f"{author['family-names']}, {author['given-names']}"


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
