"""What holds for every strategy."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamarec_core.files import InputError
from llamarec_core.ranking import PromptBuilder, rerank_by_scores, split_rows
from llamarec_core.ranking.strategies import (
    P5,
    STRATEGIES,
    Answers,
    GPT4Rec,
    RequestSize,
    TALLRec,
    TALLRecApart,
    answer_rows,
    catalogue_ranks,
)
from llamarec_core.ranking.strategies.meter import COUNTS, PARTS
from llamarec_core.ranking.strategies.strategy import in_order

EACH = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())
COUNTED = ["forward_passes", "tokens_read", "tokens_generated"]


@pytest.fixture(scope="module")
def uneven_titles(tokenizer, tiny):
    """Prompts over thirty titles of two to six tokens."""
    words = ["The", "film", "of", "a", "day"]
    return PromptBuilder(tokenizer, ["", *(" ".join(words[: 1 + item % 5]) for item in range(1, 31))], tiny.settings)


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
def test_the_text_is_what_is_read(strategy, model, prompts, monkeypatch):
    answering = strategy(model, prompts)
    read = []
    whole = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda **given: read.append(given["input_ids"][0]) or whole(**given))
    answering.rank([[1, 2]], [[3, 14, 7, 28]])
    tokens = read[0].tolist() + (read[1].tolist() if strategy is TALLRec else [])  # the beginning is shared
    text = answering.text([1, 2], [3, 14, 7, 28])
    assert text.startswith(prompts.tokenizer.decode(tokens).rstrip("!"))  # what pads
    assert (prompts.title(14) in text) == (strategy not in (TALLRec, TALLRecApart, GPT4Rec, P5))


@EACH
def test_answers_do_not_depend_on_the_batch(strategy, model, prompts, requests):
    alone, together = (strategy(model, prompts, batch_size=size).rank(*requests) for size in (1, 5))
    np.testing.assert_allclose(alone.scores, together.scores, atol=1e-3)
    assert [items.tolist() for items in alone.recommended] == [items.tolist() for items in together.recommended]
    pd.testing.assert_frame_equal(alone.cost[list(COUNTS)], together.cost[list(COUNTS)])


@EACH
def test_what_is_counted_is_what_the_backbone_ran(strategy, model, even_titles, pass_counter):
    cost = strategy(model, even_titles).rank([[1, 2, 3], [4]], [[5, 6, 7, 8], [9, 10, 11, 12]]).cost
    # the passes that read a prompt; any other reads what it generated
    reading = {TALLRec: 1 + 4, TALLRecApart: 4}.get(strategy, 1)
    assert pass_counter.passes == cost["forward_passes"].sum()
    assert pass_counter.tokens == (cost["tokens_read"] + cost["forward_passes"] - reading).sum()


@EACH
def test_the_formula_predicts_what_is_counted(strategy, model, uneven_titles):
    answering = strategy(model, uneven_titles)
    answering.ends = ()  # the formula is of generations that run to their limit
    requests = [[1], [1, 2], [8, 9, 3, 14]], [[11, 12, 13], [21, 4, 30], [5, 16, 17]]
    predicted = answering.predicted_costs(*requests)
    pd.testing.assert_frame_equal(predicted, answering.rank(*requests).cost[COUNTED])
    if strategy.reads_candidates:
        assert predicted["tokens_read"].nunique() == 3


@EACH
def test_the_formula_bounds_what_a_model_generates_that_may_end(strategy, model, prompts, requests):
    answering = strategy(model, prompts)
    if getattr(answering, "ends", ()):
        answering.ends = set(range(0, 49_152, 5))  # of the model's end alone, random weights would never think
    predicted, cost = answering.predicted_costs(*requests), answering.rank(*requests).cost
    assert cost["tokens_read"].equals(predicted["tokens_read"])
    assert (cost[COUNTED] <= predicted).all(axis=None)


@EACH
def test_one_more_title_costs_what_the_formula_says(strategy, model, prompts):
    size = RequestSize(history_length=2, n_candidates=3, history_title_tokens=5.0, title_tokens=4.0)
    costs = [
        strategy(model, prompts).predicted_cost(replace(size, **change))
        for change in ({}, {"history_length": 3}, {"n_candidates": 4}, {"title_tokens": 6.0})
    ]
    read, generated = ([cost[name] - costs[0][name] for cost in costs[1:]] for name in COUNTED[1:])
    mark = 2  # a line break and a dash; the verbalizer's candidates have a line break, a letter and a full stop
    expected = {
        "verbalizer": ([mark + 5, 3 + 4, 3 * 2], [0, 0, 0]),
        "causal_lm": ([mark + 5, mark + 4, 3 * 2], [0, 4, 3 * 2]),
        "palr": ([mark + 5, mark + 4, 3 * 2], [0, mark + 4, 3 * 2]),
        "gpt4rec": ([mark + 5, 0, 0], [0, 0, 0]),
        # each candidate has a question of its own, which ends with two line breaks and "Answer:"
        "tallrec": ([mark + 5, mark + 4 + 4, 3 * 2], [0, 0, 0]),
        "tallrec_apart": ([3 * (mark + 5), costs[0]["tokens_read"] / 3, 3 * 2], [0, 0, 0]),
        "p5": ([mark + 3, 0, 0], [0, 0, 0]),  # a space and two digits
    }
    assert (read, generated) == expected[strategy.name]


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
@pytest.mark.parametrize("training", [True, False])
def test_the_model_goes_back_to_the_mode_that_it_was_in(strategy, training, model, prompts, requests, monkeypatch):
    model.train(training)
    strategy(model, prompts).rank(*requests)
    assert model.training == training
    monkeypatch.setattr(strategy, "_answer", None)  # breaks off
    with pytest.raises(TypeError):
        strategy(model, prompts).rank(*requests)
    assert model.training == training
    model.eval()


def test_ties_keep_the_retrievers_order():
    answers = Answers(np.array([[0.0, 2.0, 0.0], [-np.inf, -np.inf, -1.0]]), [], pd.DataFrame())
    assert answers.ranks.tolist() == [[2, 1, 3], [2, 3, 1]]
    assert in_order([7, 8, 9], answers.scores[0])[1].tolist() == [8, 7, 9]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.floats(allow_nan=False), min_size=5, max_size=5), min_size=1, max_size=3),
    st.lists(st.sampled_from([-np.inf, 0.0, 1.0]), min_size=5, max_size=5),
)
def test_ranks_are_permutations_whatever_the_scores(scores, tied):
    scores = np.array([*scores, tied])
    ranks = Answers(scores, [], pd.DataFrame()).ranks
    assert (np.sort(ranks, axis=1) == np.arange(1, 6)).all()
    for of_request, ranked in zip(scores, ranks, strict=True):
        by_rank = of_request[np.argsort(ranked)]
        assert (by_rank[:-1] >= by_rank[1:]).all()


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
