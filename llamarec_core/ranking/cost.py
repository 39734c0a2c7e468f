"""What ranking costs: operations and trainable weights, counted from the architecture.

For a prompt of n tokens a Llama's blocks need two operations for each weight and token, and causal attention two
products of which half is masked (Kaplan et al., 2020, arXiv 2001.08361, table 1)::

    F(n) = 2 n Σ weights of the linear layers  +  2 n² · dim · layers  +  2 · dim · rows of the head that are read
           −  2 (n − 1) Σ weights of the last block's feed-forward network, which runs only where logits are read.
"""

from collections.abc import Iterable

from transformers import LlamaConfig

from llamarec_core.settings import RankerSettings

LLAMA_2_7B = LlamaConfig(max_position_embeddings=4096)
"""The shape of the paper's backbone, which is the one that transformers' own defaults describe but for its length."""

FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
"""The linear layers of a block's feed-forward network."""


def linear_weights(config: LlamaConfig) -> int:
    """Count the weights of the linear layers in all blocks: those that every token meets."""
    return config.num_hidden_layers * sum(inputs * outputs for inputs, outputs in _layer_shapes(config).values())


def forward_operations(config: LlamaConfig, lengths: Iterable[int], *, head_rows: int) -> int:
    """Count the floating-point operations of ranking prompts by the verbalizer, padding left out.

    Args:
        config: the architecture.
        lengths: the prompts' lengths in tokens.
        head_rows: tokens whose logits are computed at a prompt's end.
    """
    lengths = list(lengths)
    attention = 2 * config.hidden_size * config.num_hidden_layers * sum(length**2 for length in lengths)
    head = 2 * config.hidden_size * head_rows * len(lengths)
    shapes = _layer_shapes(config)
    feed_forward = sum(shapes[name][0] * shapes[name][1] for name in FEED_FORWARD)
    unread = sum(lengths) - len(lengths)  # positions but for the prompts' ends
    return 2 * linear_weights(config) * sum(lengths) - 2 * feed_forward * unread + attention + head


def adapter_weights(config: LlamaConfig, settings: RankerSettings) -> int:
    """Count the trainable weights: r · (inputs + outputs) of each layer that gets an adapter."""
    shapes = _layer_shapes(config)
    per_block = sum(settings.lora_rank * sum(shapes[name]) for name in settings.target_modules)
    return config.num_hidden_layers * per_block


def trainable_share(config: LlamaConfig, settings: RankerSettings) -> float:
    """Return the adapter's weights over those of the backbone."""
    return adapter_weights(config, settings) / (linear_weights(config) + _other_weights(config))


def _other_weights(config: LlamaConfig) -> int:
    """Count the weights of the embedding, of the head where it is not the embedding, and of the norms."""
    tables = config.vocab_size * (1 if config.tie_word_embeddings else 2)
    return config.hidden_size * (tables + 2 * config.num_hidden_layers + 1)


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
