import numpy as np
import pandas as pd
import pytest
import torch

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.ranking import (
    PromptBuilder,
    VerbalizerRanker,
    fit_retriever_weight,
    load_backbone,
    log_probabilities,
    rerank,
    rerank_at_random,
    rerank_by_item_scores,
    rerank_by_scores,
    split_rows,
    verbalizer,
    with_retriever,
)
from llamarec_core.ranking.adapter import add_adapter
from llamarec_core.ranking.titles import title_overlap
from llamarec_core.ranking.verbalizer import NextTokenLogits, pad


@pytest.fixture(scope="module")
def ranker(tiny, dataset):
    model, tokenizer = load_backbone(tiny.settings, device="cpu")
    return VerbalizerRanker(model, PromptBuilder(tokenizer, dataset.titles, tiny.settings), batch_size=3)


@pytest.fixture(scope="module")
def requests(dataset):
    """Histories of one to nine items, so prompts of different lengths, and four candidates each."""
    histories = [dataset.sequence(user) for user in range(dataset.n_users)] + [np.array([5])]
    return histories, [[(user + step) % 30 + 1 for step in (0, 7, 11, 18)] for user in range(len(histories))]


@pytest.mark.parametrize("adapted", [False, True])
def test_label_logits_are_those_of_the_plain_way(tiny, dataset, requests, adapted):
    model, tokenizer = load_backbone(tiny.settings, device="cpu")
    prompts = PromptBuilder(tokenizer, dataset.titles, tiny.settings)
    if adapted:
        model = add_adapter(model, tiny.settings, seed=0).eval()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    tokens, lengths = pad([prompts.build(*request) for request in zip(*requests, strict=True)], device="cpu")
    assert lengths.min() < lengths.max()
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    label_ids = torch.tensor(prompts.label_ids)
    with torch.no_grad():
        plain = model(input_ids=tokens, attention_mask=mask).logits  # (batch, length, vocabulary)
        ours = NextTokenLogits(model)(tokens, lengths, label_ids)
        whole = NextTokenLogits(model)(tokens, lengths)
    plain = plain[torch.arange(len(tokens)), lengths - 1]
    assert plain[:, label_ids].std() > 0.1
    torch.testing.assert_close(ours, plain[:, label_ids], atol=1e-4, rtol=0)
    torch.testing.assert_close(whole, plain, atol=1e-4, rtol=0)


def test_gradients_are_those_of_the_plain_way_also_where_a_place_is_asked_for_twice(tiny, dataset, requests):
    model, tokenizer = load_backbone(tiny.settings, device="cpu")
    prompts = PromptBuilder(tokenizer, dataset.titles, tiny.settings)
    model = add_adapter(model, tiny.settings.model_copy(update={"target_modules": ("q_proj", "down_proj")}), seed=0)
    tokens, lengths = pad([prompts.build(*request) for request in zip(*requests, strict=True)], device="cpu")
    places = torch.stack([lengths, lengths - 4, lengths], dim=1)  # (batch, 3)
    trainable = [parameter for parameter in model.eval().parameters() if parameter.requires_grad]
    weights = torch.arange(len(tokenizer)) % 7
    plain = model(input_ids=tokens).logits[torch.arange(len(tokens))[:, None], places - 1]
    ours = NextTokenLogits(model)(tokens, places)
    both = [torch.autograd.grad((logits * weights).mean(), trainable) for logits in (ours, plain)]
    assert max(gradient.abs().max() for gradient in both[1]) > 1e-3
    torch.testing.assert_close(*both, atol=1e-5, rtol=1e-4)


def test_probabilities_do_not_depend_on_the_other_prompts_of_a_batch(ranker, requests):
    together = ranker.probabilities(*requests)
    alone = np.concatenate(
        [ranker.probabilities([history], [listed]) for history, listed in zip(*requests, strict=True)]
    )
    assert together.dtype == np.float32
    assert together.std(axis=0).min() > 0.01  # different requests are answered differently
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_after_ranking_the_model_is_in_the_mode_that_it_was_in(ranker, requests, training, monkeypatch):
    ranker.model.train(training)
    ranker.probabilities(*requests)
    assert ranker.model.training == training
    monkeypatch.setattr(NextTokenLogits, "forward", None)  # breaks off
    with pytest.raises(TypeError):
        ranker.probabilities(*requests)
    assert ranker.model.training == training
    ranker.model.eval()


def test_label_logits_are_finer_than_bfloat16(tiny, dataset):
    """Rounded logits would tie, and ties fall to the retriever's order: its skill would pass for the ranker's."""
    settings = tiny.settings.model_copy(update={"dtype": "bfloat16"})
    model, tokenizer = load_backbone(settings, device="cpu")
    prompts = PromptBuilder(tokenizer, dataset.titles, settings)
    tokens, lengths = pad([prompts.build([1, 2], [3, 4, 5]), prompts.build([6], [7, 8])], device="cpu")
    with torch.no_grad():
        logits = NextTokenLogits(model)(tokens, lengths, torch.tensor(prompts.label_ids))  # (2, 20)
    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16().float()).any(dim=1).all()


class Liking:
    """A ranker that prefers the highest item id, or a label, whatever the history."""

    def __init__(self, settings, *, label=None):
        self.prompts = type("Prompts", (), {"settings": settings})
        self.label = label
        self.seen = []

    def probabilities(self, histories, candidates, *, progress=False):
        self.seen += [list(map(int, history)) for history in histories]
        scores = np.asarray(candidates, dtype=np.float32)
        return scores if self.label is None else np.eye(scores.shape[1], dtype=np.float32)[[self.label] * len(scores)]


@pytest.mark.parametrize("order", ["descending", "reversed", "shuffled"])
def test_labels_are_mapped_back_to_candidates(tiny, dataset, candidates, order):
    ranks = rerank(Liking(tiny.settings), dataset, candidates, "test", order=order, seed=3)
    rows = candidates[candidates["split"] == "test"]
    expected = [
        1 + sum(item > row.target for item in row.items) if row.target in row.items else row.rank
        for row in rows.rename(columns={"items": "listed"}).assign(items=rows["items"]).itertuples()
    ]
    assert list(ranks.columns) == ["user", "target", "rank"]
    assert set(ranks.dtypes) == {np.dtype("int32")}
    assert ranks["user"].tolist() == list(range(12))
    assert ranks["target"].tolist() == dataset.targets("test").tolist()
    assert ranks["rank"].tolist() == expected


def test_only_users_whose_target_was_retrieved_are_read_with_the_history_of_the_split(tiny, dataset, candidates):
    ranker = Liking(tiny.settings)
    rerank(ranker, dataset, candidates, "validation")
    assert ranker.seen == [dataset.train(user).tolist() for user in range(12) if user % 6 < 4]
    ranker = Liking(tiny.settings)
    rerank(ranker, dataset, candidates, "test")
    assert ranker.seen == [dataset.sequence(user)[:-1].tolist() for user in range(12) if user % 6 < 4]


def test_a_preference_for_the_first_label_looks_like_skill_until_the_order_is_shuffled(tiny, dataset, candidates):
    biased = Liking(tiny.settings, label=0)
    descending = rerank(biased, dataset, candidates, "test")
    shuffled = rerank(biased, dataset, candidates, "test", order="shuffled", seed=0)
    assert descending["rank"].tolist() == candidates[candidates["split"] == "test"]["rank"].tolist()
    assert shuffled["rank"].tolist() != descending["rank"].tolist()
    assert shuffled.equals(rerank(biased, dataset, candidates, "test", order="shuffled", seed=0))


def test_ranks_by_scores_break_ties_by_the_retrievers_order():
    rows = pd.DataFrame(
        {"user": [0, 1, 2], "target": [7, 8, 9], "rank": [2, 3, 40], "items": [[5, 7, 8], [5, 7, 8], [5, 7, 8]]}
    )
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.5], [3.0, 2.0, 1.0]])
    assert rerank_by_scores(rows, scores)["rank"].tolist() == [2, 1, 40]


def test_random_order_is_seeded_by_user_and_uniform():
    n_users = 4000
    frame = pd.DataFrame({"user": range(n_users), "split": "test", "target": 1, "rank": 1})
    frame["items"] = [[1, 2, 3, 4]] * n_users
    ranks = rerank_at_random(frame, "test", seed=0)
    assert ranks["rank"].value_counts(normalize=True).to_numpy() == pytest.approx([0.25] * 4, abs=0.03)
    assert rerank_at_random(frame.iloc[::-1], "test", seed=0)["rank"].tolist() == ranks["rank"].tolist()[::-1]
    assert rerank_at_random(frame, "test", seed=1)["rank"].tolist() != ranks["rank"].tolist()


def test_popularity_order():
    frame = pd.DataFrame({"user": [0], "split": ["test"], "target": [2], "rank": [1], "items": [[2, 3, 1]]})
    assert rerank_by_item_scores(frame, "test", np.array([0, 5, 4, 9]))["rank"].tolist() == [3]


def test_unknown_orders_and_splits_are_refused(tiny, dataset, candidates):
    with pytest.raises(InputError, match="Unknown order 'best': choose from descending, reversed, shuffled"):
        rerank(Liking(tiny.settings), dataset, candidates, "test", order="best")
    with pytest.raises(InputError, match="hold no split 'train' .they hold test, validation"):
        rerank(Liking(tiny.settings), dataset, candidates, "train")


def test_a_prompt_beyond_what_the_backbone_reads_is_named(ranker, monkeypatch):
    requests = [[1], [1, 2, 3]], [[4, 5, 6, 7]] * 2
    lengths = [len(ranker.prompts.build(*request)) for request in zip(*requests, strict=True)]
    monkeypatch.setattr(ranker.model.config, "max_position_embeddings", lengths[1] - 1)
    with pytest.raises(
        InputError, match=f"prompt of request 1 .* has {lengths[1]} tokens, .* at most {lengths[1] - 1}"
    ):
        ranker.probabilities(*requests)
    assert ranker.probabilities(requests[0][:1], requests[1][:1]).shape == (1, 4)


def test_batches_hold_prompts_of_similar_length_within_the_budget(ranker, monkeypatch):
    prompts = [[1] * length for length in (50, 10, 30, 9, 29, 8, 10, 10)]
    order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")
    monkeypatch.setattr(verbalizer, "TOKEN_BUDGET", 62)
    batches = [rows.tolist() for rows in ranker._batches(order, prompts)]
    assert batches == [[0], [2, 4], [1, 6, 7], [3], [5]]  # at most three prompts and 62 tokens, none below 90 %


def test_a_sum_with_the_retrievers_log_probability_goes_from_the_one_order_to_the_other(tiny, dataset, candidates):
    rows = split_rows(candidates, "validation")
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(4), size=len(rows)).astype(np.float32)
    alone = rerank_by_scores(rows, probabilities)
    logarithms = log_probabilities(probabilities)
    assert rerank_by_scores(rows, with_retriever(rows, logarithms, 0.0)).equals(alone)
    heavy = rerank_by_scores(rows, with_retriever(rows, logarithms, 1e6))
    assert (heavy["rank"] == rows["rank"].to_numpy()).all()
    scores = with_retriever(rows, logarithms, 2.0)[0]
    retriever = torch.tensor([4.0, 3.0, 2.0, 1.0]).double().log_softmax(0).numpy()
    np.testing.assert_allclose(scores, np.log(probabilities[0]) + 2 * retriever, rtol=1e-5)


def test_users_that_were_not_read_keep_the_retrievers_order(candidates):
    rows = split_rows(candidates, "test")
    scores = with_retriever(rows, log_probabilities(np.zeros((len(rows), 4), dtype=np.float32)), 0.5)
    assert rerank_by_scores(rows, scores)["rank"].equals(rows["rank"].reset_index(drop=True).astype(np.int32))


def test_overlap_is_one_for_a_title_of_the_history_and_zero_for_other_words(candidates):
    words = ["red fox", "blue whale", "red fox two", "grey owl"]
    items = np.array([1, 2, 3, 4, 1, 2], dtype=np.int32)
    names = [f"i{number}" for number in range(1, 5)]
    animals = Dataset("animals", items[:4], [0, 4], ["", *words], ["u"], ["", *names])
    rows = pd.DataFrame({"user": [0], "items": [np.array([1, 3, 4, 2])]})
    scores = title_overlap(animals, rows, "validation", history_length=2)[0]  # history: 1, 2
    assert scores[[0, 3]] == pytest.approx([1, 1])
    assert scores[2] == 0
    assert 0 < scores[1] < 1
    assert title_overlap(animals, rows, "validation", history_length=1)[0] == pytest.approx([0, 0, 0, 1])


def test_the_weight_is_the_best_of_those_tried(candidates):
    rows = split_rows(candidates, "validation")
    hits = (np.stack(rows["items"]) == rows["target"].to_numpy()[:, None]).astype(np.float32)
    assert fit_retriever_weight(rows, 0.05 + 0.8 * hits) == 0.0  # a ranker that knows needs no retriever
    assert fit_retriever_weight(rows, np.full((len(rows), 4), 0.25, dtype=np.float32)[:, ::-1]) == 0.0
    early = rows[rows["rank"] <= 2]  # where the retriever is right, and the ranker's order is the reverse
    assert fit_retriever_weight(early, np.log(np.tile([0.1, 0.2, 0.3, 0.4], (len(early), 1)))) > 0.5
