"""The adapter: low-rank factors beside a frozen backbone's layers (LoRA, arXiv 2106.09685), its steps and its file.

    W x  becomes  W x + (α / r) B A x,   B = 0 at first, so that an untrained adapter changes nothing

The factors are trained in float32 and kept in bfloat16, in a folder that PEFT can load too.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from llamarec_core.data import Dataset
from llamarec_core.files import InputError, replacing, write_json
from llamarec_core.ranking.backbone import backbone_name, backbone_sha256, load_backbone, quietly
from llamarec_core.ranking.examples import TrainingExamples
from llamarec_core.ranking.prompt import PromptBuilder
from llamarec_core.ranking.verbalizer import NextTokenLogits
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.seeds import torch_seed
from llamarec_core.settings import RankerSettings
from llamarec_core.training import Plan, Tensors, load_checkpoint, save_checkpoint, train

if TYPE_CHECKING:  # slow to import, and serving does without them
    from accelerate import Accelerator
    from peft import PeftModel

WEIGHTS = "adapter_model.safetensors"  # PEFT's name

NOT_SHAPING = {"minutes", "start_from"}
"""Settings that may differ from those of an adapter's tuning when it is loaded."""

MAX_GRADIENT_NORM = 1.0


def identity(dataset: Dataset, settings: RankerSettings) -> dict[str, Any]:
    """Return what an adapter belongs to, as JSON values: the data, the backbone, and all settings that shaped it."""
    shaping = settings.model_dump(mode="json", exclude=NOT_SHAPING)
    backbone = {"backbone": backbone_name(settings), "backbone_sha256": backbone_sha256(settings)}
    return shaping | backbone | {"dataset": dataset.name, "data": dataset.content_hash}


def add_adapter(model: LlamaForCausalLM, settings: RankerSettings, *, seed: int) -> "PeftModel":
    """Put fresh factors beside the target modules of a frozen backbone, in place; torch's generator is seeded."""
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


def attach_adapter(model: LlamaForCausalLM, tensors: Tensors, settings: RankerSettings) -> None:
    """Put a tuned adapter beside a backbone's layers to rank with: by hooks, as PEFT takes seconds to import."""
    refuse_unfit(tensors, model, settings)
    rank, precision = settings.lora_rank, model.lm_head.weight.dtype

    def add(_: nn.Module, inputs: tuple, output: torch.Tensor, *, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return _plus(output, F.linear(inputs[0], down) * (settings.lora_alpha / rank), up)

    for name, layer in _adapted_layers(model, settings).items():
        down, up = (tensors[f"{name}.lora_{part}.weight"].to(model.device, precision) for part in "AB")
        layer.register_forward_hook(partial(add, down=down, up=up))


def refuse_unfit(tensors: Tensors, model: LlamaForCausalLM, settings: RankerSettings) -> None:
    """Refuse an adapter whose weights do not fit beside the layers of a model, which needs no weights of its own."""
    rank, layers = settings.lora_rank, _adapted_layers(model, settings)
    shapes = {f"{name}.lora_A.weight": (rank, layer.in_features) for name, layer in layers.items()}
    shapes |= {f"{name}.lora_B.weight": (layer.out_features, rank) for name, layer in layers.items()}
    _refuse_other_shapes(tensors, shapes)


def _adapted_layers(model: LlamaForCausalLM, settings: RankerSettings) -> dict[str, nn.Linear]:
    """Return the layers that the settings adapt, by the names that PEFT gives them."""
    named = model.named_modules()
    return {f"base_model.model.{name}": of for name, of in named if name.rpartition(".")[2] in settings.target_modules}


def _refuse_other_shapes(tensors: Tensors, expected: dict[str, tuple[int, ...]]) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise InputError(
                f"The adapter's weight {name} has the shape {found.get(name)}, but these settings make it "
                f"{expected.get(name)}: use the settings that the adapter was tuned with."
            )


def load_adapter(folder: Path, *, settings: dict[str, Any]) -> Tensors:
    """Read the weights of an adapter of these settings, as they were written."""
    path = folder / WEIGHTS
    if not path.exists():
        raise InputError(f"{path} is missing: tune the ranker first.")
    tensors, progress = load_checkpoint(path, settings=settings)
    for name, tensor in tensors.items():
        if tensor.dtype != torch.bfloat16 or not tensor.isfinite().all():
            raise InputError(f"The adapter's weight {name} in {path} is not finite bfloat16: copy or tune it again.")
    digest = _digest(tensors)
    if progress.get("weights_sha256", digest) != digest:  # older files do not have it
        raise InputError(f"The adapter's weights in {path} are not those that were written: copy or tune it again.")
    return tensors


def _digest(tensors: Tensors) -> str:
    """Return a hash of weights: two of the same shape that were swapped show in nothing else."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class AdapterTask:
    """A fresh adapter and its steps, ``steps`` in all, by AdamW. Subclasses add ``loss`` and ``validate``."""

    def __init__(self, dataset: Dataset, validation: Candidates | None, settings: RankerSettings, *, seed: int):
        self.dataset, self.validation, self.settings, self.seed = dataset, validation, settings, seed
        self.accelerator = accelerator = _accelerator(settings)
        model, tokenizer = load_backbone(settings)
        self.model = add_adapter(model, settings, seed=seed)
        self.prompts = PromptBuilder(tokenizer, dataset.titles, settings)
        self.examples = TrainingExamples(dataset, settings, self.prompts.titles, seed=seed)
        per_epoch = min(settings.training_examples or len(self.examples), len(self.examples))
        self.steps = settings.epochs * -(-per_epoch // (settings.batch_size * settings.gradient_accumulation))
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=0.0)
        self._network, self._wrapped = accelerator.prepare(NextTokenLogits(self.model), self.optimizer)

    def step(self, number: int) -> list[dict[str, float]]:
        """Take one optimiser step over this process's micro-batches."""
        settings, accelerator, counted = self.settings, self.accelerator, []
        self._network.train()
        for index in range(accelerator.process_index, settings.gradient_accumulation, accelerator.num_processes):
            micro_batch = number * settings.gradient_accumulation + index
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
        """Return the adapter's weights by the names that PEFT gives them in files."""
        from peft import get_peft_model_state_dict

        return get_peft_model_state_dict(self.model, save_embedding_layers=False)

    def restore(self, tensors: Tensors) -> None:
        """Put back the adapter's weights."""
        from peft import set_peft_model_state_dict

        _refuse_other_shapes(tensors, {name: tuple(tensor.shape) for name, tensor in self.tensors().items()})
        set_peft_model_state_dict(self.model, tensors)

    def tune(self, plan: Plan, *, folder: Path, identity: dict[str, Any], description: str) -> None:
        """Train, and leave ``ranker.json`` and, in PEFT's form, ``adapter/`` with the best weights."""

        def save(best: Tensors, row: dict[str, Any]) -> None:
            write_json(folder / "ranker.json", identity | {"best": row, "minutes": plan.minutes})
            # half the space, and ranking reads them so
            tensors = {name: tensor.to(torch.bfloat16) for name, tensor in best.items()}
            with replacing(folder / "adapter") as temporary:
                self.model.active_peft_config.save_pretrained(temporary)
                progress = {"best": row, "weights_sha256": _digest(tensors)}
                save_checkpoint(temporary / WEIGHTS, tensors=tensors, progress=progress, settings=identity)

        options = {"folder": folder, "identity": identity, "description": description}
        train(self, plan, save=save, accelerator=self.accelerator, **options)


def _accelerator(settings: RankerSettings) -> "Accelerator":
    """Return the accelerator of this process: on GPUs where there are any, else on the CPU."""
    from accelerate import Accelerator

    plain = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    if settings.gradient_accumulation % plain.num_processes:
        raise InputError(
            f"gradient_accumulation: {settings.gradient_accumulation} forward passes cannot be shared out to "
            f"{plain.num_processes} processes: choose a multiple of {plain.num_processes}."
        )
    plain.gradient_accumulation_steps = settings.gradient_accumulation // plain.num_processes
    return plain
