"""Figures: labelled axes, words for those who cannot see them, and files that never change by themselves."""

import base64
import html
import re
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from llamarec_core.files import InputError
from llamarec_core.report import candidate_probabilities, figures


@pytest.fixture(autouse=True)
def theme():
    figures.set_theme()


def dataset():
    items = np.array([1, 2, 3, 1, 2, 1, 1, 2, 3, 4], dtype=np.int32)
    return SimpleNamespace(name="tiny", items=items, offsets=np.array([0, 3, 5, 10]), n_items=5)


def curve():
    return pd.DataFrame(
        {
            "iteration": [100, 200, 300],
            "training_loss": [7.0, 6.5, 6.1],
            "recall@10": [0.05, np.nan, 0.08],
            "ndcg@10": [0.02, np.nan, 0.04],
        }
    )


def results():
    metrics = ["MRR@5", "NDCG@10"]
    table = pd.concat(
        pd.DataFrame({"dataset": "games", "method": method, "metric": metrics, "subset": "all", "measured": level})
        for method, level in (("lrurec", 0.05), ("llamarec", 0.06), ("random-order", 0.03))
    )
    table["published"] = np.where(table["method"] == "llamarec", 0.07, np.nan)
    return table.assign(ci_low=table["measured"] - 0.01, ci_high=table["measured"] + 0.02)


def candidates(**changes):
    titles = [f"Film {number}" for number in range(19)] + ["The $5 and the $10 Film: A Subtitle That Will Not Fit"]
    after = np.full(20, 0.5 / 19)
    after[3] = 0.5
    return candidate_probabilities(titles, **({"before": np.full(20, 0.05), "after": after, "target": 3} | changes))


def every_figure():
    return {
        "data": figures.sequence_lengths_and_popularity(dataset()),
        "curve": figures.training_curve(curve(), x="iteration", metric="recall@10"),
        "ranks": figures.rank_histogram({"lrurec": np.array([1, 5, 20, 90]), "llamarec": np.array([1, 1, 2, 90])}),
        "bars": figures.metric_bars(results(), metrics=["MRR@5", "NDCG@10"]),
        "candidates": candidates(),
    }


def test_every_figure_names_its_axes_and_says_in_words_what_it_shows():
    for name, figure in every_figure().items():
        assert isinstance(figure, Figure), name
        assert len(figure.alt_text) > 60, name
        for axis in figure.axes:
            horizontal = axis.get_xlabel() or figure.get_supxlabel() or [t.get_text() for t in axis.get_xticklabels()]
            shared = axis.get_shared_x_axes().get_siblings(axis)
            assert horizontal or any(sibling.get_xlabel() for sibling in shared), name
            assert axis.get_ylabel() or figure.get_supylabel(), name


def test_a_notebook_shows_a_figure_as_svg_with_its_words():
    figure = figures.rank_histogram({"lrurec": np.array([1, 5])})
    figure.alt_text += ' "quoted" <tag>'
    page = figures.as_html(figure)
    source, words = re.fullmatch(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)">', page).groups()
    assert b"<svg" in base64.b64decode(source)
    assert html.unescape(words) == figure.alt_text
    assert "<tag>" not in page
    assert figures.as_html(figure) == page


def test_every_figure_is_on_white_so_that_its_labels_read_on_a_dark_page_too():
    for name, figure in every_figure().items():
        assert mpl.colors.to_hex(figure.get_facecolor()) == "#ffffff", name


def test_files_are_the_same_when_drawn_again(tmp_path):
    for name, figure in every_figure().items():
        figures.save_figure(figure, tmp_path / "first" / name)
    for name, figure in every_figure().items():
        figures.save_figure(figure, tmp_path / "second" / name)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert len(files) == 5 * 3
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_popularity_counts_each_item_that_occurs():
    right = figures.sequence_lengths_and_popularity(dataset()).axes[1]
    assert right.lines[0].get_ydata().tolist() == [4, 3, 2, 1]
    assert right.get_xscale() == right.get_yscale() == "log"


def test_histories_of_one_length_can_be_drawn_too(tmp_path):
    same = SimpleNamespace(name="same", items=np.array([1, 2, 1, 2]), offsets=np.array([0, 2, 4]), n_items=2)
    figures.save_figure(figures.sequence_lengths_and_popularity(same), tmp_path / "same")
    assert (tmp_path / "same.svg").stat().st_size > 0


def test_training_curve_skips_what_was_not_measured_and_marks_the_best():
    figure = figures.training_curve(curve(), x="iteration", metric="ndcg@10")
    upper, lower = figure.axes
    assert len(upper.lines[0].get_xdata()) == 3
    assert lower.lines[0].get_xdata().tolist() == [100, 300]
    assert lower.lines[1].get_xdata().tolist() == [300]
    assert lower.get_ylabel() == "validation\nNDCG@10"
    assert "best validation is 0.0400 at iteration 300" in figure.alt_text


@pytest.mark.parametrize(("warmed_up", "best"), [(False, 20), (True, 0)])
def test_what_was_validated_before_training_is_marked_only_after_a_warmup(warmed_up, best):
    frame = pd.DataFrame({"step": [0, 10, 20], "training_loss": [None, 2.0, 1.5], "ndcg@10": [0.6, 0.3, 0.4]})
    figure = figures.training_curve(frame, x="step", metric="ndcg@10", warmed_up=warmed_up)
    assert figure.axes[1].lines[1].get_xdata().tolist() == [best]
    with pytest.raises(InputError, match="lacks the column 'step'"):
        figures.training_curve(curve(), x="step", metric="ndcg@10")


def test_rank_histogram_shares_add_up_with_those_beyond():
    figure = figures.rank_histogram({"lrurec": np.array([1, 5, 5, 90])})
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights[0] == 0.25
    assert heights[4] == 0.5
    assert sum(heights) == 0.75
    assert "25% beyond 20" in figure.axes[0].get_title()
    with pytest.raises(InputError, match="no ranks to plot"):
        figures.rank_histogram({})


def test_metric_bars_show_measured_interval_and_published():
    axis = figures.metric_bars(results(), metrics=["MRR@5", "NDCG@10"]).axes[0]
    assert axis.get_title() == "games"
    assert [container.get_label() for container in axis.containers if len(container) == 2] == [
        "Random order",
        "LRURec",
        "LlamaRec",
    ]
    assert {bar.get_height() for bar in axis.patches} == {0.03, 0.05, 0.06}
    assert [line.get_ydata().tolist() for line in axis.lines if line.get_marker() == "D"] == [[0.07, 0.07]]
    with pytest.raises(InputError, match="subset 'retrieved'"):
        figures.metric_bars(results(), subset="retrieved")


def test_candidates_are_shortened_highlighted_and_never_read_as_formulas():
    axis = candidates().axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels[19].startswith(r"The \$5 and the \$10 Film")
    assert labels[19].endswith("…")
    assert [label.get_fontweight() for label in axis.get_yticklabels()].count("bold") == 1
    assert axis.lines[0].get_xdata()[0] == 1 / 20


def test_a_user_whose_target_was_not_retrieved_has_no_highlight():
    figure = candidates(target=None)
    assert "target" not in [text.get_text() for text in figure.legends[0].get_texts()]
    with pytest.raises(InputError, match="20 titles and 19 and 20 probabilities"):
        candidates(before=np.full(19, 0.05))
