"""A Sphinx extension: files that the book's pages link to, and words for figures that brought none.

Each notebook's page links to its tables' files as they lie beside it in ``results/``: they are copied to the same place
in the book. A figure that was drawn by this library carries its own text (``report.figures``); another is described by
the heading and the paragraph above it.
"""

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes


def copy_tables(app: Any, error: Exception | None) -> None:
    """Copy every table's files to where the pages' links lead."""
    if error is None and app.builder.format == "html":
        results = Path(app.srcdir) / "results"
        for file in (*results.glob("*/tables/*.*"), *results.glob("bench/*.*")):
            if file.suffix in (".csv", ".tex", ".bib"):
                target = Path(app.outdir) / file.relative_to(app.srcdir)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)


def describe_figures(app: Any, doctree: nodes.document) -> None:
    """Give each picture without a text that of its surroundings."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            section = image.parent
            while not isinstance(section, nodes.section):
                section = section.parent
            words = [section.next_node(kind) for kind in (nodes.title, nodes.paragraph)]
            image["alt"] = "Figure: " + ". ".join(node.astext().rstrip(".") for node in words if node) + "."


def setup(app: Any) -> dict[str, bool]:
    """Connect both with Sphinx."""
    app.connect("doctree-read", describe_figures)
    app.connect("build-finished", copy_tables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
