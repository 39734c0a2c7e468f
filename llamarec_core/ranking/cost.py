"""What ranking costs: operations and trainable weights, counted from the architecture.

For a prompt of n tokens a Llama's blocks need two operations for each weight and token, and causal attention two
products of which half is masked (Kaplan et al., 2020, arXiv 2001.08361, table 1)::

    F(n) = 2 n Σ weights of the linear layers  +  2 n² · dim · layers  +  2 · dim · rows of the head that are read
           −  2 (n − 1) Σ weights of the last block's feed-forward network, which runs only where logits are read.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from llamarec_core.settings import RankerSettings

LLAMA_2_7B = LlamaConfig(max_position_embeddings=4096)
"""The shape of the paper's backbone: transformers' own defaults, but for its length.

:meta hide-value:
"""


def forward_operations(config: LlamaConfig, lengths: Sequence[int], *, head_rows: int) -> int:
    """Count the floating-point operations of prompts of some lengths, with ``head_rows`` logits at each end."""
    blocks, width = _without_weights(config).model.layers, config.hidden_size
    linear, last_feed_forward = _linear_weights(blocks), _linear_weights(blocks[-1].mlp)
    unread = sum(lengths) - len(lengths)  # positions but for the prompts' ends
    attention = width * len(blocks) * sum(length**2 for length in lengths)
    return 2 * (linear * sum(lengths) + attention + width * head_rows * len(lengths) - last_feed_forward * unread)


def trainable_share(config: LlamaConfig, settings: RankerSettings) -> float:
    """Return the adapter's weights, r · (inputs + outputs) of each adapted layer, over those of the backbone."""
    model = _without_weights(config)
    adapted = [layer for name, layer in model.named_modules() if name.rpartition(".")[2] in settings.target_modules]
    adapter = settings.lora_rank * sum(layer.in_features + layer.out_features for layer in adapted)
    return adapter / sum(parameter.numel() for parameter in model.parameters())


def _without_weights(config: LlamaConfig) -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def _linear_weights(part: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in part.modules() if isinstance(layer, nn.Linear))
