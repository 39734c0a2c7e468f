import json

import numpy as np
import pandas as pd
import pytest

from llamarec_core.files import InputError
from llamarec_core.report import (
    ablation_table,
    training_table,
)

SAMPLING = {"dataset": "toys", "samples": 500, "seed": 0, "commit": "abc"}


def frame(group, variant, ranks, answers=None):
    users = np.arange(len(ranks))
    answers = np.zeros(len(ranks), dtype=int) if answers is None else answers
    return pd.DataFrame(
        {"group": group, "variant": variant, "user": users, "target": users + 1, "rank": ranks, "answer": answers}
    )


@pytest.fixture
def ranks():
    good, bad = np.ones(60, dtype=int), np.full(60, 3)
    first = np.tile([1, 2], 30)
    return pd.concat(
        [
            frame("order", "descending", bad, first),
            frame("order", "reversed", good, np.full(60, 4)),
            frame("order", "shuffled", bad, first),
            frame("floor", "popularity", bad),
        ]
    )


def test_each_variant_is_compared_with_the_first_of_its_group(ranks):
    table = ablation_table(ranks, **SAMPLING).set_index("method")
    assert table["reference"].tolist() == ["descending"] * 3 + ["popularity"]
    assert table["measured"].tolist() == [0.5, 1.0, 0.5, 0.5]  # 1 / log2(3 + 1) = 1/2
    assert table.loc["reversed", "difference"] == 0.5
    assert table.loc["shuffled", ["difference", "difference_low", "difference_high"]].tolist() == [0, 0, 0]
    assert table.loc["reversed", "p_holm"] == pytest.approx(2 / 501)  # the smaller of two p-values counts twice
    assert table.loc["shuffled", "p_holm"] == 1
    assert table.loc["reversed", "detectable"] == 0  # all users differ by the same
    assert table.loc[["descending", "popularity"], ["difference", "p_holm"]].isna().all(axis=None)
    assert table["first_label"].tolist()[:3] == [0.5, 0.0, 0.5]
    assert np.isnan(table.loc["popularity", "first_label"])
    assert set(table["users"]) == {60}


def test_other_users_are_refused(ranks):
    other = frame("order", "late", np.ones(59, dtype=int))
    with pytest.raises(InputError, match=r"The ranks of 'late' \(order\) hold other users"):
        ablation_table(pd.concat([ranks, other]), **SAMPLING)


def curve(ndcg):
    steps = np.arange(len(ndcg))
    losses = [None, *np.linspace(3, 2, len(ndcg) - 1)]
    return pd.DataFrame(
        {
            "step": steps, "answers": 40 * steps, "tokens": 1000 * steps,
            "seconds": 10.0 * steps,
            "training_loss": losses, "ndcg@10": ndcg, "ndcg@10_with_retriever": np.array(ndcg) + 0.1,
        }
    )  # fmt: skip


def test_the_training_table_says_what_was_read_and_reached(tmp_path):
    folder = tmp_path / "ranker"
    folder.mkdir()
    made = {"git_commit": "abc", "git_dirty": False, "peak_memory_mib": 2048}
    (folder / "circumstances.json").write_text(json.dumps(made))
    curve([0.6, 0.3, 0.5, 0.4]).to_csv(folder / "training.csv", index=False)
    (folder / "ranker.json").write_text(json.dumps({"best": {"ndcg@10": 0.5, "ndcg@10_with_retriever": 0.6}}))
    (row,) = training_table({"tuned": folder}).to_dict("records")
    assert [row[name] for name in ("tuning", "answers", "tokens", "seconds")] == ["tuned", 120, 3000, 30.0]
    assert row["tokens_per_second"] == 100
    assert (row["reached"], row["reached_with_retriever"], row["commit"]) == (0.5, 0.6, "abc")
