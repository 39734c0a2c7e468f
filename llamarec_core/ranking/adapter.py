"""The adapter: low-rank factors beside a frozen backbone's layers (LoRA, arXiv 2106.09685), its file and its steps.

A layer::

    W x  becomes  W x + (α / r) B A x,   B = 0 at first, so that an untrained adapter changes nothing

The factors are trained in float32 whatever the backbone's precision, and kept in bfloat16. PEFT supplies
the layers, and ``PeftModel.from_pretrained`` can load the folder written here; the file of weights also
carries the run's settings in its header, as a checkpoint does.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from llamarec_core.checkpoint import load_checkpoint, save_checkpoint
from llamarec_core.files import InputError, replacing, write_json
from llamarec_core.ranking.backbone import backbone_name, quietly
from llamarec_core.ranking.examples import TrainingExamples
from llamarec_core.ranking.verbalizer import NextTokenLogits
from llamarec_core.seeds import torch_seed
from llamarec_core.settings import RankerSettings
from llamarec_core.training import Plan, Tensors, train

if TYPE_CHECKING:  # slow to import, and serving does without them
    from accelerate import Accelerator
    from peft import PeftModel

WEIGHTS = "adapter_model.safetensors"  # PEFT's name

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MAX_GRADIENT_NORM = 1.0


def add_adapter(model: LlamaForCausalLM, settings: RankerSettings, *, seed: int) -> "PeftModel":
    """Put freshly initialised factors beside the layers of the frozen backbone that the settings name, in place.

    The global generator of torch is seeded. An :class:`InputError` names a target module that is no linear layer.
    """
    unknown = [name for name in settings.target_modules if name not in LINEAR_LAYERS]
    if unknown or not settings.target_modules:
        raise InputError(
            f"target_modules: {unknown[0] if unknown else 'nothing'} is no linear layer of a Llama: "
            f"choose from {', '.join(LINEAR_LAYERS)}."
        )
    with quietly():
        from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.target_modules),
    )
    with quietly():
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
    """Put in weights that :func:`adapter_tensors` returned, or raise an :class:`InputError` where they do not fit."""
    from peft import set_peft_model_state_dict

    _refuse_others(tensors, {name: tuple(tensor.shape) for name, tensor in adapter_tensors(model).items()})
    set_peft_model_state_dict(model, tensors)


def attach_adapter(model: LlamaForCausalLM, tensors: dict[str, torch.Tensor], settings: RankerSettings) -> None:
    """Put a tuned adapter beside a frozen backbone's layers to rank with: by hooks, as PEFT takes seconds to import.

    An :class:`InputError` says where its weights do not fit.
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

    def add(_: nn.Module, inputs: tuple, output: torch.Tensor, *, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return _plus(output, F.linear(inputs[0], down) * (settings.lora_alpha / rank), up)

    for name, layer in layers.items():
        down, up = (tensors[f"{name}.lora_{part}.weight"].to(model.device, precision) for part in "AB")
        layer.register_forward_hook(partial(add, down=down, up=up))


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


def freeze_adapter(model: "PeftModel", tensors: dict[str, torch.Tensor]) -> None:
    """Put weights in to rank with, in the backbone's precision: beside bfloat16, float32 costs a fifth of the time."""
    set_adapter_tensors(model, tensors)
    precision = model.get_base_model().lm_head.weight.dtype
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(precision)
    model.eval()


def load_adapter(folder: Path, *, settings: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read an adapter's weights, as they were written and of these settings, and how its run ended."""
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


class AdapterTask:
    """An adapter's steps, ``steps`` in all: AdamW on its weights. Subclasses add ``loss`` and ``validate``."""

    def __init__(
        self,
        model: "PeftModel",
        examples: TrainingExamples,
        settings: RankerSettings,
        *,
        seed: int,
        accelerator: "Accelerator",
    ):
        self.model, self.examples, self.settings = model, examples, settings
        self.seed, self.accelerator = seed, accelerator
        per_epoch = min(settings.training_examples or len(examples), len(examples))
        self.steps = settings.epochs * -(-per_epoch // (settings.batch_size * settings.gradient_accumulation))
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=0.0)
        self._network, self._wrapped = accelerator.prepare(NextTokenLogits(model), self.optimizer)

    def step(self, number: int) -> list[dict[str, float]]:
        """Take one optimiser step over this process's micro-batches."""
        settings, accelerator, counted = self.settings, self.accelerator, []
        self._network.train()
        for place in range(accelerator.process_index, settings.gradient_accumulation, accelerator.num_processes):
            micro_batch = number * settings.gradient_accumulation + place
            first = micro_batch * settings.batch_size
            torch.manual_seed(torch_seed(self.seed, micro_batch))
            with accelerator.accumulate(self._network):
                loss, counts = self.loss(range(first, first + settings.batch_size))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self._network.parameters(), MAX_GRADIENT_NORM)
                self._wrapped.step()
                self._wrapped.zero_grad()
            counted.append({"loss": loss.item(), **counts})
        return counted

    def tensors(self) -> Tensors:
        """Return the adapter's weights."""
        return adapter_tensors(self.model)

    def restore(self, tensors: Tensors) -> None:
        """Put back the adapter's weights."""
        set_adapter_tensors(self.model, tensors)

    def tune(self, plan: Plan, *, folder: Path, identity: dict[str, Any], description: str) -> Tensors:
        """Train, and leave ``ranker.json`` and ``adapter/``, in PEFT's form; return the best adapter as it is kept."""

        def rounded(tensors: Tensors) -> Tensors:
            # half the space, and ranking reads them so
            return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}

        def save(best: Tensors, row: dict[str, Any]) -> None:
            write_json(folder / "ranker.json", identity | {"best": row})
            tensors = rounded(best)
            with replacing(folder / "adapter") as temporary:
                self.model.active_peft_config.save_pretrained(temporary)
                progress = {"best": row, "weights_sha256": _digest(tensors)}
                save_checkpoint(temporary / WEIGHTS, tensors=tensors, progress=progress, settings=identity)

        options = {"folder": folder, "identity": identity, "description": description}
        return rounded(train(self, plan, save=save, accelerator=self.accelerator, **options))


def make_accelerator(settings: RankerSettings) -> "Accelerator":
    """Return the accelerator of this process: on GPUs where there are any, else on the CPU.

    An :class:`InputError` says if the accumulation cannot be shared out evenly to the processes.
    """
    from accelerate import Accelerator

    plain = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    if settings.gradient_accumulation % plain.num_processes:
        raise InputError(
            f"gradient_accumulation: {settings.gradient_accumulation} forward passes cannot be shared out to "
            f"{plain.num_processes} processes: choose a multiple of {plain.num_processes}."
        )
    plain.gradient_accumulation_steps = settings.gradient_accumulation // plain.num_processes
    return plain
