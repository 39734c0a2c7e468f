"""A Sphinx extension: what the book's pages take from the study while they are built, so that nothing is typed twice.

The version is the library's, the commit is the checkout's, a citation's facts are those of ``CITATION.cff`` and
``book/references.bib``, and how a notebook was run stands in ``provenance.json`` beside it. Executed notebooks are
never edited: their pages get a title, a finding and a cell while Sphinx reads them.
"""

import html
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import nbformat
import yaml
from docutils import nodes
from pybtex.database import parse_file
from sphinx.ext import autodoc
from sphinx.util import logging
from sphinx.util import typing as sphinx_typing
from sphinx.util.docutils import SphinxDirective

from llamarec_core import __version__
from llamarec_core.evaluation.conclusions import load_conclusions
from llamarec_core.files import read_json
from llamarec_core.provenance import git_state

ROOT = Path(__file__).parents[2]
LOGGER = logging.getLogger(__name__)


def commit() -> str:
    """Return the checkout's commit, or ``unknown`` outside git."""
    return git_state(ROOT)[0] or "unknown"


def citation() -> dict[str, Any]:
    """Return the facts of ``CITATION.cff``."""
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def write_footer(_app: Any, config: Any) -> None:
    """Name version, commit and licence at the foot of every page."""
    facts = citation()
    link = f'<a href="{facts["repository-code"]}/tree/{commit()}">{html.escape(commit()[:12])}</a>'
    config.html_theme_options["extra_footer"] = (
        f"<p>llamarec {__version__}, built from commit {link}, {facts['license']} licence. Each table names the commit "
        "that measured it.</p>"
    )


def bibtex(entries: str) -> nodes.literal_block:
    """Return a block of BibTeX to be copied."""
    return nodes.literal_block(entries, entries, language="bibtex")


class StudyCitation(SphinxDirective):
    """``study-citation``: the BibTeX entry of this study at the commit that the book is built from."""

    def run(self) -> list[nodes.Node]:
        """Return the entry as a block of BibTeX. The page is read anew in every build."""
        self.env.note_reread()
        facts = citation()
        fields = {
            "title": f"{{{facts['title']}}}",
            "author": " and ".join(
                f"{{{author['name']}}}" if "name" in author else f"{author['family-names']}, {author['given-names']}"
                for author in facts["authors"]
            ),
            "year": str(facts["date-released"])[:4],
            "version": facts["version"],
            "url": facts["repository-code"],
            "note": f"Commit {commit()}",
        }
        lines = [f"  {field:7} = {{{value}}}," for field, value in fields.items()]
        return [bibtex("\n".join(["@software{llamarec,", *lines, "}"]))]


class BibtexEntries(SphinxDirective):
    """``bibtex-entries``: the entries of ``references.bib`` that are named by their keys, to be copied."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the entries as one block of BibTeX.

        Raises:
            docutils.parsers.rst.DirectiveError: there is no such entry.
        """
        file = ROOT / "book" / "references.bib"
        self.env.note_dependency(str(file))
        entries = parse_file(file).entries
        keys = " ".join(self.content).split()
        unknown = [key for key in keys if key not in entries]
        if unknown:
            raise self.error(f"references.bib has no entry {unknown[0]!r}")
        return [bibtex("\n".join(entries[key].to_string("bibtex") for key in keys).rstrip())]


def open_notebook_page(app: Any, page: str, source: list[str]) -> None:
    """Give a notebook's page the title of the contents, its finding below that, and how it was made."""
    file = Path(app.env.doc2path(page))
    if file.suffix != ".ipynb":
        return
    record = _record(file)
    if record is None:
        LOGGER.warning("no record in provenance.json says how this page was made", location=page)
        return
    notebook = nbformat.reads(source[0], as_version=4)
    heading, _, text = notebook.cells[0].source.partition("\n")
    place = page.removeprefix("results/")
    finding = " ".join(conclusion.sentence for conclusion in load_conclusions(ROOT) if place in conclusion.opens)
    title = _titles().get(page)
    notebook.cells[0].source = f"{f'# {title}' if title else heading}\n\n{finding}\n{text}"
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(_how(record), id="how-it-was-run"))
    source[0] = nbformat.writes(notebook)


def _titles() -> dict[str, str]:
    """Return the titles that the contents give to pages."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter for part in contents["parts"] for chapter in part["chapters"]]
    return {chapter["file"]: chapter["title"] for chapter in chapters if "title" in chapter}


def _record(executed: Path) -> dict[str, Any] | None:
    """Return the provenance record of an executed notebook: the one whose command writes this file."""
    provenance = executed.with_name("provenance.json")
    records = read_json(provenance).values() if provenance.is_file() else ()
    output = executed.relative_to(ROOT).as_posix()
    return next((record for record in records if output in record["command"].split()), None)


def _how(record: dict[str, Any]) -> str:
    """Return, in MyST, how a page was made and how to make it again."""
    source = record["command"].split()[1]
    machine = record["hardware"]
    accelerators = "".join(f", {name}" for name in machine["accelerators"])
    seconds = record["wall_seconds"]
    shown = f"Source: {{download}}`{Path(source).name} </{source}>`."
    if not (ROOT / source).is_file():
        shown = "Its source has another name by now: the commit holds it."
    took = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
    return f"""\
:::{{admonition}} How this page was made
:class: note dropdown

```bash
{record["command"]}
```

{shown} It ran at commit `{record["git_commit"]}` in {took} on
{machine["processor"]}, {machine["cores"]} cores{accelerators}, {machine["memory_gib"]} GiB. Steps before it must have
run: see {{ref}}`one-notebook`.
:::
"""


def leave_settings_out(_app: Any, what: str, _name: str, member: Any, *_options: Any) -> tuple[str, str] | None:
    """Leave out a signature that only repeats the attributes below it."""
    repeats = what == "class" and (is_dataclass(member) or hasattr(member, "model_fields"))
    return ("(…)", "") if repeats else None


def short_types(member: Any, *names: Any, **_extras: bool) -> dict[str, Any]:
    """Return an object's annotations without pydantic's checks: ``int``, not ``Annotated[int, …]``."""
    annotations = sphinx_typing.get_type_hints(member, *names)  # as they are written, where one cannot be resolved

    def typed() -> None: ...

    typed.__annotations__ = {name: kind for name, kind in annotations.items() if not isinstance(kind, str)}
    return annotations | get_type_hints(typed)


def leave_additions_out(_app: Any, _what: str, name: str, member: Any, _skip: bool, _options: Any) -> bool | None:
    """Leave out what Python and pydantic add to named tuples and settings."""
    return True if name == "model_config" or str(member.__doc__).startswith("Alias for field number") else None


def keep_colons(_app: Any, what: str, _name: str, _member: Any, _options: Any, lines: list[str]) -> None:
    """Keep napoleon from reading a constant's words before a colon as its type: an empty comment comes first."""
    if what in ("attribute", "data", "property") and lines:
        lines[:0] = ["..", ""]


def setup(app: Any) -> dict[str, bool]:
    """Connect all of it with Sphinx."""
    autodoc.get_type_hints = short_types
    app.add_directive("study-citation", StudyCitation)
    app.add_directive("bibtex-entries", BibtexEntries)
    app.connect("config-inited", write_footer)
    app.connect("source-read", open_notebook_page)
    app.connect("autodoc-skip-member", leave_additions_out)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", leave_settings_out)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
