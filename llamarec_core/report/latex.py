r"""Tables for an article: booktabs rules, text that breaks, and no table larger than the page.

What is too wide is scaled down as a whole; what is too high even so goes on over pages (``longtable``), turned
(``lscape``) if it is too wide as well. These packages come with every LaTeX.
"""

import math
import textwrap
from collections.abc import Iterable
from typing import Protocol

import pandas as pd

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "−": "$-$", "±": r"$\pm$",
    "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "→": r"$\to$",
    "≈": r"$\approx$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "…": r"\dots{}",
    "\N{NO-BREAK SPACE}": "~",
}  # fmt: skip
_LINE = 84
"""Characters of ``\\footnotesize`` in a line of LaTeX's article."""
_TURNED = 124
"""The same, in a turned page."""
_PAGE = 45
"""Lines of ``\\footnotesize`` in a page that has a caption too."""
_COMPACT = "\\footnotesize\\setlength{\\tabcolsep}{3pt}"
_PACKAGES = "booktabs,graphicx,longtable,lscape"
_LONG = 30
"""Characters from which on a column's text is broken into lines."""
_NARROWEST = 20
"""Characters that a column of broken text has at least."""
_HEADER = 12
"""Characters after which a column's name goes on in another line."""


class Cell(Protocol):
    """What a cell says: a value, smaller lines below it, and ``best``, ``second`` or nothing."""

    value: str
    details: tuple[str, ...]
    emphasis: str


def escape(text: str) -> str:
    """Return text as LaTeX prints it."""
    return "".join(_SPECIAL.get(character, character) for character in str(text))


def to_latex(wide: pd.DataFrame, *, caption: str | None, label: str) -> str:
    """Return a floating table.

    Args:
        wide: cells (:class:`Cell`), with text as index and columns.
        caption: plain text.
        label: for ``\\ref``.
    """
    index = [[str(text) for text in wide.index.get_level_values(level)] for level in range(wide.index.nlevels)]
    texts = [*index, *([cell.value for cell in wide.iloc[:, place]] for place in range(wide.shape[1]))]
    widths = [_longest(column) for column in index]
    widths += [max(_header_width(name), _cells_width(wide.iloc[:, place])) for place, name in enumerate(wide.columns)]
    words = [_longest(word for text in column for word in text.split()) for column in texts]
    shares, total = _shares(widths, words, _LINE)
    turned = False
    long = _height(wide, texts, shares) * min(1, _LINE / total) > _PAGE
    if long and total > _LINE:
        turned, (shares, total) = True, _shares(widths, words, _TURNED)
    kinds = ["l"] * len(index) + ["r"] * wide.shape[1]
    line = _TURNED if turned else _LINE
    kinds = [
        f"p{{{share / line:.2f}\\linewidth}}" if share else kind for share, kind in zip(shares, kinds, strict=True)
    ]
    table = _written(wide, index, shares).to_latex(
        escape=False,
        caption=escape(caption) if caption else None,
        label=label,
        column_format="".join(kinds),
        multicolumn_format="c",
        multirow=False,
        longtable=long,
        **({} if long else {"position": "htbp"}),
    )
    if long:
        around = ("\\begin{landscape}\n", "\\end{landscape}\n") if turned else ("", "")
        table = f"{around[0]}{{{_COMPACT}\n{table}}}\n{around[1]}"
    else:
        before, after = ("\\resizebox{\\linewidth}{!}{", "}") if total > _LINE else ("", "")
        head, body, tail = table.partition("\\begin{tabular}")
        body, end, tail = (body + tail).rpartition("\\end{tabular}")
        table = f"{head}\\centering{_COMPACT}\n{before}{body}{end}{after}{tail}"
    return f"% needs \\usepackage{{{_PACKAGES}}}\n{table}"


def _shares(widths: list[float], words: list[int], line: int) -> tuple[list[float], float]:
    """Return how many characters each column of long text may have (0: as wide as it is), and the table's width."""
    breaks = [width > max(_LONG, word) for width, word in zip(widths, words, strict=True)]
    gaps = 1.5 * len(widths)
    spare = line - gaps - sum(width for width, wraps in zip(widths, breaks, strict=True) if not wraps)
    wished = [min(width, 3 * _LONG) if wraps else 0 for width, wraps in zip(widths, breaks, strict=True)]
    shares = [
        max(wish / sum(wished) * spare, _NARROWEST, word) if wish else 0
        for wish, word in zip(wished, words, strict=True)
    ]
    return shares, gaps + sum(share or width for share, width in zip(shares, widths, strict=True))


def _height(wide: pd.DataFrame, texts: list[list[str]], shares: list[float]) -> float:
    """Return how many lines the rows take."""
    heights = [max(1.2 + 0.9 * len(cell.details) if cell.details else 1 for cell in row) for row in wide.to_numpy()]
    for column, share in zip(texts, shares, strict=True):
        for row, text in enumerate(column if share else ()):
            heights[row] = max(heights[row], math.ceil(1.2 * len(text) / share))
    return sum(heights)


def _written(wide: pd.DataFrame, index: list[list[str]], shares: list[float]) -> pd.DataFrame:
    """Return the cells, the index and the names as LaTeX."""
    body = wide.copy()
    for place, share in enumerate(shares[len(index) :]):
        body.isetitem(place, [_text(cell.value) if share else _cell(cell) for cell in wide.iloc[:, place]])
    levels = [
        [(_text if share else escape)(text) for text in texts] for texts, share in zip(index, shares, strict=False)
    ]
    body.index = pd.MultiIndex.from_arrays(levels) if len(levels) > 1 else pd.Index(levels[0])
    return body.rename(columns=_header).rename_axis(columns=[escape(name or "") for name in wide.columns.names])


def _longest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)


def _cells_width(cells: Iterable[Cell]) -> float:
    """Return how many characters wide a column's widest cell is; the lines below the value are smaller."""
    return max((max(len(cell.value), 0.85 * _longest(cell.details)) for cell in cells), default=0)


def _header_width(name: str | tuple[str, ...]) -> int:
    return _longest(line for part in (name if isinstance(name, tuple) else (name,)) for line in _broken(str(part)))


def _broken(text: str) -> list[str]:
    return textwrap.wrap(text, _HEADER, break_long_words=False, break_on_hyphens=False) or [""]


def _text(text: str) -> str:
    """Return text that is not stretched to its column's width; ``\\raggedright`` would change what ends the row."""
    return f"\\rightskip=0pt plus 1fil\\relax {escape(text)}"


def _cell(cell: Cell) -> str:
    value = escape(cell.value)
    if cell.emphasis:
        value = f"\\{'textbf' if cell.emphasis == 'best' else 'underline'}{{{value}}}"
    if not cell.details:
        return value
    lines = [value, *(f"\\scriptsize {escape(line)}" for line in cell.details)]
    return r"\begin{tabular}[t]{@{}r@{}}" + r" \\ ".join(lines) + r" \\[2pt]\end{tabular}"


def _header(text: str) -> str:
    lines = _broken(str(text))
    if len(lines) < 2:
        return escape(text)
    return r"\begin{tabular}[b]{@{}r@{}}" + r" \\ ".join(map(escape, lines)) + r"\end{tabular}"
