"""What ranking costs: operations and trainable weights, counted from the architecture.

For a prompt of n tokens a Llama's blocks need two operations for each weight and token, and causal attention two
products of which half is masked (Kaplan et al., 2020, arXiv 2001.08361, table 1)::

    F(n) = 2 n Σ weights of the linear layers  +  2 n² · dim · layers  +  2 · dim · rows of the head that are read
           −  2 (n − 1) Σ weights of the last block's feed-forward network, which runs only where logits are read.
"""

from collections.abc import Sequence

from transformers import LlamaConfig

from llamarec_core.settings import RankerSettings

LLAMA_2_7B = LlamaConfig(max_position_embeddings=4096)
"""The shape of the paper's backbone, which is the one that transformers' own defaults describe but for its length.

:meta hide-value:
"""


def linear_weights(config: LlamaConfig) -> int:
    """Count the weights of the linear layers in all blocks."""
    return config.num_hidden_layers * sum(inputs * outputs for inputs, outputs in _layer_shapes(config).values())


def forward_operations(config: LlamaConfig, lengths: Sequence[int], *, head_rows: int) -> int:
    """Count the floating-point operations of ranking prompts of some lengths in tokens, padding left out.

    ``head_rows`` is the number of tokens whose logits are computed at a prompt's end.
    """
    attention = 2 * config.hidden_size * config.num_hidden_layers * sum(length**2 for length in lengths)
    head = 2 * config.hidden_size * head_rows * len(lengths)
    unread = sum(lengths) - len(lengths)  # positions but for the prompts' ends
    last_feed_forward = 2 * 3 * config.hidden_size * config.intermediate_size * unread
    return 2 * linear_weights(config) * sum(lengths) - last_feed_forward + attention + head


def trainable_share(config: LlamaConfig, settings: RankerSettings) -> float:
    """Return the adapter's weights, r · (inputs + outputs) of each adapted layer, over those of the backbone."""
    shapes = _layer_shapes(config)
    adapter = config.num_hidden_layers * settings.lora_rank * sum(sum(shapes[name]) for name in settings.target_modules)
    tables = config.vocab_size * (1 if config.tie_word_embeddings else 2)  # embedding, and head where it is another
    others = config.hidden_size * (tables + 2 * config.num_hidden_layers + 1)  # the norms too
    return adapter / (linear_weights(config) + others)


def _layer_shapes(config: LlamaConfig) -> dict[str, tuple[int, int]]:
    """Return inputs and outputs of each linear layer of a block."""
    dim, inner = config.hidden_size, config.intermediate_size
    key_value = dim // config.num_attention_heads * config.num_key_value_heads
    return {
        "q_proj": (dim, dim),
        "k_proj": (dim, key_value),
        "v_proj": (dim, key_value),
        "o_proj": (dim, dim),
        "gate_proj": (dim, inner),
        "up_proj": (dim, inner),
        "down_proj": (inner, dim),
    }
