"""The adapter: low-rank factors beside a frozen backbone's layers (LoRA, arXiv 2106.09685), and its file.

A layer::

    W x  becomes  W x + (α / r) B A x,   B = 0 at first, so that an untrained adapter changes nothing

The factors are trained in float32 whatever the backbone's precision, and kept in bfloat16. PEFT supplies
the layers, and ``PeftModel.from_pretrained`` can load the folder written here; the file of weights also
carries the run's settings in its header, as a checkpoint does.
"""

import hashlib
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from llamarec_core.checkpoint import load_checkpoint, save_checkpoint
from llamarec_core.files import InputError, replacing
from llamarec_core.ranking.backbone import backbone_name
from llamarec_core.settings import RankerSettings

if TYPE_CHECKING:  # PEFT takes seconds to import, and serving does without it
    from peft import PeftModel

WEIGHTS = "adapter_model.safetensors"
"""PEFT's name for an adapter's file of weights."""

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a Llama's block."""


def add_adapter(model: LlamaForCausalLM, settings: RankerSettings, *, seed: int) -> "PeftModel":
    """Put freshly initialised factors beside the layers of the frozen backbone that the settings name, in place.

    The global generator of torch is seeded.

    Raises:
        InputError: a target module is none of :data:`LINEAR_LAYERS`.
    """
    unknown = [name for name in settings.target_modules if name not in LINEAR_LAYERS]
    if unknown or not settings.target_modules:
        raise InputError(
            f"target_modules: {unknown[0] if unknown else 'nothing'} is no linear layer of a Llama: "
            f"choose from {', '.join(LINEAR_LAYERS)}."
        )
    with warnings.catch_warnings():  # it imports bitsandbytes
        warnings.filterwarnings("ignore", message=r"`torch\.jit", category=DeprecationWarning)
        from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.target_modules),
    )
    with warnings.catch_warnings():  # PEFT asks transformers for a property by its former name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        adapted = get_peft_model(model, config)
    config.base_model_name_or_path = backbone_name(settings)  # PEFT notes the folder, which says nothing elsewhere
    for layer in adapted.modules():
        if hasattr(layer, "lora_A"):
            layer.forward = partial(_adapted, layer)
    return adapted


def _adapted(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return what PEFT's layer computes, in the backbone's precision: PEFT casts all inputs to the factors' float32."""
    (name,) = layer.active_adapters
    down, up = (factor[name].weight.to(inputs.dtype) for factor in (layer.lora_A, layer.lora_B))
    low = F.linear(layer.lora_dropout[name](inputs), down) * layer.scaling[name]
    return _plus(layer.base_layer(inputs), low, up)


def _plus(output: torch.Tensor, low: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return output + B (α / r) A x, given (α / r) A x, in one pass over the output."""
    return torch.addmm(output.flatten(0, -2), low.flatten(0, -2), up.T).view_as(output)


def adapter_tensors(model: "PeftModel") -> dict[str, torch.Tensor]:
    """Return the adapter's weights by the names that PEFT gives them in files."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model, save_embedding_layers=False)


def set_adapter_tensors(model: "PeftModel", tensors: dict[str, torch.Tensor]) -> None:
    """Put in weights that :func:`adapter_tensors` returned.

    Raises:
        InputError: they are not of this adapter, by their names and shapes, or not all of them are numbers.
    """
    from peft import set_peft_model_state_dict

    _refuse_others(tensors, {name: tuple(tensor.shape) for name, tensor in adapter_tensors(model).items()})
    set_peft_model_state_dict(model, tensors)


def attach_adapter(model: LlamaForCausalLM, tensors: dict[str, torch.Tensor], settings: RankerSettings) -> None:
    """Put a tuned adapter beside a frozen backbone's layers to rank with: by hooks, as PEFT takes seconds to import.

    Raises:
        InputError: as :func:`set_adapter_tensors`.
    """
    layers = {
        f"base_model.model.{name}": layer
        for name, layer in model.named_modules()
        if name.rpartition(".")[2] in settings.target_modules
    }
    rank, precision = settings.lora_rank, model.lm_head.weight.dtype
    shapes = {f"{name}.lora_A.weight": (rank, layer.in_features) for name, layer in layers.items()}
    shapes |= {f"{name}.lora_B.weight": (layer.out_features, rank) for name, layer in layers.items()}
    _refuse_others(tensors, shapes)
    for name, layer in layers.items():
        down, up = (tensors[f"{name}.lora_{part}.weight"].to(model.device, precision) for part in "AB")
        layer.register_forward_hook(_adding(down, up, settings.lora_alpha / rank))


def _adding(down: torch.Tensor, up: torch.Tensor, scale: float) -> Callable[..., torch.Tensor]:
    def add(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return _plus(output, F.linear(inputs[0], down) * scale, up)

    return add


def _refuse_others(tensors: dict[str, torch.Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise InputError(
                f"The adapter's weight {name} has the shape {found.get(name)}, but these settings make it "
                f"{expected.get(name)}: use the settings that the adapter was tuned with."
            )
        if not torch.isfinite(tensors[name]).all():
            raise InputError(f"The adapter's weight {name} holds values that are not numbers: tune the ranker again.")


def rounded(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return an adapter's weights in bfloat16, as they are kept: half the space, and ranking reads them so."""
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def freeze_adapter(model: "PeftModel", tensors: dict[str, torch.Tensor]) -> None:
    """Put weights in to rank with, in the backbone's precision: beside bfloat16, float32 costs a fifth of the time."""
    set_adapter_tensors(model, tensors)
    precision = model.get_base_model().lm_head.weight.dtype
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(precision)
    model.eval()


def save_adapter(
    folder: Path, model: "PeftModel", tensors: dict[str, torch.Tensor], *, progress: dict[str, Any], settings: dict
) -> None:
    """Write an adapter's folder in PEFT's form, with how its run ended and the settings that it belongs to."""
    with replacing(folder) as temporary:
        model.active_peft_config.save_pretrained(temporary)
        progress = progress | {"weights_sha256": _digest(tensors)}
        save_checkpoint(temporary / WEIGHTS, tensors=tensors, progress=progress, settings=settings)


def load_adapter(folder: Path, *, settings: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read an adapter's weights and how its run ended.

    Raises:
        InputError: there is none, its weights are not those that were written, or it belongs to other settings.
    """
    path = folder / WEIGHTS
    if not path.exists():
        raise InputError(f"{path} is missing: tune the ranker first.")
    tensors, progress = load_checkpoint(path, settings=settings)
    for name, tensor in tensors.items():
        if tensor.dtype != torch.bfloat16:
            raise InputError(
                f"The adapter's weight {name} in {path} is {tensor.dtype}, not bfloat16: copy or tune it again."
            )
    digest = _digest(tensors)
    if progress.get("weights_sha256", digest) != digest:  # older files do not have it
        raise InputError(f"The adapter's weights in {path} are not those that were written: copy or tune it again.")
    return tensors, progress


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    """Return a hash of weights: two of the same shape that were swapped show in nothing else."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
