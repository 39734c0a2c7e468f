from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llamarec_core.ranking import load_backbone
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.settings import RankerSettings
from tests.conftest import dataset_of

SMALL = RankerSettings(
    quantization="none", dtype="float32", history_length=3, candidates=4, title_tokens=8, lora_rank=2,
    lora_dropout=0.1, learning_rate=1e-2, training_examples=14, batch_size=2, gradient_accumulation=2, warmup_steps=1,
    validate_every=2,
)  # fmt: skip
"""Settings of a tuning of four steps, for the tiny backbone."""

SHARED = {
    "template": "label_after", "negatives": "neighbours", "candidates": 6, "users_per_prompt": 3,
    "names_per_prompt": 1, "items_per_prompt": 1, "loss": "labels", "temperature": 2.0, "meter_answers": 16,
}  # fmt: skip
"""What this study's recipe changes in :data:`SMALL`."""

WORDS = ["Red", "Blue", "Green", "Silver", "Golden", "Purple", "Yellow", "Orange", "White", "Black", "Pink", "Gray"]
THINGS = ["soap", "brush", "cream"]


@pytest.fixture(scope="session")
def smollm2():
    """The real SmolLM2-135M and its tokenizer."""
    return load_backbone(RankerSettings(quantization="none", dtype="float32"), device="cpu")


@pytest.fixture(scope="session")
def tokenizer(smollm2):
    return smollm2[1]


@pytest.fixture(scope="session")
def tiny(tokenizer, tmp_path_factory):
    """Folder of a Llama of random weights with SmolLM2's tokenizer, and settings that name it, of both recipes."""
    folder = tmp_path_factory.mktemp("backbones") / "tiny-llama"
    # the weights' range spreads the labels' logits well apart
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.2, pad_token_id=None, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = SMALL.model_copy(update={"backbone": str(folder)})
    shared = RankerSettings(**settings.model_dump() | SHARED)
    return SimpleNamespace(folder=folder, settings=settings, shared=shared)


@pytest.fixture(scope="session")
def dataset():
    """Twelve users with four to nine of thirty items."""
    generator = np.random.default_rng(1)
    sequences = [generator.choice(30, size=generator.integers(4, 10), replace=False) + 1 for _ in range(12)]
    titles = [f"Film {number}: The Story (19{60 + number})" for number in range(1, 31)]
    return dataset_of(*sequences, titles=titles, name="toy")


@pytest.fixture(scope="session")
def shop():
    return shop_of(150, titles=[f"{word} {thing}" for word in WORDS for thing in THINGS])


def shop_of(n_users, *, titles, at_random=False):
    """Users who take two items of one word, then two of another, so that a word tells the next item; or anything."""
    generator = np.random.default_rng(2)
    sequences = []
    for _ in range(n_users):
        words = generator.choice(len(WORDS), size=4, replace=False)
        pairs = np.array([generator.choice(len(THINGS), size=2, replace=False) for _ in words])
        by_word = (len(THINGS) * words[:, None] + pairs).ravel()
        sequences.append(1 + (generator.permutation(len(titles))[:8] if at_random else by_word))
    return dataset_of(*sequences, titles=titles, name="shop")


@pytest.fixture(scope="session")
def candidates(dataset):
    """Four candidates a user and split; the target is at rank user % 6 + 1, so among them for two users in three."""
    return candidates_of(dataset, count=4)


@pytest.fixture(scope="session")
def shop_candidates(shop):
    """Six candidates of some users and each split, as of the toy data set."""
    return candidates_of(shop, count=6, users=18)


def candidates_of(dataset, *, count, users=None):
    found = {}
    for split in ("validation", "test"):
        targets = dataset.targets(split)[:users]
        ranks = np.arange(len(targets)) % 6 + 1
        items = []
        for user, (target, rank) in enumerate(zip(targets, ranks, strict=True)):
            others = np.setdiff1d(np.arange(1, dataset.n_items + 1), dataset.sequence(user))[:count]
            items.append(np.where(np.arange(count) == rank - 1, target, others))
        columns = (np.arange(len(targets)), targets, ranks, np.array(items))
        scores = np.tile(np.arange(count, 0, -1), (len(targets), 1)).astype(np.float32)
        found[split] = Candidates(*(column.astype(np.int32) for column in columns), scores)
    return found
