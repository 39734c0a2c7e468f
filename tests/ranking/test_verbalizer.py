import numpy as np
import pytest
import torch

from llamarec_core.files import InputError
from llamarec_core.ranking import PromptBuilder, VerbalizerRanker, load_backbone, verbalizer
from llamarec_core.ranking.adapter import add_adapter
from llamarec_core.ranking.verbalizer import NextTokenLogits, pack, pad


@pytest.fixture(scope="module")
def ranker(tiny, dataset):
    model, tokenizer = load_backbone(tiny.settings, device="cpu")
    return VerbalizerRanker(model, PromptBuilder(tokenizer, dataset.titles, tiny.settings), batch_size=3)


@pytest.fixture(scope="module")
def requests(dataset):
    """Histories of one to nine items, so prompts of different lengths, and four candidates each."""
    histories = [dataset.sequence(user) for user in range(dataset.n_users)] + [np.array([5])]
    return histories, [[(user + step) % 30 + 1 for step in (0, 7, 11, 18)] for user in range(len(histories))]


def test_logits_and_gradients_are_those_of_the_plain_way_also_where_a_place_is_asked_for_twice(tiny, dataset, requests):
    model, tokenizer = load_backbone(tiny.settings, device="cpu")
    prompts = PromptBuilder(tokenizer, dataset.titles, tiny.settings)
    model = add_adapter(model, tiny.settings.model_copy(update={"target_modules": ("q_proj", "down_proj")}), seed=0)
    for name, parameter in model.eval().named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tokens, lengths = pad([prompts.build(*request) for request in zip(*requests, strict=True)], device="cpu")
    assert lengths.min() < lengths.max()
    places, label_ids = torch.stack([lengths, lengths - 4, lengths], dim=1), torch.tensor(prompts.label_ids)
    plain = model(input_ids=tokens).logits[torch.arange(len(tokens))[:, None], places - 1]  # (batch, 3, vocabulary)
    ours = NextTokenLogits(model)(tokens, places)
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=0)
    of_labels = plain[:, 0, label_ids]
    assert of_labels.std() > 0.1
    torch.testing.assert_close(NextTokenLogits(model)(tokens, lengths, label_ids), of_labels, atol=1e-4, rtol=0)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = torch.arange(len(tokenizer)) % 7
    both = [torch.autograd.grad((logits * weights).mean(), trainable) for logits in (ours, plain)]
    assert max(gradient.abs().max() for gradient in both[1]) > 1e-3
    torch.testing.assert_close(*both, atol=1e-5, rtol=1e-4)


def test_probabilities_do_not_depend_on_the_other_prompts_of_a_batch(ranker, requests):
    together = ranker.probabilities(*requests)
    alone = [ranker.probabilities([history], [listed])[0] for history, listed in zip(*requests, strict=True)]
    assert together.dtype == np.float32
    assert together.std(axis=0).min() > 0.01  # different requests are answered differently
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)


def test_a_prompt_that_is_too_long_and_logits_that_are_no_numbers_are_refused(ranker, requests, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(InputError, match="at most 20: lower history_length"):
        patch.setattr(ranker.model.config, "max_position_embeddings", 20)
        ranker.probabilities(*requests)
    norm = ranker.model.model.norm.weight
    monkeypatch.setattr(norm, "data", norm.data * float("nan"))
    with pytest.raises(InputError, match="not numbers: tune it"):
        ranker.probabilities(*requests)


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


@pytest.mark.parametrize("chunk", [8, 128])
def test_shared_lists_are_read_as_each_users_own_prompt(tiny, dataset, monkeypatch, chunk):
    monkeypatch.setattr(verbalizer, "CHUNK", chunk)
    settings = tiny.shared.model_copy(update={"lora_dropout": 0.0})
    model, tokenizer = load_backbone(settings, device="cpu")
    titles = [*dataset.titles[:9], "Z", *dataset.titles[10:]]
    prompts = PromptBuilder(tokenizer, titles, settings)
    histories, lists = [[1, 2, 3], [4, 5], [6], [2, 5]], [[6, 7, 8, 9], [1, 12, 3, 10]]
    texts = [prompts.text(history, lists[row // 2]) for row, history in enumerate(histories)]
    shared = [prompts.encode_shared(texts[:2]), prompts.encode_shared(texts[2:])]
    assert len(shared[0][0]) != len(shared[1][0])
    together = NextTokenLogits(model)(**pack(*zip(*shared, strict=True), device="cpu")).flatten(0, 1)
    for row, alone in enumerate(prompts.encode(texts)):
        logits = NextTokenLogits(model)(torch.tensor([alone]), torch.tensor([len(alone)]))[0]
        torch.testing.assert_close(together[row], logits, atol=1e-4, rtol=1e-4)
