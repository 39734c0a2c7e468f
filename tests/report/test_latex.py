"""LaTeX of tables: every committed file has the form that compiles, and does compile where there is a LaTeX."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llamarec_core.report.layout import write_table

ROOT = Path(__file__).parents[2]
COMMITTED = sorted(ROOT.glob("results/*/tables/*.tex")) + sorted(ROOT.glob("results/bench/*.tex"))
COMPILER = next(filter(None, map(shutil.which, ("pdflatex", "tectonic"))), None)
INNER = re.compile(r"\\begin\{tabular\}\[[tb]\]\{@\{\}r@\{\}\}((?:(?!\\begin).)*?)\\end\{tabular\}")
"""A cell or a name of several lines."""


def faults(latex: str) -> list[str]:
    """Say what would keep a table from compiling as it is meant."""
    found = []
    text = re.sub(r"^%.*$", "", latex, flags=re.MULTILINE)
    text = text.replace("\N{NO-BREAK SPACE}", "~")  # LaTeX reads it as that
    if not text.isascii():
        found.append(f"not ASCII: {sorted(set(text) - set(map(chr, range(128))))}")
    begun, ended = (sorted(re.findall(rf"\\{word}{{(\w+)}}", text)) for word in ("begin", "end"))
    if begun != ended:
        found.append(f"begins {begun}, ends {ended}")
    plain = re.sub(r"\\[\\&%$#_{}]", "", text)
    if plain.count("{") != plain.count("}"):
        found.append("braces do not match")
    if plain.count("$") % 2:
        found.append("a formula is not closed")
    if "%" in plain:
        found.append("a per cent sign hides the rest of its line")
    outside = re.sub(r"\$[^$]*\$|\\label\{[^}]*\}", "", plain)
    found += [f"{sign} outside a formula" for sign in "_^#<>" if sign in outside]
    flat = INNER.sub("", re.sub(r"\\[&]", "", text))
    kind = "longtable" if r"\begin{longtable}" in flat else "tabular"
    if rf"\end{{{kind}}}" not in flat:
        return found
    spec = re.search(r"\\begin\{" + kind + r"\}\{((?:[^{}]|\{[^{}]*\})*)\}", flat)
    columns = re.findall(r"[lrc]|p\{[^}]*\}", spec[1]) if spec else []
    body = flat[spec.end() : flat.rindex(rf"\end{{{kind}}}")] if spec else ""
    # what a table over several pages repeats
    body = re.sub(r"^\\(?:caption|label).*|\\end(first|last)?(head|foot)", "", body, flags=re.MULTILINE)
    rows = [row for row in re.split(r"\\\\", re.sub(r"\\(top|mid|bottom)rule", "", body)) if row.strip()]
    for row in rows:
        spanned = sum(int(number) - 1 for number in re.findall(r"\\multicolumn\{(\d+)\}", row))
        if row.count("&") + 1 + spanned != len(columns):
            found.append(f"{row.count('&') + 1 + spanned} of {len(columns)} columns: {row.strip()[:60]}")
    rules = [text.count(rf"\{name}rule") for name in ("top", "mid", "bottom")]
    if rules != ([2, 4, 1] if kind == "longtable" else [1, 1, 1]) or not rows:
        found.append(f"top, middle and bottom rules: {rules}, rows: {len(rows)}")
    return found


def compiled(folder: Path, tables: list[str]) -> str:
    """Compile an article with the tables and return what the compiler wrote."""
    packages = r"\usepackage{booktabs,graphicx,longtable,lscape}"
    pages = "\n\\clearpage\n".join(tables)
    (folder / "all.tex").write_text(
        f"\\documentclass{{article}}{packages}\\begin{{document}}\n{pages}\n\\end{{document}}\n"
    )
    options = ["-halt-on-error", "-interaction=nonstopmode"] if "pdflatex" in COMPILER else []
    run = subprocess.run([COMPILER, *options, "all.tex"], cwd=folder, capture_output=True, check=False)
    log = run.stdout.decode(errors="replace") + run.stderr.decode(errors="replace")
    assert run.returncode == 0, log[-2000:]
    assert (folder / "all.pdf").stat().st_size > 0
    return log


def odd_table():
    """Names and texts with every character that LaTeX reads as something else."""
    return pd.DataFrame(
        {
            "a_b & c": ["50 % of #1 {x} ~ ^ \\ $5", "<tag>"],
            "text": ["word " * 40, "R&D_x, 12.82\N{NO-BREAK SPACE}%, − ± ≥ ≤ × → ≈ ↑ ↓ …"],
            "value": [0.123456, np.nan],
        }
    )


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_a_committed_table_has_the_form_that_compiles(path):
    assert faults(path.read_text()) == []


def test_odd_characters_and_long_texts_are_printed_as_they_are(tmp_path):
    _, tex = write_table(odd_table(), tmp_path / "odd", caption="100 % & more_")
    assert faults(tex.read_text()) == []
    assert re.search(r"\{lp\{0\.\d+\\linewidth\}r\}|\{p\{0\.\d+\\linewidth\}p\{0\.\d+\\linewidth\}r\}", tex.read_text())
    if COMPILER:
        assert "Overfull \\hbox" not in compiled(tmp_path, [tex.read_text()])


def test_a_table_wider_than_the_line_is_scaled_to_it(tmp_path):
    narrow = pd.DataFrame({"name": ["a"], **{f"column {number}": [0.5] for number in range(4)}})
    wide = pd.DataFrame({"name": ["a"], **{f"column {number}": [0.5] for number in range(20)}})
    latex = [write_table(frame, tmp_path / "table")[1].read_text() for frame in (narrow, wide)]
    assert [r"\resizebox{\linewidth}{!}{\begin{tabular}" in text for text in latex] == [False, True]
    assert [faults(text) for text in latex] == [[], []]


def test_a_table_higher_than_the_page_goes_on_over_pages_and_is_turned_if_it_is_wide_too(tmp_path):
    def written(columns, text):
        frame = pd.DataFrame({"name": ["a b"] * 90, **{f"column {number}": [text] * 90 for number in range(columns)}})
        return write_table(frame, tmp_path / "table", caption="Long.")[1].read_text()

    high, both = written(2, "short"), written(9, "eight letters")
    assert r"\begin{longtable}" in high
    assert r"\begin{landscape}" not in high
    assert r"\begin{landscape}" in both
    assert [faults(text) for text in (high, both)] == [[], []]
    if COMPILER:
        log = compiled(tmp_path, [high, both])
        assert "Overfull" not in log
        assert "too large" not in log


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (" & ", " ", "of 3 columns"),
        (r"\%", "%", "per cent"),
        (r"\_", "_", "_ outside a formula"),
        (r"\end{tabular}", "", "begins"),
        (r"\bottomrule", "", "rules"),
        (r"\textbackslash{", r"\textbackslash", "braces"),
        ("0.1", "0.1−", "not ASCII"),
    ],
)
def test_a_broken_table_is_found(tmp_path, old, new, fault):
    latex = write_table(odd_table(), tmp_path / "odd", caption="a 1 % and b_c")[1].read_text()
    head, rule, body = latex.partition("\\toprule")
    broken = head + rule + body.replace(old, new, 1)
    assert any(fault in found for found in faults(broken)), faults(broken)


@pytest.mark.skipif(COMPILER is None, reason="no pdflatex or tectonic here: the form of every table is tested above")
def test_every_committed_table_compiles(tmp_path):
    compiled(tmp_path, [path.read_text() for path in COMMITTED])
