"""Candidates and ranks: worked by hand, against a plain sort, and the files they are kept in."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from llamarec_core.files import InputError
from llamarec_core.retrieval import (
    SequentialRecommender,
    popularity_scores,
    ranks_of,
    read_candidates,
    read_ranks,
    retrieve,
    target_ranks,
    top_candidates,
    write_candidates,
    write_ranks,
)


class FixedScores(SequentialRecommender):
    """A retriever that scores the items by a table: one row for each last item of the history."""

    def __init__(self, table: torch.Tensor):
        nn.Module.__init__(self)
        self.table = nn.Parameter(table)
        self.seen: list[torch.Tensor] = []

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        self.seen.append(sequences)
        return sequences[..., None].float()

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        scores = self.table[hidden[..., 0].long()].clone()
        scores[..., 0] = -torch.inf
        return scores


def fixed(*scores: float) -> FixedScores:
    """The same scores of items 1, 2, … whatever the history."""
    return FixedScores(torch.tensor([[0.0, *scores]]).expand(len(scores) + 1, -1))


@pytest.fixture
def random_case(make_dataset):
    """Twenty users, thirty items, and scores of which many are equal."""
    rng = np.random.default_rng(5)
    sequences = [list(rng.integers(1, 31, rng.integers(3, 12))) for _ in range(20)]
    table = torch.from_numpy(rng.integers(0, 6, (31, 31)).astype(np.float32))
    return make_dataset(*sequences, n_items=30), FixedScores(table)


def test_ranks_and_candidates_worked_by_hand(make_dataset):
    # history for the test 1, 2, 3; target 5; scores 9 8 7 | 1 5 5 6 for items 1 2 3 | 4 5 6 7
    dataset = make_dataset([1, 2, 3, 5], n_items=7)
    row = retrieve(fixed(9, 8, 7, 1, 5, 5, 6), dataset, "test", k=3, max_length=10).iloc[0]
    assert (row["user"], row["split"], row["target"], row["rank"]) == (0, "test", 5, 2)
    assert list(row["items"]) == [7, 5, 6]
    assert list(row["scores"]) == [6, 5, 5]


def test_among_equal_scores_the_smaller_item_id_comes_first(make_dataset):
    dataset = make_dataset([1, 2, 6], [1, 2, 3], n_items=6)
    candidates = retrieve(fixed(4, 4, 4, 4, 4, 4), dataset, "test", k=4, max_length=10)
    assert list(candidates["rank"]) == [4, 1]
    assert [list(items) for items in candidates["items"]] == [[3, 4, 5, 6]] * 2


def test_the_validation_target_is_ranked_from_the_history_before_it(make_dataset):
    dataset = make_dataset([1, 2, 3, 4], n_items=5)
    row = retrieve(fixed(5, 4, 1, 2, 3), dataset, "validation", k=3, max_length=10).iloc[0]
    assert (row["target"], row["rank"], list(row["items"])) == (3, 3, [5, 4, 3])


def test_a_target_that_the_history_holds_still_counts(make_dataset):
    dataset = make_dataset([1, 2, 3, 1], n_items=5)
    row = retrieve(fixed(2, 9, 9, 1, 3), dataset, "test", k=3, max_length=10).iloc[0]
    assert (row["target"], row["rank"], list(row["items"])) == (1, 2, [5, 1, 4])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_against_a_plain_sort_of_the_whole_catalogue(random_case, split):
    dataset, model = random_case
    candidates = retrieve(model, dataset, split, k=10, max_length=50)
    for user, row in candidates.iterrows():
        history, target = dataset.history(user, split), dataset.targets(split)[user]
        eligible = [item for item in range(1, 31) if item not in history or item == target]
        scores = model.table[history[-1]].tolist()
        expected = sorted(eligible, key=lambda item: (-scores[item], item))
        assert list(row["items"]) == expected[:10]
        assert list(row["scores"]) == [scores[item] for item in expected[:10]]
        assert row["rank"] == expected.index(target) + 1


def test_the_target_stands_at_its_rank_among_the_candidates_or_below_them(random_case):
    dataset, model = random_case
    candidates = retrieve(model, dataset, "test", k=10, max_length=50)
    retrieved = candidates["rank"] <= 10
    assert 0 < retrieved.sum() < len(candidates)
    for row in candidates[retrieved].itertuples():
        assert row.items[row.rank - 1] == row.target
    for row in candidates[~retrieved].itertuples():
        assert row.target not in row.items


def test_the_batch_size_changes_nothing(random_case):
    dataset, model = random_case
    whole = retrieve(model, dataset, "test", k=10, max_length=50, batch_size=20)
    parts = retrieve(model, dataset, "test", k=10, max_length=50, batch_size=3)
    pd.testing.assert_frame_equal(whole, parts)
    assert list(target_ranks(model, dataset, "test", max_length=50, batch_size=3)) == list(whole["rank"])


def test_the_model_reads_the_most_recent_items_and_the_whole_history_is_excluded(make_dataset):
    dataset = make_dataset([1, 2, 3, 4, 5], [6, 5, 4], n_items=8)
    model = fixed(8, 7, 6, 5, 4, 3, 2, 1)
    candidates = retrieve(model, dataset, "test", k=2, max_length=3)
    assert model.seen[0].tolist() == [[6, 5, 0], [2, 3, 4]]  # short histories first
    assert list(candidates["items"][0]) == [5, 6]  # item 1 is out of the model's sight, yet not recommended


def test_the_candidates_of_one_history_are_those_of_the_user_who_has_it(make_dataset):
    dataset = make_dataset([1, 2, 3, 8], n_items=9)
    model = fixed(9, 8, 7, 1, 5, 5, 6, 2, 3)
    top = top_candidates(model, np.array([1, 2, 3]), max_length=2, k=4)
    assert list(top) == [7, 5, 6, 9]
    assert list(top) == list(retrieve(model, dataset, "test", max_length=2, k=4)["items"][0])
    assert model.seen[0].tolist() == [[2, 3]]
    with pytest.raises(InputError, match="Fewer than 7 items"):
        top_candidates(model, np.array([1, 2, 3]), max_length=2, k=7)


def test_too_many_candidates_for_the_catalogue_are_refused(make_dataset):
    dataset = make_dataset([1, 2, 3], [1, 2, 1, 3, 4, 5], n_items=6)
    with pytest.raises(InputError, match="User 1 of small has fewer than 3 items outside the history"):
        retrieve(fixed(1, 1, 1, 1, 1, 1), dataset, "test", k=3, max_length=10)
    with pytest.raises(InputError, match="small has 6 items, but 7 a user are to be kept"):
        retrieve(fixed(1, 1, 1, 1, 1, 1), dataset, "test", k=7, max_length=10)


def test_scores_that_are_not_numbers_are_refused(make_dataset):
    dataset = make_dataset([1, 2, 3], n_items=3)
    for scores in ((1, 1, torch.nan), (torch.nan, 1, 1)):  # of the target, and of another item
        with pytest.raises(InputError, match="not finite numbers"):
            retrieve(fixed(*scores), dataset, "test", k=1, max_length=10)


def test_popularity_counts_training_interactions_only(make_dataset):
    dataset = make_dataset([1, 1, 2, 3, 4], [2, 1, 4], n_items=5)
    assert list(popularity_scores(dataset)) == [0, 2, 2, 0, 0, 0]


def test_a_candidates_file_holds_both_splits(random_case, tmp_path):
    dataset, model = random_case
    frames = [retrieve(model, dataset, split, k=5, max_length=50) for split in ("validation", "test")]
    write_candidates(pd.concat(frames), tmp_path / "candidates.parquet")
    both = read_candidates(tmp_path / "candidates.parquet")
    test = read_candidates(tmp_path / "candidates.parquet", "test")
    assert len(both) == 2 * len(test) == 40
    for column in ("user", "split", "target", "rank"):
        assert list(test[column]) == list(frames[1][column])
    assert np.array_equal(np.stack(test["items"]), np.stack(frames[1]["items"]))
    assert np.array_equal(np.stack(test["scores"]), np.stack(frames[1]["scores"]))


def test_a_split_that_the_file_lacks_is_named(random_case, tmp_path):
    dataset, model = random_case
    write_candidates(retrieve(model, dataset, "test", k=5, max_length=50), tmp_path / "candidates.parquet")
    with pytest.raises(InputError, match="no candidates of split 'validation'"):
        read_candidates(tmp_path / "candidates.parquet", "validation")


def test_a_ranks_file_comes_back_and_the_same_ranks_are_the_same_bytes(random_case, tmp_path):
    dataset, model = random_case
    ranks = ranks_of(retrieve(model, dataset, "test", max_length=50, k=5))
    write_ranks(ranks, tmp_path / "a.parquet")
    write_ranks(ranks[::-1][::-1].astype("int64"), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    pd.testing.assert_frame_equal(read_ranks(tmp_path / "a.parquet"), ranks)
    assert list(ranks.columns) == ["user", "target", "rank"]
    assert set(ranks.dtypes) == {np.dtype("int32")}


@pytest.mark.parametrize(("users", "ranks"), [([0, 0], [1, 1]), ([0, 1], [1, 0])])
def test_ranks_that_cannot_be_right_are_not_written(users, ranks, tmp_path):
    frame = pd.DataFrame({"user": users, "target": [1, 2], "rank": ranks})
    with pytest.raises(InputError, match=r"ranks\.parquet would hold"):
        write_ranks(frame, tmp_path / "ranks.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read", [read_ranks, read_candidates])
def test_a_file_that_is_not_what_it_should_be_is_refused(read, tmp_path):
    with pytest.raises(InputError, match="missing"):
        read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("user,target,rank\n")
    with pytest.raises(InputError, match="not a parquet file"):
        read(tmp_path / "text.parquet")
    pq.write_table(pa.table({"user": [1], "target": [2]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="must have the columns user int32"):
        read(tmp_path / "other.parquet")
