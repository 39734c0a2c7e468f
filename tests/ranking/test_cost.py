"""Operations counted from the architecture are those that torch counts."""

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from llamarec_core.ranking.cost import LLAMA_2_7B, forward_operations, trainable_share
from llamarec_core.ranking.verbalizer import NextTokenLogits
from llamarec_core.settings import load_profile
from tests.conftest import ROOT


def test_the_operations_are_those_that_torch_counts():
    config = LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=None, attn_implementation="eager",
    )  # fmt: skip
    llama = LlamaForCausalLM(config).eval()
    tokens, whole_attention = torch.randint(500, (1, 40)), 2 * 64 * 3 * 40**2  # torch counts what the mask leaves out
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        NextTokenLogits(llama)(tokens, torch.tensor([40]), torch.arange(20))
    assert counter.get_total_flops() == forward_operations(config, [40], head_rows=20) + whole_attention
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        llama(tokens, use_cache=False)
    # the plain way takes the whole head and one more feed-forward network
    more = 2 * 64 * 500 * 40 + 2 * 3 * 64 * 160 * 39 + whole_attention
    assert counter.get_total_flops() == forward_operations(config, [40], head_rows=0) + more
    one, other, both = (forward_operations(config, of, head_rows=20) for of in ([30], [50], [30, 50]))
    assert both == one + other


def test_the_paper_profile_trains_less_than_a_thousandth_of_llama_2_7b():
    ranker = load_profile(ROOT / "notebooks" / "profiles" / "paper.yaml").ranker
    assert trainable_share(LLAMA_2_7B, ranker) == 4_194_304 / 6_738_415_616  # 0.06 %
    assert ranker.batch_size * ranker.gradient_accumulation == 16  # as published
