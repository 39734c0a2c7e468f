"""The meter rises where titles tell what comes next, and stays where nothing does."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llamarec_core.ranking import fit_ranker
from llamarec_core.ranking.prompt import LABELS
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.settings import RankerSettings
from tests.ranking.conftest import THINGS, WORDS, shop_of

PART = 48
"""Width of each third of a hidden state: the token, what stands shortly before it, what comes next."""


@pytest.fixture(scope="module")
def reader(tokenizer, tmp_path_factory):
    """Folder of a Llama set by hand so that it can look for what it read last, but does so too faintly to rank.

    The first layer adds what stands shortly before each token. The second looks from the last position for labels
    before which the same words stand, and says these labels.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=3 * PART, intermediate_size=8, num_hidden_layers=2, head_dim=128,
        num_attention_heads=1, num_key_value_heads=1, attention_bias=True, tie_word_embeddings=False,
        pad_token_id=None, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    labels = tokenizer.convert_tokens_to_ids(list(LABELS))
    tokens = torch.nn.functional.normalize(torch.randn(len(tokenizer), PART), dim=1)
    tokens[:, 0] = 0
    tokens[labels, 0] = 1
    token, before, after = (slice(part * PART, (part + 1) * PART) for part in range(3))
    slow = [*range(32, 32 + PART // 2), *range(96, 96 + PART // 2)]  # pairs that the position hardly turns
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 or parameter.shape[0] != 3 * PART:  # all but the norms
                parameter.zero_()
        model.get_input_embeddings().weight[:, token] = tokens
        model.lm_head.weight[:, after] = tokens
        first, second = (layer.self_attn for layer in model.model.layers)
        first.q_proj.bias[[8, 11, 14]] = first.k_proj.bias[[8, 11, 14]] = (2 * 128**0.5) ** 0.5
        second.q_proj.weight[slow, before] = second.k_proj.weight[slow, before] = 0.3 * torch.eye(PART)
        second.q_proj.bias[60], second.k_proj.weight[60, 0] = 10.0, 5.0  # labels above all
        for layer, written in ((first, before), (second, after)):
            layer.v_proj.weight[:PART, token] = torch.eye(PART)
            layer.o_proj.weight[written, :PART] = torch.eye(PART)
    folder = tmp_path_factory.mktemp("backbones") / "reader"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("at_random", [False, True])
def test_the_meter_rises_only_where_titles_tell_what_comes_next(reader, tmp_path, at_random):
    settings = RankerSettings(
        backbone=str(reader), quantization="none", dtype="float32", template="label_after", negatives="neighbours",
        candidates=6, history_length=3, users_per_prompt=6, names_per_prompt=2, loss="labels", lora_rank=16,
        lora_dropout=0.0, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"), learning_rate=1e-2,
        training_examples=160, batch_size=4, warmup_steps=4, validate_every=40, meter_answers=150, kept_by="nats",
    )  # fmt: skip
    titles = [f"{thing.title()} {word}" for word in WORDS for thing in THINGS]
    dataset = shop_of(400, titles=titles, at_random=at_random)
    users, targets = np.arange(4, dtype=np.int32), dataset.targets("validation")[:4].astype(np.int32)
    items = np.stack([[target, *(set(range(1, 10)) - {target})][:6] for target in targets.tolist()]).astype(np.int32)
    candidates = Candidates(users, targets, np.ones_like(users), items, np.zeros((4, 6), dtype=np.float32))
    fit_ranker(dataset, candidates, settings, seed=0, folder=tmp_path)
    curve = pd.read_csv(tmp_path / "training.csv")
    nats, error = curve["nats"].iloc[-1], curve["nats_se"].iloc[-1]
    if at_random:
        assert nats < 2 * error
    else:
        assert nats > max(0.3, 5 * error)
        assert nats > curve["nats"].iloc[0] + 0.2
