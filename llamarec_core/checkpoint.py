"""Checkpoints of a training run: one safetensors file with the tensors, the progress and the settings.

Nothing is pickled: an optimiser's state is a flat dictionary of tensors, and all else is JSON in the file's header.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from llamarec_core.files import InputError, replacing


def save_checkpoint(
    path: Path, *, tensors: dict[str, torch.Tensor], progress: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Write a checkpoint, whole or not at all: ``progress``, where the run stands, and ``settings`` are JSON values."""
    # one entry: safetensors writes several in an order that changes from run to run
    header = {"llamarec": json.dumps({"progress": progress, "settings": settings})}
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:
            # safetensors reports a full disk as an error of its own; give it back its name
            if "No space left" in str(error):
                raise OSError(28, str(error)) from error
            raise


def load_checkpoint(path: Path, *, settings: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a checkpoint back as (tensors, progress).

    Raises:
        InputError: the file is not a whole checkpoint, or belongs to a run of other settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["llamarec"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        progress, stored = header["progress"], header["settings"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not a whole checkpoint ({error}): delete it to start this step again.") from None
    # a backbone's name says nothing beside the hash of its weights
    undecided = "backbone" if "backbone_sha256" in stored else "backbone_sha256"
    name = first_difference(stored, {name: value for name, value in settings.items() if name != undecided})
    if name:
        raise InputError(
            f"{path} was written with {name} = {stored.get(name)!r}, but this run has {name} = {settings[name]!r}: "
            "delete it to start this step again, or restore the setting."
        )
    return tensors, progress


def first_difference(stored: dict[str, Any], settings: dict[str, Any]) -> str | None:
    """Return the name of the first setting that is not as it was stored, or none; only the run's own are looked at.

    One that is younger than what was stored was off (0, false, none) then.
    """
    # through JSON, so that a tuple and the list that it was stored as count as equal
    for name, value in json.loads(json.dumps(settings)).items():
        if stored[name] != value if name in stored else bool(value):
            return name
    return None


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Flatten an optimiser's state to tensors named ``optimizer.<parameter number>.<quantity>``."""
    return {
        f"optimizer.{number}.{quantity}": value
        for number, state in optimizer.state_dict()["state"].items()
        for quantity, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` took from an optimiser of the same parameters."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in under("optimizer.", tensors).items():
        number, quantity = name.split(".")
        state.setdefault(int(number), {})[quantity] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
