"""What is committed under `results/` is what the book shows; `llamarec verify` says that it follows from the ranks."""

import nbformat
import pandas as pd
import pytest

from llamarec_core.evaluation import measured_inference_times
from tests.conftest import ROOT

SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTED = sorted((ROOT / "results").glob("*/notebooks/**/*.ipynb"))


def test_the_studys_notebooks_are_committed_as_they_ran_with_the_papers_counts_and_the_whole_grid():
    study = {"1_data", "2_retriever", "3_ranker", "4_results"}
    assert study <= {path.stem for path in EXECUTED if "quick" in path.parts}
    tables = ROOT / "results" / "small" / "tables"
    table2 = pd.read_csv(tables / "table2_retrieval.csv", index_col=[0, 1])["measured"]
    counts = {name: tuple(table2[name][["users", "items"]]) for name in ("ml-100k", "beauty", "games")}
    assert counts == {"ml-100k": (610, 3650), "beauty": (22332, 12086), "games": (15264, 7676)}
    assert pd.read_csv(tables / "grid.csv")["recall@10"].notna().all()


def test_the_page_on_ties_shows_the_committed_tables():
    page, tables = (ROOT / "book" / "ties.md").read_text(), ROOT / "results" / "small" / "tables"
    for row in pd.read_csv(tables / "ties.csv").itertuples():
        cell = f"{row.measured:.4f} [{row.ci_low:.4f}, {row.ci_high:.4f}], {100 * row.same_target:.0f} %"
        assert cell in page
    validation = pd.read_csv(tables / "validation_as_published.csv").query("metric in ('NDCG@10', 'Recall@10')")
    for row in validation[validation["ci_low"] != validation["ci_high"]].itertuples():
        cell = f"{row.difference:.4f} [{row.ci_low:.4f}, {row.ci_high:.4f}] | {row.p_value:.2f}"
        assert cell.replace("-", "\N{MINUS SIGN}") in page


def test_training_and_ranking_are_as_fast_as_required():
    bench = ROOT / "results" / "bench"
    retriever, ranker = (pd.read_csv(bench / f"{name}.csv") for name in ("retriever", "ranker"))
    for dataset, factor in (("ml-100k", 3), ("beauty", 6)):
        step = retriever[retriever["case"].str.startswith(f"training step, {dataset},")]
        assert step.set_index("variant")["ratio_to_reference"]["ours"] >= factor  # faster than the published form
    many = ranker.dropna(subset="share_of_matmul_rate").set_index("variant")
    for precision, share in (("float32", 0.6), ("bfloat16", 0.5)):
        assert many["share_of_matmul_rate"][f"ours, {precision}"] >= share
        assert many["ratio_to_reference"][f"ours, {precision}"] >= 1.5
    one = ranker[ranker["case"].str.startswith("ranking one request")].set_index("variant")["ratio_to_reference"]
    assert one.index[0] == "generating the list, float32"  # the reference, in its fastest precision
    assert one.filter(like="ours").max() >= 10
    times = measured_inference_times(bench).set_index(["method", "mean_title_length_tokens"])["seconds"]
    assert times["Llama CausalLM", 20] >= 10 * times["LlamaRec", 20]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_source_notebook_is_short_commented_and_without_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert max(len(cell.source.splitlines()) for cell in code) <= 15
    assert all("hide-input" in cell.metadata.tags for cell in code)
    (parameters,) = (cell for cell in code if "parameters" in cell.metadata.tags)
    assert all("  # " in line for line in parameters.source.splitlines())
