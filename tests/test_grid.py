"""The grid: one recorded run a point, chosen on validation, tested once."""

import json
import shutil

import pandas as pd
import pytest

from llamarec_core import grid as grids
from llamarec_core.data import load_dataset
from llamarec_core.files import InputError
from llamarec_core.grid import Grid, grid_table, load_curves
from llamarec_core.retrieval import fit_retriever, read_ranks
from llamarec_core.settings import GridSettings, Profile

GRID = {"lrurec": {"mine": {"weight_decay": [0.0, 0.01], "dropout": [0.1], "seeds": 2}}}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The grid of a profile on a data set of one's own."""
    events = [(f"u{user}", f"i{(user + step) % 9}", step // 2) for user in range(12) for step in range(7)]
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    frame = pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"])
    frame.to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame({"item_id": [f"i{i}" for i in range(9)], "title": "T"}).to_csv(folder / "items.csv", index=False)
    monkeypatch.setenv("LLAMAREC_DATA", str(tmp_path / "data"))
    retriever = {"dim": 8, "max_length": 6, "batch_size": 4, "epochs": 2, "validate_every": 3, "patience": 2}
    profile = Profile(name="tiny", seed=5, datasets={"mine": {}}, retriever=retriever, grid=GRID)
    load_dataset("mine").save(tmp_path / "runs" / "tiny" / "mine" / "dataset")
    return Grid(profile, "mine", "lrurec", tmp_path)


def train_all(grid):
    return [grid.train(grid.retriever(**point), seed=5) for point in grid.settings.points()]


def test_every_point_leaves_a_record_and_its_curve_and_is_left_alone_afterwards(tiny):
    records = train_all(tiny)
    settings = tiny.retriever(weight_decay=0.0, dropout=0.1)
    file = tiny.record_file(settings, seed=5)
    path = "results/tiny/grid/records/mine/lrurec/decay0-dropout0.1-seed5.json"
    assert file.relative_to(tiny.root).as_posix() == path
    curve = pd.read_csv(file.with_suffix(".csv"))
    assert records[0]["recall@10"] == pytest.approx(curve["recall@10"].max())
    assert records[0]["method"] == "lrurec"
    before = file.stat().st_mtime_ns
    assert tiny.train(settings, seed=5) == records[0]
    assert file.stat().st_mtime_ns == before


def test_the_choice_is_made_on_validation_recall_alone_of_what_was_trained(tiny):
    tiny.train(tiny.retriever(weight_decay=0.01, dropout=0.1), seed=5)
    with pytest.raises(InputError, match="is missing: train all points of the grid first"):
        tiny.chosen()
    table = grid_table(tiny.profile, root=tiny.root)
    assert table["recall@10"].isna().tolist() == [True, False]
    assert table["chosen"].tolist() == [False, True]
    train_all(tiny)
    for place, recall in enumerate((0.3, 0.4)):
        file = tiny.record_file(tiny.retriever(**tiny.settings.points()[place]), seed=5)
        file.write_text(json.dumps(json.loads(file.read_text()) | {"recall@10": recall, "ndcg@10": 1 - recall}))
    assert tiny.chosen().weight_decay == 0.01
    assert grid_table(tiny.profile, root=tiny.root)["chosen"].tolist() == [False, True]
    assert list(load_curves(tiny.profile, root=tiny.root)) == [("mine", "lrurec")]


def test_a_record_of_other_settings_or_data_is_refused_and_left_alone(tiny):
    train_all(tiny)
    point = {"weight_decay": 0.0, "dropout": 0.1}
    file = tiny.record_file(tiny.retriever(**point), seed=5)
    before = file.read_bytes()
    with pytest.raises(InputError, match=r"decay0-dropout0.1-seed5.json was trained with dim = 8, .* has dim = 16: d"):
        tiny.train(tiny.retriever(**point, dim=16), seed=5)
    changed = tiny.profile.model_copy(update={"retriever": tiny.profile.retriever.changed({"epochs": 3})})
    with pytest.raises(InputError, match="was trained with epochs = 2, but this run has epochs = 3"):
        Grid(changed, "mine", "lrurec", tiny.root).chosen()
    assert file.read_bytes() == before
    file.write_text(json.dumps(json.loads(before) | {"data_sha256": "0" * 64}))
    with pytest.raises(InputError, match="seed5.json was trained on other data than 'mine' holds now: delete it"):
        tiny.train(tiny.retriever(**point), seed=5)
    shutil.rmtree(tiny.root / "runs")
    assert tiny.train(tiny.retriever(**point), seed=5)["data_sha256"] == "0" * 64  # nothing to compare with


def test_item_knn_stands_in_the_grid_beside_what_is_trained(tiny):
    grids_of = tiny.profile.grid | {"item_knn": {"mine": GridSettings(weight_decay=(0.0,), dropout=(0.0,))}}
    grid = Grid(tiny.profile.model_copy(update={"grid": grids_of}), "mine", "item_knn", tiny.root)
    record = grid.train(grid.retriever(weight_decay=0.0, dropout=0.0), seed=5)
    assert (record["parameters"], record["epochs"]) == (3, 0)
    path = grid.test(grid.chosen(), seed=5)
    assert (read_ranks(path)["target"] == load_dataset("mine").targets("test")).all()
    table = grid_table(grid.profile, root=tiny.root)
    assert table.loc[table["chosen"], "method"].tolist() == ["item_knn"]


def test_a_grid_that_is_not_there_or_not_trained_is_answered_by_its_remedy(tiny):
    with pytest.raises(InputError, match="No point of the grid of 'tiny' was trained: run `make grid` first"):
        load_curves(tiny.profile, root=tiny.root)
    with pytest.raises(InputError, match="Profile 'tiny' has no grid: add what to try under `grid`"):
        grid_table(tiny.profile.model_copy(update={"grid": {}}), root=tiny.root)
    with pytest.raises(InputError, match="Profile 'tiny' has no grid of narm on 'mine': add it under `grid`"):
        Grid(tiny.profile, "mine", "narm", tiny.root)
    with pytest.raises(InputError, match=r"^dropout: Input should be less than 1 \(given: 1.5\)\.$"):
        tiny.retriever(dropout=1.5)
    shutil.rmtree(tiny.root / "runs")
    with pytest.raises(InputError, match=r"run notebooks/1_data.ipynb for 'mine' first"):
        tiny.train(tiny.retriever(), seed=5)


def test_the_test_leaves_ranks_with_their_provenance_also_where_the_weights_were_cleared(tiny):
    train_all(tiny)
    path = tiny.test(tiny.chosen(), seed=5)
    before = path.read_bytes()
    assert path.relative_to(tiny.root).as_posix() == "results/tiny/grid/ranks/mine/lrurec-seed5.parquet"
    assert (read_ranks(path)["target"] == load_dataset("mine").targets("test")).all()
    record = json.loads((path.parent / "provenance.json").read_text())["lrurec-seed5"]
    assert record["command"] == "llamarec train mine lrurec --profile tiny --seed 5"
    (tiny.folder(tiny.chosen(), seed=5) / "retriever.safetensors").unlink()
    assert tiny.test(tiny.chosen(), seed=5).read_bytes() == before


def test_a_record_is_of_the_code_that_the_run_began_with(tiny, monkeypatch):
    record = tiny.train(tiny.retriever(), seed=6)
    recorded = json.loads((tiny.folder(tiny.retriever(), seed=6) / "circumstances.json").read_text())
    assert recorded.items() <= record.items()
    state = {"git_commit": "before", "git_dirty": False, "peak_memory_mib": 1}

    def edited_meanwhile(*arguments, **options):
        state["git_commit"] = "after"
        return fit_retriever(*arguments, **options)

    monkeypatch.setattr(grids, "circumstances", lambda root: dict(state))
    monkeypatch.setattr(grids, "fit_retriever", edited_meanwhile)
    folder = tiny.test(tiny.retriever(), seed=6).parent
    record = json.loads((folder / "provenance.json").read_text())["lrurec-seed6"]
    assert (record["git_commit"], record["peak_memory_mib"] > 1) == ("before", True)
