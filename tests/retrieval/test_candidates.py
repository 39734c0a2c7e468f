"""Candidates and ranks: worked by hand, against a plain sort, and the files they are kept in."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from llamarec_core import retrieval
from llamarec_core.files import InputError
from llamarec_core.retrieval import candidates as candidates_module
from llamarec_core.retrieval.candidates import CANDIDATES, RANKS
from llamarec_core.retrieval.recommender import SequentialRecommender
from tests.conftest import dataset_of


class FixedScores(SequentialRecommender):
    """A retriever that scores the items by a table: one row for each last item of the history."""

    def __init__(self, table: torch.Tensor, *, max_length: int = 50):
        nn.Module.__init__(self)
        self.max_length = max_length
        self.item_bias = nn.Parameter(torch.zeros(1))
        self.table = nn.Parameter(table)
        self.seen: list[torch.Tensor] = []

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        self.seen.append(sequences)
        return sequences[..., None].float()

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        scores = self.table[hidden[..., 0].long()].clone()
        scores[..., 0] = -torch.inf
        return scores


def fixed(*scores: float, **options: int) -> FixedScores:
    """The same scores of items 1, 2, … whatever the history."""
    return FixedScores(torch.tensor([[0.0, *scores]]).expand(len(scores) + 1, -1), **options)


@pytest.fixture
def random_case():
    """Twenty users, thirty items, and scores of which many are equal."""
    rng = np.random.default_rng(5)
    sequences = [list(rng.integers(1, 31, rng.integers(3, 12))) for _ in range(20)]
    table = torch.from_numpy(rng.integers(0, 6, (31, 31)).astype(np.float32))
    return dataset_of(*sequences, n_items=30), FixedScores(table)


def test_ranks_and_candidates_worked_by_hand():
    # history for the test 1, 2, 3; target 5; scores 9 8 7 | 1 5 5 6 for items 1 2 3 | 4 5 6 7
    dataset = dataset_of([1, 2, 3, 5], n_items=7)
    found = retrieval.retrieve(fixed(9, 8, 7, 1, 5, 5, 6), dataset, "test", k=3)
    assert (found.users.tolist(), found.targets.tolist(), found.ranks.tolist()) == ([0], [5], [2])
    assert found.items.tolist() == [[7, 5, 6]]
    assert found.scores.tolist() == [[6, 5, 5]]
    again = retrieval.retrieve(fixed(2, 9, 9, 1, 3), dataset_of([1, 2, 3, 1], n_items=5), "test", k=3)
    assert (again.targets[0], again.ranks[0], again.items[0].tolist()) == (1, 2, [5, 1, 4])  # held by the history
    # popularity counts training interactions only
    assert list(retrieval.popularity_scores(dataset_of([1, 1, 2, 3, 4], [2, 1, 4], n_items=5))) == [0, 2, 2, 0, 0, 0]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_against_a_plain_sort_of_the_whole_catalogue(random_case, split):
    dataset, model = random_case
    candidates = retrieval.retrieve(model, dataset, split, k=10)
    for user in range(dataset.n_users):
        history, target = dataset.history(user, split), dataset.targets(split)[user]
        eligible = [item for item in range(1, 31) if item not in history or item == target]
        scores = model.table[history[-1]].tolist()
        expected = sorted(eligible, key=lambda item: (-scores[item], item))
        assert candidates.items[user].tolist() == expected[:10]
        assert candidates.scores[user].tolist() == [scores[item] for item in expected[:10]]
        assert candidates.ranks[user] == expected.index(target) + 1
    assert 0 < (candidates.ranks <= 10).sum() < len(candidates)


def test_batches_change_nothing_and_some_users_have_the_ranks_that_they_have_among_all(random_case, monkeypatch):
    dataset, model = random_case
    whole = retrieval.retrieve(model, dataset, "test", k=10)
    monkeypatch.setattr(candidates_module, "BATCH_SIZE", 3)
    parts = retrieval.retrieve(model, dataset, "test", k=10)
    for name, column in vars(whole).items():
        assert np.array_equal(column, getattr(parts, name))
    assert retrieval.target_ranks(model, dataset, "test").tolist() == whole.ranks.tolist()
    some = retrieval.sampled_users(20, 7, "test")
    assert some.tolist() == sorted(set(some.tolist())) != retrieval.sampled_users(20, 7, "validation").tolist()
    assert retrieval.target_ranks(model, dataset, "test", users=some).tolist() == whole.ranks[some].tolist()
    assert np.array_equal(retrieval.retrieve(model, dataset, "test", k=10, users=some).items, whole.items[some])
    for more in (None, 99):
        assert retrieval.sampled_users(20, more, "test").tolist() == [*range(20)]


def test_the_model_reads_the_most_recent_items_and_the_whole_history_is_excluded():
    dataset = dataset_of([1, 2, 3, 4, 5], [6, 5, 4], n_items=8)
    model = fixed(8, 7, 6, 5, 4, 3, 2, 1, max_length=3)
    candidates = retrieval.retrieve(model, dataset, "test", k=2)
    assert model.seen[0].tolist() == [[6, 5, 0], [2, 3, 4]]  # short histories first
    assert candidates.items[0].tolist() == [5, 6]  # item 1 is out of the model's sight, yet not recommended


def test_too_many_candidates_and_scores_that_are_no_numbers_are_refused():
    dataset = dataset_of([1, 2, 3], [1, 2, 1, 3, 4, 5], n_items=6)
    with pytest.raises(InputError, match="User 1 of small has fewer than 3 items outside the history"):
        retrieval.retrieve(fixed(1, 1, 1, 1, 1, 1), dataset, "test", k=3)
    with pytest.raises(InputError, match="small has 6 items, but 7 a user are to be kept"):
        retrieval.retrieve(fixed(1, 1, 1, 1, 1, 1), dataset, "test", k=7)
    with pytest.raises(InputError, match="not finite numbers"):
        retrieval.retrieve(fixed(1, 1, 1, 1, torch.nan, 1), dataset, "test", k=1)


def test_a_candidates_file_holds_the_splits_that_were_written(random_case, tmp_path):
    dataset, model = random_case
    written = {split: retrieval.retrieve(model, dataset, split, k=5) for split in ("validation", "test")}
    retrieval.write_candidates(written, tmp_path / "candidates.parquet")
    for split, of_split in written.items():
        found = retrieval.load_candidates(tmp_path / "candidates.parquet", split)
        for name, column in vars(of_split).items():
            assert np.array_equal(column, getattr(found, name))
            assert column.dtype == getattr(found, name).dtype
    retrieval.write_candidates({"test": written["test"]}, tmp_path / "candidates.parquet")
    with pytest.raises(InputError, match="no candidates of split 'validation'"):
        retrieval.load_candidates(tmp_path / "candidates.parquet", "validation")


def test_a_ranks_file_comes_back_and_the_same_ranks_are_the_same_bytes(random_case, tmp_path):
    dataset, model = random_case
    ranks = retrieval.retrieve(model, dataset, "test", k=5).ranks_frame()
    retrieval.write_ranks(ranks, tmp_path / "a.parquet")
    retrieval.write_ranks(ranks[::-1][::-1].astype("int64"), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    pd.testing.assert_frame_equal(retrieval.read_ranks(tmp_path / "a.parquet"), ranks)
    assert list(ranks.columns) == ["user", "target", "rank"]
    assert set(ranks.dtypes) == {np.dtype("int32")}


@pytest.mark.parametrize("read", [retrieval.read_ranks, lambda path: retrieval.load_candidates(path, "test")])
def test_a_file_that_is_not_what_it_should_be_is_refused(read, tmp_path):
    with pytest.raises(InputError, match="missing"):
        read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("user,target,rank\n")
    pq.write_table(pa.table({"user": [1], "target": [2]}), tmp_path / "other.parquet")
    ranks = pd.DataFrame({"user": range(999), "target": 1, "rank": range(1, 1000)})
    retrieval.write_ranks(ranks, tmp_path / "page.parquet")
    content = bytearray((tmp_path / "page.parquet").read_bytes())
    content[40:200] = b"x" * 160
    (tmp_path / "page.parquet").write_bytes(content)
    for name in ("text", "other", "page"):
        with pytest.raises(InputError, match=rf"{name}\.parquet is damaged.*: delete it"):
            read(tmp_path / f"{name}.parquet")


@pytest.mark.parametrize(
    "fault",
    [
        {"user": [0, 0]},  # twice
        {"user": [0, None]},
        {"rank": [0, 3]},
        {"rank": [2, 3]},  # against the list of candidates
        {"target": [1, 1]},
        {"items": [[1, 2], [1]]},
        {"items": [[1, 2], [1, None]]},
        {"items": [[1, 2], None]},
        {"scores": [[1.0, 0.5], [1.0, float("nan")]]},
    ],
)
def test_what_no_step_writes_is_refused_where_it_is_read(fault, tmp_path):
    sound = {
        "user": [0, 1], "split": ["test"] * 2, "target": [1, 3], "rank": [1, 3],
        "items": [[1, 2], [1, 2]], "scores": [[1.0, 0.5]] * 2,
    }  # fmt: skip
    file = tmp_path / "candidates.parquet"
    pq.write_table(pa.table(sound, schema=CANDIDATES), file)
    assert retrieval.load_candidates(file, "test").ranks.tolist() == [1, 3]
    pq.write_table(pa.table(sound | fault, schema=CANDIDATES), file)
    with pytest.raises(InputError, match="candidates.parquet is damaged"):
        retrieval.load_candidates(file, "test")
    if fault.keys() <= {"user"} or fault.get("rank") == [0, 3]:
        pq.write_table(pa.table(sound | fault, schema=CANDIDATES).select(RANKS.names), file)
        with pytest.raises(InputError, match="candidates.parquet is damaged"):
            retrieval.read_ranks(file)
