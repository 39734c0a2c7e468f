"""Figures: labelled axes, words for those who cannot see them, tooltips, and files that never change by themselves."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from llamarec_core import report
from llamarec_core.evaluation import published_inference_times
from llamarec_core.files import InputError
from llamarec_core.report.figures import INK, alt_text, as_html
from tests.conftest import ROOT

RESULTS = ROOT / "results"


def committed(name):
    return pd.read_csv(RESULTS / "small" / "tables" / f"{name}.csv")


def dataset(items=(1, 2, 3, 1, 2, 1, 1, 2, 3, 4), offsets=(0, 3, 5, 10)):
    return SimpleNamespace(name="tiny", items=np.array(items, dtype=np.int32), offsets=np.array(offsets), n_items=5)


def tuning():
    ndcg = 0.25 + 0.02 * np.arange(4)
    measured = {"ndcg@10": ndcg, "ndcg@10_with_retriever": ndcg + 0.1, "ndcg@10_shuffled": [np.nan, *ndcg[1:]]}
    return pd.DataFrame({"answers": [0, 1000, 4000, 100_000], "nats": [0, 0.01, 0.1, 0.2], **measured})


def training(last=0.08):
    measured = {"recall@10": [0.05, np.nan, last], "ndcg@10": [0.02, np.nan, 0.04]}
    return pd.DataFrame({"step": [100, 200, 300], "training_loss": [7.0, 6.5, 6.1], **measured})


def candidates():
    titles = [f"Film {number}" for number in range(19)] + ["The $5 and the $10 Film: A Subtitle That Will Not Fit"]
    after = np.full(20, 0.5 / 19)
    after[3] = 0.5
    return report.candidate_probabilities(titles, before=np.full(20, 0.05), after=after, target=3)


@pytest.fixture(scope="module", autouse=True)
def figures():
    report.set_theme()
    grid = committed("grid").astype({"chosen": bool})
    gains = pd.DataFrame({"dataset": ["ml-100k", "beauty"], "published": [0.04, 0.016], "measured": [0.01, -0.02]})
    served = pd.DataFrame({"history": [50, 2000], "median_seconds": [0.001, 0.002]})
    plain = {"caption": "Seconds against the length of the history.", "labels": ("history", "seconds"), "log": "xy"}
    curve = pd.DataFrame({"epoch": [1, 2, 3], "recall@10": [0.1, 0.3, 0.2]})
    times = published_inference_times(RESULTS / "published")
    inference = pd.read_csv(RESULTS / "bench" / "inference_time.csv")
    return {
        "gains": report.gains_forest(gains.assign(ci_low=-0.03, ci_high=0.02)),
        "results": report.forest(committed("table3"), metrics=["NDCG@10"], subset="retrieved"),
        "retrieval": report.forest(committed("table1_retrieval")),
        "ablations": report.ablation_forest(committed("ranker_games")),
        "data": report.sequence_lengths_and_popularity(dataset()),
        "training": report.training_curve(training(), x="step", metric="recall@10"),
        "learning": report.learning_curve({"beauty": tuning()}, {"beauty": {"LRURec": 0.37}}),
        "ranks": report.rank_histogram({"lrurec": np.array([1, 5, 20, 90]), "llamarec": np.array([1, 1, 2, 90])}),
        "candidates": candidates(),
        "grid": report.grid_panels(grid),
        "validation": report.validation_curves({("beauty", "lrurec"): curve}),
        "noise": report.noise_sizes(committed("noise")),
        "strategies": report.quality_against_latency(committed("strategies")),
        "times": report.inference_times(inference, published=times),
        "lines": report.line_panels({"": {"one step": served}}, "history", "median_seconds", **plain),
        "index": report.index_curves(pd.read_csv(RESULTS / "bench" / "retriever_recall.csv")),
    }


def test_every_figure_names_its_axes_and_says_in_words_what_it_shows(figures):
    for name, figure in figures.items():
        assert isinstance(figure, Figure), name
        assert len(figure.caption.split()) >= 5, name
        assert alt_text(figure).startswith(figure.caption), name
        assert re.search(r"\d", alt_text(figure)), name
        for axis in figure.axes:
            alike = axis.get_shared_x_axes().get_siblings(axis)
            assert figure.get_supxlabel() or any(other.get_xlabel() for other in alike), name
            beside = axis.get_shared_y_axes().get_siblings(axis)
            ticks = [label.get_text() for other in beside for label in other.get_yticklabels()]
            named = any(other.get_ylabel() or other.get_title() for other in beside)
            assert named or figure.get_supylabel() or any(ticks), name


def test_no_axis_of_a_metric_magnifies_what_is_no_difference():
    flat = report.training_curve(training(last=0.0501), x="step", metric="recall@10").axes[1].get_ylim()
    assert flat[1] - flat[0] == pytest.approx(0.02)
    one = pd.DataFrame({"dataset": ["games"], "published": [0.0101], "measured": [0.01], "ci_low": [0.0099]})
    gain = report.gains_forest(one.assign(ci_high=0.0101)).axes[0].get_xlim()
    assert gain[1] - gain[0] >= 0.01


def test_no_text_of_a_figure_stands_over_another_or_over_the_edge(figures):
    for name, figure in figures.items():
        FigureCanvasAgg(figure).draw()
        both = [(axis.get_xticklabels, axis.get_yticklabels) for axis in figure.axes]
        ticks = {label for pair in both for labels in pair for label in labels(which="both")}
        texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text not in ticks]
        boxes = [text.get_window_extent() for text in texts if text.get_visible()]
        assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place]), name
        assert all(figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1 for box in boxes), name


def test_a_page_shows_a_figure_with_its_caption_in_the_pages_own_colour_and_with_tooltips(figures):
    page = as_html(figures["strategies"])
    drawn = BeautifulSoup(page, "html.parser")
    assert drawn.figcaption.get_text() == figures["strategies"].caption
    assert (drawn.svg["role"], drawn.svg["aria-label"]) == ("img", alt_text(figures["strategies"]))
    assert (INK in page, "currentColor" in page) == (False, True)
    tips = [title.get_text() for title in drawn.find_all("title")]
    assert any(re.match(r"beauty, PALR, tuned: 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] at \d\.\d\d s", tip) for tip in tips)
    own, others = (set(re.findall(r' id="([^"]+)"', drawn)) for drawn in (page, as_html(figures["retrieval"])))
    assert not own & others
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert {name for pair in used for name in pair if name} <= own
    figure = report.rank_histogram({"lrurec": np.array([1, 5])})
    figure.caption = 'Say "quoted" <tag>'
    assert "<tag>" not in as_html(figure)
    assert BeautifulSoup(as_html(figure), "html.parser").svg["aria-label"] == alt_text(figure)


def test_files_are_the_same_when_drawn_again(tmp_path):
    once, again = (report.save_figure(candidates(), tmp_path / folder / "figure") for folder in ("once", "again"))
    assert [file.suffix for file in once] == [".png", ".pdf", ".svg"]
    for first, second in zip(once, again, strict=True):
        assert first.read_bytes() == second.read_bytes(), first


def test_data_counts_each_item_that_occurs_and_histories_of_one_length_can_be_drawn():
    right = report.sequence_lengths_and_popularity(dataset()).axes[1]
    assert right.lines[0].get_ydata().tolist() == [4, 3, 2, 1]
    assert report.sequence_lengths_and_popularity(dataset((1, 2, 1, 2), (0, 2, 4))).axes


def test_training_curve_skips_what_was_not_measured_and_marks_the_best(figures):
    upper, lower = figures["training"].axes
    assert len(upper.lines[0].get_xdata()) == 3
    assert lower.lines[0].get_xdata().tolist() == [100, 300]
    assert lower.lines[1].get_xdata().tolist() == [300]
    assert "0.08 at 300" in alt_text(figures["training"])


def test_learning_curve_shows_what_was_learnt_beside_what_needs_no_language_model(figures):
    nats, ndcg = figures["learning"].axes
    assert nats.lines[0].get_ydata().tolist() == [0, 0.01, 0.1, 0.2]
    names = ["alone", "with the retriever's score", "candidates shuffled", "LRURec"]
    assert [line.get_label() for line in ndcg.lines] == names
    assert ndcg.lines[2].get_xdata().tolist() == [1000, 4000, 100_000]
    assert ndcg.lines[3].get_ydata().tolist() == [0.37, 0.37]
    assert [label.get_text() for label in ndcg.get_xticklabels()] == ["0", "1k", "10k", "100k"]
    old = report.learning_curve({"games": tuning()[["answers", "ndcg@10"]]}, {})
    assert [len(axis.lines) for axis in old.axes] == [0, 1]


def test_rank_histogram_shares_add_up_with_those_beyond():
    axis = report.rank_histogram({"lrurec": np.array([1, 5, 5, 90])}).axes[0]
    assert [bar.get_height() for bar in axis.patches] == [0.25, 0, 0, 0, 0.5, *[0] * 15]
    assert "25% beyond 20" in axis.get_title()


def test_forests_show_ours_the_interval_and_the_published_value(figures):
    words = alt_text(figures["retrieval"])
    assert re.search(r"beauty, Recall@10, LRURec: ours 0\.\d{4} \[0\.\d{4}, 0\.\d{4}\], published 0\.0916", words)
    diamonds = [line for line in figures["gains"].axes[0].lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in diamonds] == [0.04, 0.016]
    assert len(figures["ablations"].axes) == committed("ranker_games")["group"].nunique()
    gains = pd.DataFrame({"dataset": ["games"], "published": 0.04, "measured": np.nan, "ci_low": np.nan})
    assert "over LRURec, Games: published 0.0400" in alt_text(report.gains_forest(gains.assign(ci_high=np.nan)))


def test_candidates_are_shortened_highlighted_and_never_read_as_formulas():
    axis = candidates().axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert re.fullmatch(r"The \\\$5 and the \\\$10 Film.*…", labels[19])
    assert [label.get_fontweight() for label in axis.get_yticklabels()].count("bold") == 1


def test_a_table_without_what_is_to_be_shown_is_refused():
    table = committed("strategies")
    with pytest.raises(InputError, match="holds no times"):
        report.quality_against_latency(table[table["metric"] != "seconds_p50"])
    with pytest.raises(InputError, match="subset 'retrieved'"):
        report.forest(committed("table1"), subset="retrieved")
