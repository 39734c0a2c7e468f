"""What holds for every strategy."""

import numpy as np
import pandas as pd
import pytest

from llamarec_core.files import InputError
from llamarec_core.ranking import PromptBuilder, rerank_by_scores, split_rows
from llamarec_core.ranking.strategies import STRATEGIES, Answers, TALLRec, answer_rows, catalogue_ranks
from llamarec_core.ranking.strategies.meter import COUNTS, PARTS
from llamarec_core.ranking.strategies.strategy import in_order

EACH = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())
COUNTED = ["forward_passes", "tokens_read", "tokens_generated"]


@pytest.fixture(scope="module")
def even_titles(tokenizer, tiny):
    """Prompts over thirty titles, all of exactly four tokens."""
    settings = tiny.settings.model_copy(update={"title_tokens": 4})
    return PromptBuilder(tokenizer, ["", *(f"The film {number}" for number in range(10, 40))], settings)


@EACH
def test_ranks_are_permutations_and_costs_are_counted(strategy, model, prompts, requests):
    answers = strategy(model, prompts, batch_size=3).rank(*requests)
    assert answers.scores.shape == (5, 4)
    assert np.sort(answers.ranks, axis=1).tolist() == [[1, 2, 3, 4]] * 5
    assert list(answers.cost) == [*COUNTS, *(f"{part}_seconds" for part in PARTS)]
    assert (answers.cost[["forward_passes", "tokens_read", "tokenizing_seconds", "reading_seconds"]] > 0).all(axis=None)
    for history, listed, recommended in zip(*requests, answers.recommended, strict=True):
        assert len(set(recommended.tolist())) == len(recommended)
        if strategy.reads_candidates:
            assert sorted(recommended) == sorted(listed)
        else:
            assert not set(recommended.tolist()) & {0, *history}


@EACH
def test_answers_do_not_depend_on_the_batch(strategy, model, prompts, requests):
    alone, together = (strategy(model, prompts, batch_size=size).rank(*requests) for size in (1, 5))
    np.testing.assert_allclose(alone.scores, together.scores, atol=1e-3)
    assert [items.tolist() for items in alone.recommended] == [items.tolist() for items in together.recommended]
    pd.testing.assert_frame_equal(alone.cost[list(COUNTS)], together.cost[list(COUNTS)])


@EACH
def test_what_is_counted_is_what_the_backbone_ran(strategy, model, even_titles, pass_counter):
    cost = strategy(model, even_titles).rank([[1, 2, 3], [4]], [[5, 6, 7, 8], [9, 10, 11, 12]]).cost
    reading = 1 + 4 if strategy is TALLRec else 1  # the passes that read a prompt; any other reads what it generated
    assert pass_counter.passes == cost["forward_passes"].sum()
    assert pass_counter.tokens == (cost["tokens_read"] + cost["forward_passes"] - reading).sum()


@EACH
@pytest.mark.parametrize(("history_length", "n_candidates"), [(1, 2), (3, 2), (3, 4)])
def test_the_formula_predicts_what_is_counted(strategy, model, even_titles, history_length, n_candidates):
    answering = strategy(model, even_titles)
    answering._ends = ()  # the formula is of generations that run to their limit
    cost = answering.rank([list(range(1, 1 + history_length))], [list(range(11, 11 + n_candidates))]).cost
    lengths = {"history_length": history_length, "n_candidates": n_candidates, "title_tokens": 4}
    assert answering.predicted_cost(**lengths) == cost.loc[0, COUNTED].to_dict()


@EACH
def test_the_formula_bounds_what_a_model_generates_that_may_end(strategy, model, prompts, requests):
    answering = strategy(model, prompts)
    cost = answering.rank(*requests).cost
    for request, (history, listed) in enumerate(zip(*requests, strict=True)):
        past = history[-prompts.settings.history_length :]
        lengths = [len(prompts.title_tokens[item]) for item in [*past, *listed]]
        assert len(set(lengths)) == 1
        predicted = answering.predicted_cost(
            history_length=len(past), n_candidates=len(listed), title_tokens=lengths[0]
        )
        assert cost["tokens_read"][request] == predicted["tokens_read"]
        assert cost["forward_passes"][request] <= predicted["forward_passes"]
        assert cost["tokens_generated"][request] <= predicted["tokens_generated"]


@EACH
def test_a_request_beyond_what_the_backbone_reads_is_refused(strategy, model, prompts, requests, monkeypatch):
    monkeypatch.setattr(model.config, "max_position_embeddings", 20)
    with pytest.raises(InputError, match=f"'{strategy.name}' takes .* at most 20: lower history_length"):
        strategy(model, prompts).rank(*requests)


@EACH
def test_no_request_is_refused(strategy, model, prompts):
    with pytest.raises(InputError, match="There is no request to answer"):
        strategy(model, prompts).rank([], [])


@EACH
def test_a_model_whose_logits_are_no_numbers_is_refused(strategy, model, prompts, requests, monkeypatch):
    norm = model.model.norm.weight
    monkeypatch.setattr(norm, "data", norm.data * float("nan"))
    with pytest.raises(InputError, match="not numbers: tune it"):
        strategy(model, prompts).rank(*requests)


@EACH
def test_the_model_goes_back_to_training(strategy, model, prompts, requests):
    model.train()
    strategy(model, prompts).rank(*requests)
    assert model.training
    model.eval()


def test_ties_keep_the_retrievers_order():
    answers = Answers(np.array([[0.0, 2.0, 0.0], [-np.inf, -np.inf, -1.0]]), [], pd.DataFrame())
    assert answers.ranks.tolist() == [[2, 1, 3], [2, 3, 1]]
    assert in_order([7, 8, 9], answers.scores[0])[1].tolist() == [8, 7, 9]


def test_rows_are_answered_with_the_history_of_the_split_and_ranked(model, prompts, dataset, candidates):
    rows = split_rows(candidates, "validation")
    strategy = TALLRec(model, prompts)
    answers = answer_rows(strategy, dataset, rows, "validation")
    histories = [dataset.train(user) for user in range(dataset.n_users)]
    np.testing.assert_array_equal(answers.scores, strategy.rank(histories, list(rows["items"])).scores)
    ranks = rerank_by_scores(rows, answers.scores)["rank"]
    for user, row in enumerate(rows.itertuples()):
        place = np.flatnonzero(row.items == row.target) if row.rank <= 4 else []
        assert ranks[user] == (answers.ranks[user, place[0]] if len(place) else row.rank)


def test_a_target_that_was_not_recommended_is_last_of_the_catalogue():
    rows = pd.DataFrame({"user": [4, 5, 6], "target": [7, 8, 9]})
    answers = Answers(np.zeros((3, 2)), [np.array([3, 7]), np.array([8]), np.array([], dtype=int)], pd.DataFrame())
    ranks = catalogue_ranks(rows, answers, n_items=30)
    assert ranks.to_dict("list") == {"user": [4, 5, 6], "target": [7, 8, 9], "rank": [2, 1, 30]}
    assert set(ranks.dtypes) == {np.dtype("int32")}
