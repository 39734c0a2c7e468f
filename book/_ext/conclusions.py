"""A Sphinx extension: a page writes ``{{ name }}`` and shows the sentence of that name in ``book/conclusions.yaml``.

A sentence that does not hold of its table is a warning, which fails the build.
"""

from pathlib import Path
from typing import Any

from sphinx.util import logging

from llamarec_core.evaluation.conclusions import check_conclusions, load_conclusions

ROOT = Path(__file__).parents[2]


def offer_sentences(_app: Any, config: Any) -> None:
    """Make each sentence a substitution of MyST."""
    for problem in check_conclusions(ROOT):
        logging.getLogger(__name__).warning(problem)
    sentences = {conclusion.name: conclusion.sentence for conclusion in load_conclusions(ROOT)}
    config.myst_substitutions = {**config.myst_substitutions, **sentences}


def setup(app: Any) -> dict[str, Any]:
    """Register the extension."""
    app.connect("config-inited", offer_sentences)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
