"""What ranking and tuning cost: operations and memory, counted from the architecture.

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


def training_memory(config: LlamaConfig, settings: RankerSettings, *, tokens: int) -> dict[str, float]:
    """Predict what a tuning step keeps in memory, in bytes, without gradient checkpointing and temporaries.

    Args:
        config: the architecture.
        settings: ``quantization``, ``dtype`` and the adapter's fields are read.
        tokens: in one forward pass, padding included.

    Returns:
        ``weights`` of the frozen backbone, ``adapter`` (float32), its ``gradients`` and ``optimizer`` (two moments),
        and ``activations``, what the blocks keep for the backward pass. A frozen layer keeps nothing of its input; what
        is left are the norms' float32 inputs, the attention's inputs and output, three products of the feed-forward
        network, and the adapters' inputs. (The first block keeps a little less than the others, the last nothing of
        its feed-forward network, which runs only where logits are read.)
    """
    size = 4 if settings.dtype == "float32" else 2
    dim, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    key_value = dim // heads * config.num_key_value_heads
    # in blocks of 64: four bits a weight, eight a block, and 32 for each 256 blocks
    quantized = 0.5 + 1 / 64 + 4 / (64 * 256)
    linear = linear_weights(config) * (quantized if settings.quantization == "nf4" else size)
    norm = 4 * dim + 4
    attention = size * (2 * dim + 2 * key_value) + 4 * heads
    copies = 2 if settings.lora_dropout else 1  # the dropout's mask beside its output
    shapes = _layer_shapes(config)
    adapters = {name: 4 * copies * shapes[name][0] + 4 * settings.lora_rank for name in settings.target_modules}
    feed_forward = 3 * inner * size + sum(adapters.get(name, 0) for name in FEED_FORWARD)
    per_block = 2 * norm + attention + 3 * inner * size + sum(adapters.values())
    trainable = adapter_weights(config, settings)
    return {
        "weights": linear + size * _other_weights(config),
        "adapter": 4.0 * trainable,
        "gradients": 4.0 * trainable,
        "optimizer": 8.0 * trainable,
        "activations": float(tokens * (config.num_hidden_layers * per_block - feed_forward + norm)),
    }


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
