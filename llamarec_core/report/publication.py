"""A table as it is published: on the page under a stable name, as files to download, with what lies behind it.

:func:`publish_table` does all of it for every table of the book; what the caption says of the measurement follows from
the table and from the provenance records beside the ranks (``llamarec_core.study``), and is never typed in.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from llamarec_core.files import write_text
from llamarec_core.provenance import record_of
from llamarec_core.ranking import kept_row
from llamarec_core.report.layout import ShownTable, write_table
from llamarec_core.report.status import machine

if TYPE_CHECKING:
    from llamarec_core.study import Run

_FORMATS = {"csv": "CSV", "tex": "LaTeX", "bib": "BibTeX"}


def publish_table(
    frame: pd.DataFrame,
    name: str,
    *,
    run: "Run",
    about: str,
    measured_in: Sequence[Path] = (),
    shown: pd.DataFrame | None = None,
    bench: bool = False,
) -> ShownTable:
    """Write a table as CSV, LaTeX and BibTeX, note the files in the run's record, and lay it out for the page.

    Args:
        frame: a tidy table, e.g. of :mod:`llamarec_core.report.tables`.
        name: its file's name without suffix; the page's anchor follows from it (``table1`` stands at ``#table-1``).
        run: the notebook's run.
        about: what the table is, in a sentence, before what it was measured with.
        measured_in: folders from which the table follows, which hold a folder for each data set, themselves or under
            ``ranks``: e.g. ``results/small``.
        shown: what the page shows instead of ``frame``; the files hold ``frame``.
        bench: of times, measured by this run on this machine: the files stand in ``results/bench``.

    Returns:
        The table, with its caption, its anchor, and links to the files.

    Raises:
        InputError: ranks have no record beside them, or the disk is full.
    """
    here = [f"Measured on {machine(run.hardware)}."] if bench else []
    caption = " ".join([about, *circumstances(frame, measured_in), *here])
    numbered = re.match(r"Table \d+: ", about)  # an article numbers its tables by itself
    alone = caption[numbered.end()].upper() + caption[numbered.end() + 1 :] if numbered else caption
    path = run.root / "results" / "bench" / name if bench else run.table(name)
    files = write_table(frame, path, caption=alone)
    files.append(write_text(path.with_suffix(".bib"), bibtex(path, run=run)))
    run.wrote(*files)
    page = run.executed_notebook.parent
    links = {_FORMATS[file.suffix[1:]]: Path(os.path.relpath(file, page)).as_posix() for file in files}
    return ShownTable(frame if shown is None else shown, caption, name=anchor(name), links=links)


def anchor(name: str) -> str:
    """Return where a table stands on its page: ``table-1`` for ``table1``, ``table-claims`` for ``claims``."""
    return "table-" + re.sub(r"[^a-z0-9]+", "-", name.removeprefix("table").lower()).strip("-")


def circumstances(frame: pd.DataFrame, measured_in: Sequence[Path]) -> list[str]:
    """Say in sentences what a table was measured on and with: users, seeds, scale, machine.

    Args:
        frame: the table; its ``dataset``, ``subset`` and ``users`` are read.
        measured_in: as for :func:`publish_table`.

    Returns:
        What the data sets that have ranks were measured with, on which machine, and what the cells hold; of a table in
        which nothing was measured only the latter.

    Raises:
        InputError: ranks have no record beside them.
    """
    machines: dict[str, None] = {}
    alike: dict[str, list[str]] = {}  # seeds and ranker → the data sets and users of which that is so
    for dataset, rows in frame.groupby("dataset", sort=False) if measured_in else ():
        files = {
            path.stem: path
            for folder in measured_in
            for place in (folder, folder / "ranks")
            for path in sorted((place / str(dataset)).glob("*-seed*.parquet"))
        }
        records = {method: record_of(path) for method, path in files.items()}
        if not records:
            continue
        machines |= {machine(record["hardware"]): None for record in records.values()}
        seeds = sorted({record["seed"] for record in records.values()})
        with_what = [f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"]
        rankers = [stem for stem in files if re.fullmatch(r"llamarec-seed\d+", stem)]
        with_what += [_ranker(files[stem], records[stem]) for stem in rankers]
        users = f" ({_users(rows)})" if "users" in rows else ""
        alike.setdefault(", ".join(with_what), []).append(f"{dataset}{users}")
    sentences = [f"{', '.join(datasets)}: {with_what}." for with_what, datasets in alike.items()]
    if machines:
        sentences.append(f"Measured on {'; '.join(machines)}.")
    if measured_in and {"ci_low", "ci_high"} <= set(frame.columns):  # of published numbers nothing can be resampled
        sentences.append("In brackets: 95 % bootstrap intervals over users.")
    if {"published", "measured", "subset"} <= set(frame.columns) and frame["published"].notna().any():
        sentences.append(
            "Below them: ours − the paper's, and whether the interval holds the published value (≈) or ours is above "
            "it (↑) or below (↓)."
        )
    return sentences


def bibtex(table: Path, *, run: "Run") -> str:
    """Return a BibTeX entry for a table of this study, by its path without suffix, with the commit that made it."""
    file = table.with_suffix(".csv").relative_to(run.root).as_posix().replace("_", r"\_")
    note = f"Table \\texttt{{{file}}}, commit {run.commit}"
    return study_citation(run.root, key=f"llamarec-{run.profile.name}-{anchor(table.name)}", note=note) + "\n"


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


def _users(rows: pd.DataFrame) -> str:
    """Say how many users a data set's rows are over, in each subset."""
    subsets = rows.get("subset", pd.Series("all", rows.index))
    counts = rows["users"].groupby(subsets, sort=False).max().dropna()
    names = {"retrieved": "users whose target was retrieved"}
    return ", ".join(f"{count:,.0f} {names.get(subset, 'users')}" for subset, count in counts.items()) or "not tested"


def _ranker(ranks: Path, record: dict[str, Any]) -> str:
    """Say which ranker ranked, and what of its tuning validation kept."""
    settings = record["settings"]["ranker"]
    dataset, seed = ranks.parent.name, record["seed"]
    kept = kept_row(ranks.parents[2] / "weights" / f"{dataset}-seed{seed}" / "adapter")
    weights = "4-bit NF4" if settings["quantization"] == "nf4" else settings["dtype"]
    text = f"ranker {settings['backbone']} ({weights} weights, seed {seed})"
    if kept is None:
        return text
    if kept["answers"]:
        asked = settings["training_examples"] or "all"
        return f"{text} after {kept['examples']:,} of {asked} training examples"
    return f"{text} after {'no tuning' if settings['warmup'] == 'none' else 'the warm-up alone'}"
