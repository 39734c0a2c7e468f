"""Operations counted from the architecture are those that torch counts."""

from pathlib import Path

import bitsandbytes
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from llamarec_core.ranking import load_backbone
from llamarec_core.ranking.adapter import add_adapter
from llamarec_core.ranking.cost import (
    LLAMA_2_7B,
    adapter_weights,
    forward_operations,
    linear_weights,
    trainable_share,
    training_memory,
)
from llamarec_core.ranking.verbalizer import NextTokenLogits
from llamarec_core.settings import RankerSettings, load_profile

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def llama():
    config = LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=None, attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_the_weights_are_those_of_the_linear_layers(llama):
    counted = sum(p.numel() for name, p in llama.named_parameters() if "proj" in name)
    assert linear_weights(llama.config) == counted


def test_the_operations_are_those_that_torch_counts(llama):
    tokens = torch.randint(500, (1, 40))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        NextTokenLogits(llama)(tokens, torch.tensor([40]), torch.arange(20))
    whole_attention = 4 * 64 * 3 * 40**2  # torch counts what the mask leaves out as well
    ours = forward_operations(llama.config, [40], head_rows=20)
    assert counter.get_total_flops() == ours + whole_attention / 2


def test_the_plain_way_takes_the_whole_head_and_one_more_feed_forward_network(llama):
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        llama(torch.randint(500, (1, 40)), use_cache=False)
    more = 2 * 64 * 500 * 40 + 2 * 3 * 64 * 160 * 39 + 2 * 64 * 3 * 40**2
    assert counter.get_total_flops() == forward_operations(llama.config, [40], head_rows=0) + more


def test_two_prompts_cost_the_sum_and_each_head_row_is_counted(llama):
    one, other = (forward_operations(llama.config, [length], head_rows=20) for length in (30, 50))
    assert forward_operations(llama.config, [30, 50], head_rows=20) == one + other
    assert one - forward_operations(llama.config, [30], head_rows=0) == 2 * 64 * 20


def kept_for_backward(model, tokens):
    """Bytes of all tensors, but the weights, that a forward pass keeps for the backward pass."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes(), tensor  # the tensor, so that its place is not given away
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        NextTokenLogits(model)(tokens, torch.full((len(tokens),), tokens.shape[1]))
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize(
    ("dtype", "modules", "dropout"),
    [
        ("bfloat16", ("q_proj", "v_proj"), 0.05),
        ("float32", ("q_proj", "v_proj"), 0.05),
        ("bfloat16", ("q_proj", "o_proj", "gate_proj", "down_proj"), 0.05),
        ("bfloat16", ("k_proj", "v_proj"), 0.0),
    ],
)
def test_a_tuning_step_keeps_the_memory_that_is_predicted(dtype, modules, dropout):
    config = LlamaConfig(
        vocab_size=500, hidden_size=128, intermediate_size=320, num_hidden_layers=10, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=None,
    )  # fmt: skip
    settings = RankerSettings(dtype=dtype, quantization="none", target_modules=modules, lora_dropout=dropout)
    model = LlamaForCausalLM(config).to(getattr(torch, dtype)).requires_grad_(False)
    backbone = sum(parameter.nbytes for parameter in model.parameters())
    model = add_adapter(model, settings, seed=0).train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    predicted = training_memory(config, settings, tokens=200)
    assert predicted["weights"] == backbone
    assert predicted["adapter"] == sum(parameter.nbytes for parameter in trainable)
    assert adapter_weights(config, settings) == sum(parameter.numel() for parameter in trainable)
    kept = kept_for_backward(model, torch.randint(500, (4, 50)))
    assert predicted["activations"] == pytest.approx(kept, rel=0.04)


def test_nf4_weights_take_the_memory_that_is_predicted(tiny):
    settings = tiny.settings.model_copy(update={"quantization": "nf4", "dtype": "bfloat16"})
    model, _ = load_backbone(settings, device="cpu")
    size = sum(parameter.nbytes for parameter in model.parameters())
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            state = module.weight.quant_state
            size += state.absmax.nbytes + state.state2.absmax.nbytes
    assert training_memory(model.config, settings, tokens=1)["weights"] == pytest.approx(size, rel=0.01)


def test_the_paper_profile_trains_less_than_a_thousandth_of_llama_2_7b_and_fits_its_gpu():
    profile = load_profile(ROOT / "notebooks" / "profiles" / "paper.yaml")
    config = LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).requires_grad_(False)
        total = sum(parameter.numel() for parameter in model.parameters())
        adapted = add_adapter(model, profile.ranker, seed=0)
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert total == 6_738_415_616
    assert trainable == adapter_weights(config, profile.ranker) == 4_194_304  # 0.06 %
    assert trainable_share(LLAMA_2_7B, profile.ranker) == trainable / total
    assert profile.ranker.batch_size * profile.ranker.gradient_accumulation == 16  # as published
    longest = 16 + (profile.ranker.history_length + profile.ranker.candidates) * (profile.ranker.title_tokens + 6)
    memory = training_memory(config, profile.ranker, tokens=profile.ranker.batch_size * longest)
    assert sum(memory.values()) < 40e9
