"""What holds for every strategy."""

import numpy as np
import pandas as pd
import pytest
import torch

from llamarec_core.files import InputError
from llamarec_core.llm_baselines import STRATEGIES, TALLRec, TALLRecWithoutCache, Verbalizer
from llamarec_core.llm_baselines.base import answer_candidates
from llamarec_core.llm_baselines.generation import COUNTS, PARTS
from llamarec_core.ranking import PromptBuilder, VerbalizerRanker

EACH = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())
COUNTED = list(COUNTS[:3])

HISTORY = "- Film 1: The Story (1\n- Film 2: The Story (1\n\n"
CANDIDATES = "- Film 3: The Story (1\n- Film 4: The Story (1\n\n"
PROMPTS = {
    "causal_lm": (
        f"[Instruction] Here is the purchase history of a user:\n{HISTORY}"
        f"Please rank the following candidate items based on the user's preferences:\n{CANDIDATES}"
        "All candidate items from the most suitable to the least suitable, one title a line:\n-"
    ),
    "palr": (
        f"[Instruction] A user has purchased these items:\n{HISTORY}"
        f"Recommend up to 10 items for the user from these candidates:\n{CANDIDATES}"
        "Recommended, one title a line:\n-"
    ),
    "gpt4rec": (f"Previously, the customer has bought:\n{HISTORY}In the future, the customer wants to buy:\n-"),
    "tallrec": (
        f"[Instruction] Here is the purchase history of a user:\n{HISTORY}"
        "Will the user want this item next? Answer Yes or No.\n- Film 3: The Story (1\n\nAnswer:"
    ),
    "p5": (
        "[Instruction] Here is the purchase history of a user, as item numbers:\n- 01\n- 02\n\n"
        "Predict the number of the item that the user will purchase next:\n-"
    ),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_the_prompt_reads_as_designed(name, model, prompts):
    strategy = STRATEGIES[name](model, prompts)
    assert strategy.text([1, 2], [3, 4]) == PROMPTS[name]


@EACH
def test_the_text_is_what_is_read(strategy, model, prompts, monkeypatch):
    answering, read, whole = strategy(model, prompts), [], model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda **given: read.append(given["input_ids"][0]) or whole(**given))
    answering.rank([[1, 2]], [[3, 14, 7, 28]])
    text = answering.text([1, 2], [3, 14, 7, 28])
    (tokens,) = answering.prompts.encode([text])
    assert read[0][: len(tokens)].tolist() == tokens
    assert prompts.tokenizer.decode(tokens) == text
    assert (prompts.titles[14] in text) == (strategy.name in ("verbalizer", "causal_lm", "palr"))


@EACH
def test_answers_are_counted_and_do_not_depend_on_the_batch(strategy, model, prompts, requests):
    alone, together = (strategy(model, prompts, batch_size=size).rank(*requests) for size in (1, 5))
    np.testing.assert_allclose(alone.scores, together.scores, atol=1e-3)
    assert alone.scores.shape == (5, 4)
    assert [items.tolist() for items in alone.recommended] == [items.tolist() for items in together.recommended]
    pd.testing.assert_frame_equal(alone.cost[list(COUNTS)], together.cost[list(COUNTS)])
    assert list(alone.cost) == [*COUNTS, *(f"{part}_seconds" for part in PARTS)]
    assert (alone.cost[["forward_passes", "tokens_read", "tokenizing_seconds", "reading_seconds"]] > 0).all(axis=None)
    for history, listed, recommended in zip(*requests, alone.recommended, strict=True):
        assert len(set(recommended.tolist())) == len(recommended)
        if strategy.reads_candidates:
            assert sorted(recommended) == sorted(listed)
        else:
            assert not set(recommended.tolist()) & {0, *history}


@EACH
def test_what_is_counted_is_what_the_backbone_ran(strategy, model, tokenizer, tiny, pass_counter):
    settings = tiny.settings.model_copy(update={"title_tokens": 4})  # all titles have them: nothing is padded
    prompts = PromptBuilder(tokenizer, ["", *(f"{number} The film" for number in range(10, 40))], settings)
    cost = strategy(model, prompts).rank([[1, 2, 3], [4]], [[5, 16, 27, 8], [9, 10, 21, 12]]).cost
    # the passes that read a prompt; any other reads what it generated
    reading = {TALLRec: 1 + 4, TALLRecWithoutCache: 4}.get(strategy, 1)
    packed = 1 + 4 if strategy is TALLRec else 1  # one row holds the beginning and the endings, which are counted
    assert packed * pass_counter.passes == cost["forward_passes"].sum()
    assert pass_counter.tokens == (cost["tokens_read"] + cost["forward_passes"] - reading).sum()


@EACH
def test_the_formula_predicts_what_is_counted(strategy, model, tokenizer, tiny):
    words = ["The", "film", "of", "a", "day"]
    titles = ["", *(" ".join(words[item % 5 :] + words[: item % 3]) for item in range(1, 31))]  # of one to five tokens
    answering = strategy(model, PromptBuilder(tokenizer, titles, tiny.settings))
    answering.ends = ()  # the formula is of generations that run to their limit
    requests = [[1], [1, 2], [8, 9, 3, 14]], [[11, 12, 13], [21, 4, 30], [5, 16, 17]]
    predicted = answering.predicted_costs(*requests)
    pd.testing.assert_frame_equal(predicted, answering.rank(*requests).cost[COUNTED])
    if strategy.reads_candidates:
        assert len(set(predicted["tokens_read"])) > 1


@EACH
def test_the_formula_bounds_what_a_model_generates_that_may_end(strategy, model, prompts, requests):
    answering = strategy(model, prompts)
    if getattr(answering, "ends", ()):
        answering.ends = set(range(0, 49_152, 5))  # of the model's end alone, random weights would never think
    predicted, cost = answering.predicted_costs(*requests), answering.rank(*requests).cost
    assert (cost[COUNTED] <= predicted).all(axis=None)


@EACH
def test_too_long_a_request_and_logits_that_are_no_numbers_are_refused(strategy, model, prompts, requests, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(InputError, match="takes .* at most 20: lower history_length"):
        patch.setattr(model.config, "max_position_embeddings", 20)
        strategy(model, prompts).rank(*requests)
    norm = model.model.norm.weight
    monkeypatch.setattr(norm, "data", norm.data * float("nan"))
    with pytest.raises(InputError, match="not numbers: tune it"):
        strategy(model, prompts).rank(*requests)


def test_the_verbalizer_is_the_ranker(model, prompts, requests):
    answers = Verbalizer(model, prompts, batch_size=2).rank(*requests)
    probabilities = VerbalizerRanker(model, prompts, batch_size=3).probabilities(*requests)
    exponentials = np.exp(answers.scores)
    np.testing.assert_allclose(exponentials / exponentials.sum(axis=1, keepdims=True), probabilities, atol=1e-5)
    assert probabilities.std() > 0.05


def test_rows_are_answered_with_the_history_of_their_split(model, prompts, dataset, candidates):
    strategy = TALLRec(model, prompts)
    answers = answer_candidates(strategy, dataset, candidates["validation"], "validation")
    histories = [dataset.train(user) for user in range(dataset.n_users)]
    np.testing.assert_array_equal(answers.scores, strategy.rank(histories, candidates["validation"].items).scores)


@pytest.mark.parametrize("kind", [TALLRec, TALLRecWithoutCache])
def test_tallrec_scores_a_candidate_by_yes_against_no_in_a_prompt_of_its_own(kind, model, prompts, requests):
    strategy = kind(model, prompts)
    yes, no = (prompts.tokenizer("Answer:" + word, add_special_tokens=False).input_ids[-1] for word in (" Yes", " No"))
    expected = np.empty((5, 4))
    for row, (history, listed) in enumerate(zip(*requests, strict=True)):
        for column, item in enumerate(listed):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([strategy.prompts.build(history, [item])])).logits[0, -1]
            expected[row, column] = logits[yes] - logits[no]
    assert expected.std() > 0.01
    np.testing.assert_allclose(strategy.rank(*requests).scores, expected, atol=1e-4)
    assert np.ptp(strategy.rank([[1, 2]], [[3, 3, 3]]).scores) < 1e-5  # items of one title
    # every other example is about a negative
    assert strategy.example(0, [1, 2], [3, 14, 7, 28], 3) == (strategy.prompts.build([1, 2], [28]), [yes])
    assert strategy.example(1, [1, 2], [3, 14, 7, 28], 3) == (strategy.prompts.build([1, 2], [3]), [no])
    assert strategy.example(1, [1, 2], [28], 0) == (strategy.prompts.build([1, 2], [28]), [yes])
