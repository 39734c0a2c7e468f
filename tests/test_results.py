"""What is committed under `results/` and shown in the book belongs to the committed sources."""

import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

from llamarec_core.evaluation import published
from llamarec_core.files import sha256
from llamarec_core.grid import Grid, grid_table, run_name
from llamarec_core.provenance import notebook_hash
from llamarec_core.report import ablation_table, results_table, retrieval_table
from llamarec_core.settings import load_profile
from llamarec_core.study import load_ablations, load_ranks

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTED = sorted((ROOT / "results").glob("*/notebooks/**/*.ipynb"))


def test_the_studys_notebooks_are_committed_as_they_ran():
    study = ["1_data", "2_retriever", "3_ranker", "4_results", "status"]
    assert sorted(path.stem for path in EXECUTED if "quick" in path.parts) == study
    assert {path.stem for path in EXECUTED} <= {path.stem for path in SOURCES}


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: str(path.relative_to(ROOT / "results")))
def test_an_executed_notebook_is_that_of_its_source_and_profile(path):
    profile = path.relative_to(ROOT / "results").parts[0]
    records = json.loads((path.parent / "provenance.json").read_text())
    record = next(record for name, record in records.items() if name.startswith(path.stem))
    source = notebook_hash(ROOT / "notebooks" / path.name)
    assert notebook_hash(path) == source, f"{path} is older than its source: run `make study PROFILE={profile}`"
    assert record["notebook_sha256"] == source
    if path.stem[:2] in ("1_", "2_"):  # what comes before the ranker does not read the ranker's settings
        assert before_the_ranker(record["settings"]) == before_the_ranker(settings_of(profile, record))
    else:
        assert record["profile_sha256"] == sha256(ROOT / "notebooks" / "profiles" / f"{profile}.yaml")


def settings_of(profile, record):
    """The settings that a run would record now."""
    settings = load_profile(ROOT / "notebooks" / "profiles" / f"{profile}.yaml")
    if "dataset" in record["parameters"]:
        settings = settings.for_dataset(record["parameters"]["dataset"])
    return json.loads(settings.model_dump_json())


def before_the_ranker(settings):
    return {name: settings[name] for name in ("retriever", "grid")}


def test_the_committed_results_were_measured_from_a_clean_tree():
    for file in (ROOT / "results").rglob("provenance.json"):
        for name, record in json.loads(file.read_text()).items():
            assert record["git_dirty"] is False, f"{name} in {file}"


def test_every_committed_artefact_has_the_hash_of_its_provenance():
    for file in (ROOT / "results").rglob("provenance.json"):
        for record in json.loads(file.read_text()).values():
            for name, digest in record["artefacts"].items():
                assert sha256(file.parent / name) == digest, file.parent / name


def test_the_committed_tables_follow_from_the_committed_ranks():
    results = ROOT / "results" / "quick"
    profile = load_profile(ROOT / "notebooks" / "profiles" / "quick.yaml")
    ranks, commit = load_ranks(results, datasets=profile.datasets)
    table = results_table(
        ranks,
        published=published(ROOT / "results" / "published"),
        samples=profile.evaluation.bootstrap_samples,
        seed=profile.seed,
        commit=commit,
        candidates=profile.ranker.candidates,
    )
    for name, subset in (("table1", "all"), ("table3", "retrieved")):
        assert_same(results / "tables" / f"{name}.csv", table[table["subset"] == subset])


def test_the_variants_table_follows_from_the_committed_ranks():
    results = ROOT / "results" / "small"
    profile = load_profile(ROOT / "notebooks" / "profiles" / "small.yaml")
    ablations = load_ablations(results, datasets=profile.datasets)
    assert list(ablations) == list(profile.evaluation.ablation_datasets)
    for dataset, frame in ablations.items():
        file = results / "tables" / f"ranker_{dataset}.csv"
        sampling = {"samples": profile.evaluation.bootstrap_samples, "seed": profile.seed}
        commit = pd.read_csv(file)["commit"].iloc[0]
        assert_same(file, ablation_table(frame, dataset=dataset, commit=commit, **sampling))


def assert_same(file, table):
    # files hold six significant digits
    pd.testing.assert_frame_equal(pd.read_csv(file), table.reset_index(drop=True), rtol=1e-5, check_dtype=False)


def test_the_retrieval_table_follows_from_the_committed_ranks():
    results = ROOT / "results" / "small"
    profile = load_profile(ROOT / "notebooks" / "profiles" / "small.yaml")
    ranks, commit = load_ranks(results / "grid", datasets=profile.datasets)
    again = retrieval_table(
        {key: frame for key, frame in ranks.items() if "validated" not in key[1]},
        published=published(ROOT / "results" / "published"),
        samples=profile.evaluation.bootstrap_samples,
        seed=profile.seed,
        commit=commit,
    )
    committed = pd.read_csv(results / "tables" / "table1_retrieval.csv")
    pd.testing.assert_frame_equal(committed, again, rtol=1e-5, check_dtype=False)


def test_table_2_has_the_papers_counts():
    table = pd.read_csv(ROOT / "results" / "small" / "tables" / "table2_retrieval.csv").set_index(
        ["dataset", "quantity"]
    )["measured"]
    counts = {name: tuple(table[name][["users", "items"]]) for name in ("ml-100k", "beauty", "games")}
    assert counts == {"ml-100k": (610, 3650), "beauty": (22332, 12086), "games": (15264, 7676)}


def test_the_grids_records_are_of_the_settings_that_the_profile_names():
    profile = load_profile(ROOT / "notebooks" / "profiles" / "small.yaml")
    table = grid_table(profile, root=ROOT)
    assert table["recall@10"].notna().all()
    for row in table.itertuples():
        grid = Grid(profile, row.dataset, row.method, ROOT)
        settings = grid.retriever(weight_decay=row.weight_decay, dropout=row.dropout)
        record = json.loads(grid.record_file(run_name(settings, seed=row.seed)).read_text())
        assert record["settings"] == settings.model_dump()
        assert record["git_dirty"] is False


@pytest.mark.parametrize(("dataset", "factor"), [("ml-100k", 3), ("beauty", 6)])
def test_a_training_step_is_as_much_faster_than_the_published_form_as_required(dataset, factor):
    bench = pd.read_csv(ROOT / "results" / "bench" / "retriever.csv")
    ours = bench[bench["case"].str.startswith(f"training step, {dataset},") & (bench["variant"] == "ours")]
    assert ours["ratio_to_reference"].item() >= factor


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_source_notebook_is_short_commented_and_without_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert max(len(cell.source.splitlines()) for cell in code) <= 15
    assert all("hide-input" in cell.metadata.tags for cell in code)
    (parameters,) = (cell for cell in code if "parameters" in cell.metadata.tags)
    assert all("  # " in line for line in parameters.source.splitlines())


def test_every_page_of_the_contents_exists():
    def pages(entry):
        yield entry["file"]
        for section in entry.get("sections", []):
            yield from pages(section)

    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [page for part in contents["parts"] for chapter in part["chapters"] for page in pages(chapter)]
    for page in [contents["root"], *files]:
        assert list(ROOT.glob(f"{page}.*")), page
