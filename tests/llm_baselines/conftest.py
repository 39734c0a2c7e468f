from types import SimpleNamespace

import pytest
import torch

from llamarec_core.ranking import PromptBuilder, load_backbone
from tests.ranking.conftest import candidates, dataset, smollm2, tiny, tokenizer  # noqa: F401 (fixtures)


@pytest.fixture(scope="session")
def model(tiny):  # noqa: F811
    """The tiny Llama of random weights."""
    return load_backbone(tiny.settings, device="cpu")[0]


@pytest.fixture(scope="session")
def prompts(tokenizer, dataset, tiny):  # noqa: F811
    return PromptBuilder(tokenizer, dataset.titles, tiny.settings)


@pytest.fixture(scope="session")
def requests(dataset):  # noqa: F811
    """Histories of one to nine items and four candidates each, none of which is in its history."""
    histories = [dataset.sequence(user).tolist() for user in range(4)] + [[5]]
    listed = [[item for item in range(30, 0, -3) if item not in history][:4] for history in histories]
    return histories, listed


@pytest.fixture
def pass_counter(model):
    """Counts what a model is really run over: sequences, and their tokens, padding included."""
    counter = SimpleNamespace(passes=0, tokens=0)

    def count(module, arguments, options):
        counter.passes += options["input_ids"].shape[0]
        counter.tokens += options["input_ids"].numel()

    with model.model.register_forward_pre_hook(count, with_kwargs=True):
        yield counter


def log_probability(model, prompt, tokens):
    """That of tokens after a prompt, by one plain forward pass: the sum that a beam search maximises."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(tokens)), list(tokens)].sum().item()
