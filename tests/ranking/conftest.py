from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llamarec_core.data import Dataset
from llamarec_core.ranking import fit_ranker, load_backbone
from llamarec_core.ranking.verbalizer import NextTokenLogits
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.settings import RankerSettings

SMALL = RankerSettings(
    quantization="none",
    dtype="float32",
    history_length=3,
    candidates=4,
    title_tokens=8,
    lora_rank=2,
    lora_dropout=0.1,
    learning_rate=1e-2,
    training_examples=14,
    batch_size=2,
    gradient_accumulation=2,
    warmup_steps=1,
    validate_every=2,
)
"""Settings of a tuning of four steps, for the tiny backbone."""


@pytest.fixture(scope="session")
def smollm2():
    """The real SmolLM2-135M and its tokenizer."""
    return load_backbone(RankerSettings(quantization="none", dtype="float32"), device="cpu")


@pytest.fixture(scope="session")
def tokenizer(smollm2):
    return smollm2[1]


@pytest.fixture(scope="session")
def tiny(tokenizer, tmp_path_factory):
    """Folder of a Llama of random weights with SmolLM2's tokenizer, and the settings that name it."""
    folder = tmp_path_factory.mktemp("backbones") / "tiny-llama"
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.2,  # spreads the labels' logits well apart
        pad_token_id=None,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return SimpleNamespace(folder=folder, settings=SMALL.model_copy(update={"backbone": str(folder)}))


@pytest.fixture
def fit_killed(monkeypatch):
    """Tune as :func:`fit_ranker` does, but interrupted at one of its forward passes."""
    whole = NextTokenLogits.forward

    def fit(*arguments, forward_passes, **options):
        left = iter(range(forward_passes))

        def killed(*given, **named):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return whole(*given, **named)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(NextTokenLogits, "forward", killed)
            fit_ranker(*arguments, **options)

    return fit


@pytest.fixture(scope="session")
def dataset():
    """Twelve users with four to nine of thirty items."""
    generator = np.random.default_rng(1)
    sequences = [generator.choice(30, size=generator.integers(4, 10), replace=False) + 1 for _ in range(12)]
    return Dataset(
        name="toy",
        items=np.concatenate(sequences),
        offsets=np.cumsum([0, *map(len, sequences)]),
        titles=["", *(f"Film {number}: The Story (19{60 + number})" for number in range(1, 31))],
        user_ids=[f"u{user:02}" for user in range(12)],
        item_ids=["", *(f"i{number:02}" for number in range(1, 31))],
    )


@pytest.fixture(scope="session")
def candidates(dataset):
    """Four candidates a user, by split; the target is at rank user % 6 + 1, so among them for two users in three."""
    users = np.arange(dataset.n_users, dtype=np.int32)
    ranks = users % 6 + 1
    found = {}
    for split in ("validation", "test"):
        targets = np.array(dataset.targets(split), dtype=np.int32)
        items = np.stack([np.setdiff1d(np.arange(1, 31), dataset.sequence(user))[:4] for user in users])
        for user in np.flatnonzero(ranks <= 4):
            items[user, ranks[user] - 1] = targets[user]
        scores = np.tile(np.arange(4, 0, -1, dtype=np.float32), (len(users), 1))
        found[split] = Candidates(users, targets, ranks, items.astype(np.int32), scores)
    return found
