"""The adapter: low-rank factors beside a frozen backbone's layers (LoRA, arXiv 2106.09685), and its file.

A layer::

    W x  becomes  W x + (α / r) B A x,   B = 0 at first, so that an untrained adapter changes nothing

The factors are trained in float32 whatever the backbone's precision, and kept in bfloat16. PEFT supplies
the layers, and ``PeftModel.from_pretrained`` can load the folder written here; the file of weights also
carries the run's settings in its header, as a checkpoint does.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import LlamaForCausalLM

from llamarec_core.checkpoint import load_checkpoint, save_checkpoint
from llamarec_core.files import InputError, replacing
from llamarec_core.ranking.backbone import backbone_name
from llamarec_core.settings import RankerSettings

WEIGHTS = "adapter_model.safetensors"
"""PEFT's name for an adapter's file of weights."""

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a Llama's block."""


def add_adapter(model: LlamaForCausalLM, settings: RankerSettings, *, seed: int) -> PeftModel:
    """Put freshly initialised factors beside the layers that the settings name.

    Args:
        model: the frozen backbone; it is changed in place.
        settings: ``lora_rank``, ``lora_alpha``, ``lora_dropout`` and ``target_modules`` are read.
        seed: of the initial A; the global generator of torch is seeded with it.

    Raises:
        InputError: a target module is none of :data:`LINEAR_LAYERS`.
    """
    unknown = [name for name in settings.target_modules if name not in LINEAR_LAYERS]
    if unknown or not settings.target_modules:
        raise InputError(
            f"target_modules: {unknown[0] if unknown else 'nothing'} is no linear layer of a Llama: "
            f"choose from {', '.join(LINEAR_LAYERS)}."
        )
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
    return adapted


def adapter_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the adapter's weights by the names that PEFT gives them in files."""
    return get_peft_model_state_dict(model, save_embedding_layers=False)


def set_adapter_tensors(model: PeftModel, tensors: dict[str, torch.Tensor]) -> None:
    """Put in weights that :func:`adapter_tensors` returned.

    Raises:
        InputError: they are not of this adapter, by their names and shapes, or not all of them are numbers.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in adapter_tensors(model).items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise InputError(
                f"The adapter's weight {name} has the shape {found.get(name)}, but these settings make it "
                f"{expected.get(name)}: use the settings that the adapter was tuned with."
            )
        if not torch.isfinite(tensors[name]).all():
            raise InputError(f"The adapter's weight {name} holds values that are not numbers: tune the ranker again.")
    set_peft_model_state_dict(model, tensors)


def rounded(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return an adapter's weights in bfloat16, as they are kept: half the space, and ranking reads them so."""
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def freeze_adapter(model: PeftModel, tensors: dict[str, torch.Tensor]) -> None:
    """Put weights in to rank with, in the backbone's precision: beside bfloat16, float32 costs a fifth of the time."""
    set_adapter_tensors(model, tensors)
    precision = model.get_base_model().lm_head.weight.dtype
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(precision)
    model.eval()


def save_adapter(
    folder: Path, model: PeftModel, tensors: dict[str, torch.Tensor], *, progress: dict[str, Any], settings: dict
) -> None:
    """Write an adapter's folder in PEFT's form, whole or not at all.

    Args:
        folder: where ``adapter_config.json`` and ``adapter_model.safetensors`` go.
        model: whose configuration is written.
        tensors: the weights, as of :func:`adapter_tensors`.
        progress: how the run ended.
        settings: what the run was started with; :func:`load_adapter` refuses another.
    """
    with replacing(folder) as temporary:
        model.active_peft_config.save_pretrained(temporary)
        save_checkpoint(temporary / WEIGHTS, tensors=tensors, progress=progress, settings=settings)


def load_adapter(folder: Path, *, settings: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read an adapter's weights and how its run ended.

    Raises:
        InputError: there is none, it is damaged, or it was tuned with other settings.
    """
    if not (folder / WEIGHTS).exists():
        raise InputError(f"{folder / WEIGHTS} is missing: tune the ranker first.")
    return load_checkpoint(folder / WEIGHTS, settings=settings)


def kept_row(folder: Path) -> dict[str, Any] | None:
    """Return the row of the curve at which an adapter was kept, or ``None`` where there is no adapter."""
    return load_adapter(folder, settings={})[1]["best"] if folder.is_dir() else None
