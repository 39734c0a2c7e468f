"""Tables on the page and in LaTeX: every committed table has a form in which it can be read and compiled."""

import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from llamarec_core.report import publish_table, show_record, show_runs, show_table, show_versions, write_table
from llamarec_core.report.forms import FORMS, number
from llamarec_core.report.show import laid_out
from tests.conftest import ROOT

COMMITTED = sorted(ROOT.glob("results/*/tables/*.csv")) + sorted(ROOT.glob("results/bench/*.csv"))
COMPILER = next(filter(None, map(shutil.which, ("pdflatex", "tectonic"))), None)


def results(**changes):
    rows = [
        ("games", "lrurec", "MRR@5", "all", 0.0533, 0.051234567, 0.049, 0.0531, 1200),
        ("games", "lrurec", "NDCG@10", "all", 0.0733, 0.0612, 0.059, 0.0631, 1200),
        ("games", "llamarec", "NDCG@10", "all", 0.08, 0.0687, 0.065, 0.071, 1200),
        ("games", "random-order", "NDCG@10", "all", np.nan, 0.0312, 0.03, 0.0326, 1200),
    ]
    names = ["dataset", "method", "metric", "subset", "published", "measured", "ci_low", "ci_high", "users"]
    return pd.DataFrame(rows, columns=names).assign(commit="abc1234", **changes)


def texts(frame, form):
    shown = laid_out(FORMS[form].prepare(frame), FORMS[form])
    return shown.replace("\N{NO-BREAK SPACE}", " ", regex=True)


def form_of(path):
    if "training" in path.stem:
        return "tunings"
    if path.parent.name == "bench":
        return path.stem if path.stem in ("inference_time", "retriever_recall") else "bench"
    return next((name for name in (path.stem, path.stem.split("_")[0]) if name in FORMS), None)


@pytest.fixture(scope="module")
def committed():
    return {path: show_table(pd.read_csv(path), form_of(path)) for path in COMMITTED}


def test_every_committed_table_can_be_read_on_the_page(committed):
    for path, table in committed.items():
        page = BeautifulSoup(table._repr_html_(), "html.parser")
        for drawn in page.find_all("table"):
            head = drawn.thead.find_all("tr")
            assert len(head) == 1, path
            assert all(cell["scope"] == "col" and cell.get_text(strip=True) for cell in head[0].find_all("th")), path
            assert all(cell["scope"] == "row" for cell in drawn.tbody.find_all("th")), path
            assert drawn.parent["tabindex"] == "0", path
        assert page.find("table").find_all("th", scope="row"), path
        if form_of(path):
            assert len(page.find("table").thead.find_all("th")) <= 9, path  # fewer columns first


def test_every_committed_table_has_the_form_that_compiles(committed, tmp_path):
    written = []
    for path, table in committed.items():
        latex = write_table(table.frame, tmp_path / path.stem, form_of(path), caption="5 % of R&D_x")[1].read_text()
        assert latex.isascii(), path
        outside = re.sub(r"\\[%&_#$]|\$[^$]*\$|\\label\{[^}]*\}|^%.*", "", latex, flags=re.MULTILINE)
        assert not re.search(r"[%_#<>$]", outside), path
        columns = re.search(r"\\begin\{(?:tabular|longtable)\}\{((?:[lr]|p\{[^}]*\})+)\}", latex)[1]
        row = latex.split(r"\midrule")[-1].split(r"\endlastfoot")[-1].strip().splitlines()[0].replace(r"\&", "")
        assert row.count("&") + 1 == len(re.sub(r"\{[^}]*\}", "", columns)), path
        written.append(latex)
    if COMPILER:
        packages = r"\usepackage{adjustbox,booktabs,longtable,makecell}"
        pages = "\n\\clearpage\n".join(written)
        article = f"\\documentclass{{article}}{packages}\\begin{{document}}\n{pages}\n\\end{{document}}\n"
        (tmp_path / "all.tex").write_text(article)
        run = subprocess.run([COMPILER, "all.tex"], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True)
        assert run.returncode == 0, run.stdout[-2000:]


def test_results_stand_beside_the_papers_the_best_is_bold_and_other_metrics_stand_behind_a_fold():
    shown = texts(results(), "table1")
    assert shown.index.names == ["method"]
    assert shown.loc[("LlamaRec",), "NDCG@10, ours"] == "0.0687 [0.065, 0.071]"
    assert shown["NDCG@10, paper"].tolist() == ["0.0733", "0.0800", ""]
    page = show_table(results(), "table1")._repr_html_()
    before, fold, behind = page.partition("<details>")
    for part in (before, behind):
        assert part.count("<strong>0.0687 [") == part.count("<strong>0.0800<") == 1
    assert "<strong>0.0612" not in page
    assert fold
    assert ("MRR@5" in before, "MRR@5" in behind) == (False, True)
    assert "paper" not in show_table(results(published=np.nan), "table1")._repr_html_()
    assert "<table" in show_table(results()[:0], "table1")._repr_html_()
    both = pd.concat([results(), results(subset="retrieved")])
    assert texts(both, "table1").index.names == ["users", "method"]
    assert texts(pd.concat([both, results(dataset="beauty")]), "table1").index.names == ["data set", "users", "method"]
    with pytest.raises(ValueError, match="share the cell"):
        texts(pd.concat([both, both]), "table1")


def test_a_difference_is_signed_and_bold_when_it_is_beyond_chance():
    table = results()[2:].assign(reference="lrurec", subset="retrieved", difference=[0.0075, -0.0002])
    table = table.assign(ci_low=[0.005, -0.001], ci_high=[0.01, 0.0006], p_holm=[2e-4, np.nan])
    shown = texts(table, "comparison")["NDCG@10, target retrieved"]
    assert shown[("LlamaRec − LRURec",)] == "+0.0075 [+0.0050, +0.0100] p < 0.001"
    assert shown[("Random order − LRURec",)] == "−0.0002 [−0.0010, +0.0006]"
    page = show_table(table, "comparison")._repr_html_()
    assert [tag in page for tag in ("<strong>+0.0075", "<strong>−", "<details>")] == [True, False, False]


def test_claims_stand_in_the_units_of_the_paper():
    claim = {"statement": "It gains", "published": 0.1282, "ci_low": [-0.0123, -0.0123, np.nan], "ci_high": 0.75}
    claim |= {"dataset": "games", "verdict": "reproduced", "why": "so", "observed": np.nan, "detectable": 0.04}
    claims = pd.DataFrame({"unit": ["gain", "difference", "seconds"], "measured": 0.5}).assign(**claim)
    shown = texts(claims, "claims")
    assert shown["ours"].tolist() == ["+50.00 % [−1.23 %, +75.00 %]", "+0.5000 [−0.0123, +0.7500]", "0.50 s"]
    assert shown["paper"].tolist() == ["+12.82 %", "+0.1282", "0.13 s"]
    assert shown["detectable"].tolist()[1] == "+0.0400"


def test_any_other_table_is_shown_as_it_is_and_escaped():
    shown = show_table(pd.DataFrame({"step": ["data <1>"], "wall_seconds": [12.3456], "note": [None]}), caption="A & B")
    page = shown._repr_html_()
    for part in ("data &lt;1&gt;</th>", "12.35</td>", "<figcaption>A &amp; B</figcaption>", "wall seconds"):
        assert part in page
    assert repr(shown).startswith("A & B\n")
    assert page == shown._repr_html_()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"), (-2.6e-17, "0"), (6.993e-5, "0.00007"), (-3.21e-6, "−0.0000032"), (0.123456, "0.1235"),
        (4.2, "4.2"), (9999.7, "10000"), (12345.678, "12,346"), (float("nan"), ""), (False, "no"), (22332, "22,332"),
    ],
)  # fmt: skip
def test_a_number_of_any_table_stands_without_an_exponent(value, written):
    assert number(value) == written


def test_files_are_tidy_csv_of_six_digits_and_latex_that_fits_the_page(tmp_path):
    csv, tex = write_table(results(), tmp_path / "results-1.0", "table1", caption="5 % of R&D_x.")
    lines = csv.read_bytes().decode().split("\n")
    assert lines[0] == "dataset,method,metric,subset,published,measured,ci_low,ci_high,users,commit"
    assert lines[1] == "games,lrurec,MRR@5,all,0.0533,0.0512346,0.049,0.0531,1200,abc1234"
    bold = r"\makecell[tr]{\textbf{0.0687}\\{\scriptsize [0.065,~0.071]}}"
    for part in (r"\caption{5 \% of R\&D\_x.", r"\label{tab:results-1.0}", bold, r"\begin{adjustbox}{max width="):
        assert part in tex.read_text()
    high = write_table(pd.DataFrame({"name": ["a"] * 90, "b": 1.5}), tmp_path / "high")[1].read_text()
    assert r"\begin{longtable}{lr}" in high


def test_a_published_table_has_its_place_its_files_and_the_number_of_its_users(tmp_path):
    folder, written = tmp_path / "results" / "small", []
    places = {"root": tmp_path, "executed_notebook": folder / "notebooks" / "4_results.ipynb"}
    run = SimpleNamespace(table=(folder / "tables").joinpath, wrote=lambda *files: written.extend(files), **places)
    retrieved = results()[2:].assign(subset="retrieved", users=[300, np.nan])
    frame = pd.concat([results()[:2], retrieved, results()[:1].assign(dataset="beauty", users=np.nan)])
    table = publish_table(frame, "table1", run=run, about="Table 1: all users.")
    page = table._repr_html_()
    assert '<figure class="llamarec-figure" id="table-1">' in page
    links = re.findall(r'href="([^"#]+)" download>(\w+)<', page)
    assert links == [("../tables/table1.csv", "CSV"), ("../tables/table1.tex", "LaTeX")]
    files = [(run.executed_notebook.parent / link).resolve() for link, _ in links]
    assert written == files
    assert table.caption.startswith("Table 1: all users. games 1,200 users, 300 with their target retrieved. In")
    assert r"\caption{All users. games 1,200 users," in files[1].read_text()
    for name, bench, place, file in (
        ("table1_retrieval", False, "table-1-retrieval", "small/tables/table1_retrieval.csv"),
        ("ranker", True, "table-ranker", "bench/ranker.csv"),
    ):
        assert publish_table(results(), name, run=run, about="x", form="table1", bench=bench).name == place
        assert written[-2] == run.root / "results" / file


def test_a_run_is_shown_with_its_command_commit_machine_and_cost():
    record = {
        "command": "papermill notebooks/2_retriever.ipynb out.ipynb -p seed 0", "parameters": {"dataset": "beauty"},
        "git_commit": "0123456789abcdef0123456789abcdef01234567", "git_dirty": False,
        "data_sha256": {"beauty": "f" * 64}, "packages": {"python": "3.11.7", "torch": "2.13.0"},
        "hardware": {"processor": "Z80", "cores": 1, "memory_gib": 2, "accelerators": [], "system": "Linux"},
        "wall_seconds": 90.0, "peak_memory_mib": 1536,
    }  # fmt: skip
    both = ["1.5", "1.5", "0123456789ab", "Z80, 1 cores, 2 GiB, no GPU"]
    shown = show_record(record).frame["of this run"].tolist()
    assert shown == [record["command"], "beauty: ffffffffffff", *both]
    assert "with uncommitted changes" in repr(show_record(record | {"git_dirty": True}))
    records = {"one": record, "other": record | {"packages": {"python": "3.11.7", "torch": "2.14.0"}}}
    assert show_runs(records).frame.to_numpy().tolist() == 2 * [["2_retriever", "beauty", *both]]
    expected = {"system": "Linux", "python": "3.11.7", "torch": "2.13.0, 2.14.0"}
    assert dict(show_versions(records).frame.to_numpy()) == expected
