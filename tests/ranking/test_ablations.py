"""Variants are ranked on the same users, each once, with the retriever's weight fitted on validation."""

import numpy as np
import pytest

from llamarec_core import ranking
from llamarec_core.ranking import ablations as module


@pytest.fixture(scope="module")
def rows(candidates):
    return {split: ranking.retrieved_candidates(of_split, size=4) for split, of_split in candidates.items()}


@pytest.fixture(scope="module")
def tunings(tiny, dataset, candidates, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tunings")
    found = {}
    for name, rate in (("tuned", 1e-2), ("tuned, gently", 1e-3)):
        settings = tiny.settings.model_copy(update={"learning_rate": rate})
        ranking.fit_ranker(dataset, candidates["validation"], settings, seed=0, folder=folder / name)
        found[name] = settings, folder / name
    return found


@pytest.fixture
def ablation(dataset, rows, tunings):
    return ranking.Ablation(dataset, rows, tunings, seed=0)


def ranks_of(ablation, variant):
    frame = ablation.ranks()
    return frame[frame["variant"] == variant].reset_index(drop=True)


@pytest.mark.parametrize(
    ("name", "changes"), [("tuned", {}), ("tuned", {"history_length": 1}), ("tuned, gently", {}), (ranking.UNTUNED, {})]
)
def test_a_variant_ranks_as_its_ranker_does_by_itself(ablation, tunings, dataset, rows, name, changes):
    ablation.add("knowledge", "variant", tuning=name, **changes)
    settings, folder = tunings.get(name, tunings["tuned"])
    ranker = ranking.load_ranker(dataset, settings, folder, tuned=name != ranking.UNTUNED, **changes)
    read = ranking.candidate_probabilities(ranker, dataset, rows["test"], "test")
    np.testing.assert_array_equal(ablation.probabilities("test", tuning=name, **changes), read)
    ranks = ranks_of(ablation, "variant")[["user", "target", "rank"]]
    assert ranks.equals(ranking.rerank_by_scores(rows["test"], read))
    assert (name == "tuned" and not changes) or np.abs(ablation.probabilities("test") - read).max() > 1e-4


def test_the_answer_is_the_label_put_first(ablation):
    for order in ("descending", "reversed"):
        ablation.add("order", order, order=order)
    best = {order: ablation.probabilities("test", order=order).argmax(axis=1) for order in ("descending", "reversed")}
    assert ranks_of(ablation, "descending")["answer"].tolist() == (best["descending"] + 1).tolist()
    assert ranks_of(ablation, "reversed")["answer"].tolist() == (4 - best["reversed"]).tolist()


def test_given_scores_have_no_answer_and_their_weight_is_fitted_on_validation(ablation, rows):
    hits = {split: of.items == of.targets[:, None] for split, of in rows.items()}
    ablation.add_scores_with_retriever("knowledge", "oracle", {split: 9.0 * hit for split, hit in hits.items()})
    oracle = ranks_of(ablation, "oracle")
    assert oracle["rank"].tolist() == [1] * len(rows["test"])
    assert oracle["answer"].tolist() == [0] * len(rows["test"])
    ablation.add_with_retriever("knowledge", "tuned + retriever", tuning="tuned")
    assert set(ablation.weights) == {("knowledge", "oracle"), ("knowledge", "tuned + retriever")}


def test_a_variant_is_read_once(ablation, monkeypatch):
    ablation.add("precision", "float32")
    monkeypatch.setattr(module, "load_ranker", lambda *_, **__: pytest.fail("read twice"))
    ablation.add("order", "descending")
    assert ranks_of(ablation, "descending")["rank"].equals(ranks_of(ablation, "float32")["rank"])
