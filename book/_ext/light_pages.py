"""A Sphinx extension: pages load what they use, so that the opening page stays under 700 kB.

Style sheets and scripts of extensions go from pages that show nothing of theirs. The theme's sheet of styles keeps the
few icons that the book draws; they stand in the sheet itself, because a page opened from a disk may load no font file.
"""

import base64
import io
import re
from pathlib import Path
from typing import Any

import pydata_sphinx_theme
from fontTools import subset
from fontTools.ttLib import TTFont

# a file's name contains -> what a page must contain to load it
NEEDED_BY = {
    "thebe": "thebe-launch-button",
    "sphinx-design": 'class="sd-',
    "design-tabs": "sd-tab",
    "mystnb": "cell docutils",
    "katex": 'class="math ',
    "maths": 'class="math ',
}


def leave_out(_app: Any, _page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Drop the files that a page has no use for."""
    body = context.get("body", "")
    for kind in ("css_files", "script_files"):
        context[kind] = [
            file
            for file in context[kind]
            if all(mark in body for part, mark in NEEDED_BY.items() if part in f"{file.filename} {file.attributes}")
        ]


def keep_few_icons(app: Any, error: Exception | None) -> None:
    """Put the icons that the book uses into the theme's style sheet, and take all others out."""
    if error or app.builder.format != "html":
        return
    out = Path(app.outdir)
    used = {name for page in out.rglob("*.html") for name in re.findall(r"\bfa-[a-z0-9-]+", page.read_text("utf-8"))}
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
    css = (theme / "styles" / "pydata-sphinx-theme.css").read_text("utf-8")
    css = re.sub(
        r'(?:\.fa-[a-z0-9-]+:before,?)+\{content:"[^"]*"\}',
        lambda rule: rule[0] if used & set(re.findall(r"fa-[a-z0-9-]+", rule[0])) else "",
        css,
    )
    sheets = css + (out / "_static" / "styles" / "sphinx-book-theme.css").read_text("utf-8")
    glyphs = {int(code, 16) for code in re.findall(r'"\\(f[0-9a-f]{3})"', sheets)}  # written as numbers, or as signs
    glyphs |= set(map(ord, re.findall("[\uf000-\uf8ff]", sheets)))
    font = TTFont(theme / "vendor" / "fontawesome" / "webfonts" / "fa-solid-900.ttf")
    subsetter = subset.Subsetter()
    subsetter.populate(unicodes=glyphs)
    subsetter.subset(font)
    font.flavor = "woff"
    font.save(file := io.BytesIO())
    inside = f"src:url(data:font/woff;base64,{base64.b64encode(file.getvalue()).decode()})"

    def face(rule: re.Match[str]) -> str:
        return re.sub(r"src:[^}]*", inside, rule[0]) if "fa-solid" in rule[0] else ""

    css = re.sub(r"@font-face\{[^}]*webfonts/fa-[^}]*\}", face, css)
    (out / "_static" / "styles" / "pydata-sphinx-theme.css").write_text(css, "utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Connect both with Sphinx."""
    app.connect("html-page-context", leave_out, priority=900)  # after extensions have added theirs
    app.connect("build-finished", keep_few_icons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
