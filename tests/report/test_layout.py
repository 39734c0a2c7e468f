"""Wide tables on the page and in LaTeX, and the files that a reader cites."""

import errno

import numpy as np
import pandas as pd
import pytest

from llamarec_core.files import InputError
from llamarec_core.report.layout import show_table, write_table


def results(**changes):
    rows = [
        ("games", "lrurec", "MRR@5", "all", 0.0533, 0.051234567, 0.049, 0.0531),
        ("games", "llamarec", "MRR@5", "all", 0.06, 0.0587, 0.055, 0.061),
        ("games", "random-order", "MRR@5", "all", np.nan, 0.0312, 0.03, 0.0326),
    ]
    names = ["dataset", "method", "metric", "subset", "published", "measured", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=names).assign(users=15264, seeds=1, commit="abc1234", **changes)


def comparison():
    return pd.DataFrame(
        {
            "dataset": "games", "method": ["llamarec", "random-order"], "reference": "lrurec", "metric": "MRR@5",
            "subset": "all", "difference": [0.0075, -0.0002], "ci_low": [0.005, -0.001], "ci_high": [0.01, 0.0006],
            "p_value": [1e-4, 0.7], "p_holm": [2e-4, 0.7], "users": 15264, "seeds": 1, "commit": "abc1234",
        }
    )  # fmt: skip


def test_best_is_bold_and_second_best_underlined_among_ours_and_among_the_papers():
    page = show_table(results())._repr_html_()
    assert "<strong>0.0587</strong><small>[.055, .061]</small>" in page
    assert '<span class="second-best">0.0512</span><small>[.049, .053]</small>' in page
    assert "<td>0.0312<small>[.030, .033]</small></td>" in page
    assert "<strong>0.0600</strong>" in page
    assert '<span class="second-best">0.0533</span>' in page


def test_the_papers_column_is_there_only_where_the_paper_prints_something():
    header = show_table(results())._repr_html_().split("<tbody>")[0]
    assert header.count(">paper</th>") == 2
    assert header.count(">ours</th>") == 3
    assert ">paper</th>" not in show_table(results(published=np.nan))._repr_html_()


def test_a_table_scrolls_and_can_be_reached_by_keyboard_and_named():
    page = show_table(results(), caption="Games & <more>")._repr_html_()
    assert ".llamarec-figure > div { overflow-x: auto; }" in page
    assert '<div role="region" tabindex="0" aria-label="Games &amp; &lt;more&gt;">' in page
    assert "<figcaption>Games &amp; &lt;more&gt;</figcaption>" in page


def test_the_papers_methods_stand_first_and_the_difference_to_the_paper_under_the_interval_with_its_mark():
    page = show_table(results())._repr_html_()
    assert page.index(">LRURec<") < page.index(">LlamaRec<") < page.index(">Random order<")
    assert "<small>[.055, .061]</small><small>−0.0013 ≈</small>" in page
    marks = {}
    for mark, value in (("≈", 0.0587), ("↑", 0.054), ("↓", 0.062)):
        marks[mark] = f"{mark}</small>" in show_table(results().assign(published=value))._repr_html_()
    assert marks == {"≈": True, "↑": True, "↓": True}
    assert "↓" not in show_table(results(published=0.01))._repr_html_()


def test_long_texts_are_broken_and_stand_left():
    page = show_table(pd.DataFrame({"name": ["a"], "text": ["word " * 20], "short": ["b c"]}))._repr_html_()
    assert '<td><span class="text">word word' in page
    assert "<td>b c</td>" in page
    assert 'class="dataframe llamarec-table plain"' in page
    assert 'class="dataframe llamarec-table"' in show_table(results())._repr_html_()


def test_subsets_and_data_sets_are_rows_only_when_there_are_several():
    both = pd.concat([results(), results(subset="retrieved")])
    assert "retrieved" in show_table(both)._repr_html_()
    assert "games" not in show_table(both)._repr_html_()
    assert "games" in show_table(pd.concat([both, results(dataset="beauty")]))._repr_html_()


def test_a_difference_is_signed_and_bold_when_it_is_beyond_chance():
    page = show_table(comparison())._repr_html_()
    assert "<strong>+0.0075</strong><small>[+0.0050, +0.0100]</small><small>p &lt; 0.001</small>" in page
    assert "<td>−0.0002<small>[−0.0010, +0.0006]</small><small>p = 0.700</small></td>" in page


def pairs(*named):
    """Each method beside each reference, the n-th pair with a difference of n tenths."""
    return pd.concat(
        comparison().head(1).assign(method=method, reference=reference, difference=number / 10)
        for number, (method, reference) in enumerate(named, start=1)
    )


def test_comparisons_with_several_references_have_a_column_for_each_pair(tmp_path):
    table = pairs(("sasrec", "narm"), ("lrurec", "narm"), ("lrurec", "sasrec"))
    page = show_table(table)._repr_html_()
    names = ["SASRec − NARM", "LRURec − NARM", "LRURec − SASRec"]
    places = [page.index(text) for text in (*names, "+0.1000", "+0.2000", "+0.3000")]
    assert places == sorted(places)
    latex = write_table(table, tmp_path / "pairs")[1].read_text()
    assert all(value in latex for value in ("+0.1000", "+0.2000", "+0.3000"))


def test_a_comparison_alone_names_its_reference_and_several_with_the_same_leave_it_to_the_caption():
    assert ">LRURec − NARM<" in show_table(pairs(("lrurec", "narm")))._repr_html_()
    assert "LRURec" not in show_table(comparison())._repr_html_()


@pytest.mark.parametrize("table", [results(), comparison()], ids=["results", "comparisons"])
def test_two_values_for_one_cell_are_refused(table):
    with pytest.raises(ValueError, match="share a cell"):
        show_table(pd.concat([table, table]))._repr_html_()


def test_statistics_show_the_printed_figure_below_ours():
    table = pd.DataFrame(
        {
            "dataset": ["beauty", "beauty", "mine"],
            "quantity": ["interactions", "density", "interactions"],
            "published": ["198K", "7e-4", np.nan],
            "measured": [198215.0, 0.000734, 12.0],
        }
    )
    page = show_table(table)._repr_html_()
    assert "<td>198,215<small>paper: 198K</small></td>" in page
    assert "<td>0.000734<small>paper: 7e-4</small></td>" in page
    assert "<td>12</td>" in page


def test_any_other_table_is_shown_by_its_first_column():
    shown = show_table(pd.DataFrame({"step": ["data <1>"], "wall_seconds": [12.3456], "note": [None]}))
    assert "<th>data &lt;1&gt;</th>" in shown._repr_html_()
    assert "<td>12.35</td>" in shown._repr_html_()
    assert "wall seconds" in repr(shown)


def test_text_form_reads_without_a_browser():
    text = repr(show_table(results(), caption="Games"))
    assert text.startswith("Games\n")
    assert "0.0587 [.055, .061]" in text


def test_files_are_tidy_csv_of_six_digits_and_latex_with_booktabs(tmp_path):
    write_table(results(), tmp_path / "results-1.0", caption="5 % of R&D_x")
    lines = (tmp_path / "results-1.0.csv").read_bytes().decode().split("\n")
    assert lines[0] == "dataset,method,metric,subset,published,measured,ci_low,ci_high,users,seeds,commit"
    assert lines[1] == "games,lrurec,MRR@5,all,0.0533,0.0512346,0.049,0.0531,15264,1,abc1234"
    assert lines[3].startswith("games,random-order,MRR@5,all,,0.0312,")
    latex = (tmp_path / "results-1.0.tex").read_text()
    assert r"\caption{5 \% of R\&D\_x}" in latex
    assert r"\label{tab:results-1.0}" in latex
    assert r"\textbf{0.0587} \\ \scriptsize [.055, .061]" in latex
    assert r"\underline{0.0512}" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}")
    assert all(rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule"))


def test_latex_has_no_character_that_needs_another_package(tmp_path):
    write_table(comparison(), tmp_path / "comparison")
    latex = (tmp_path / "comparison.tex").read_text()
    assert latex.isascii()
    assert r"$-$0.0002" in latex
    assert "p $<$ 0.001" in latex
    assert r"\caption" not in latex


def test_a_full_disk_leaves_the_old_table(tmp_path, monkeypatch):
    write_table(results(), tmp_path / "results")
    before = (tmp_path / "results.csv").read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(InputError, match="disk is full"):
        write_table(results(), tmp_path / "results")
    assert (tmp_path / "results.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"), (-2.6e-17, "0"), (6.993e-5, "0.00007"), (-3.21e-6, "-0.0000032"), (0.123456, "0.1235"),
        (4.2, "4.2"), (12345.678, "12,346"), (float("nan"), ""), (False, "no"),
    ],
)  # fmt: skip
def test_a_number_of_any_table_stands_without_an_exponent(value, shown):
    page = show_table(pd.DataFrame({"name": ["a"], "value": [value]}))._repr_html_()
    assert f"<td>{shown}</td>" in page
