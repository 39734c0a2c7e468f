"""Training a retriever: cross-entropy over the whole catalogue, early stopping, resumable after any kill.

At each position of a user's training sequence the model predicts the next item among all items::

    L = − mean over positions t of log softmax(s(h_t))[x_{t+1}],

with AdamW, as LRURec was published (Yue et al., 2023, section 4.1, and the authors' code). Every
:class:`~llamarec_core.retrieval.recommender.SequentialRecommender` is trained here; BERT4Rec predicts hidden items
instead of next ones.

Randomness never depends on the run's past: the order of the batches follows from (seed, epoch) and
dropout from (seed, iteration). So a run that was killed and goes on from its last checkpoint ends
with the same weights, bit for bit, as a run that was left alone on the same machine.

The loop reads a :class:`~llamarec_core.data.Dataset`, keeps ``checkpoint.safetensors`` while it runs,
and leaves ``training.csv`` (the curve) and ``retriever.safetensors`` (the best weights).
"""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from llamarec_core.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint, under
from llamarec_core.data import Dataset
from llamarec_core.files import InputError, replacing
from llamarec_core.retrieval.bert4rec import BERT4Rec
from llamarec_core.retrieval.candidates import target_ranks
from llamarec_core.retrieval.lru import LRURec
from llamarec_core.retrieval.narm import NARM
from llamarec_core.retrieval.recommender import SequentialRecommender
from llamarec_core.retrieval.sasrec import SASRec
from llamarec_core.settings import RetrieverSettings

METHODS = {"lrurec": LRURec, "sasrec": SASRec, "bert4rec": BERT4Rec, "narm": NARM}
"""The sequential recommenders, by the names that ``RetrieverSettings.method`` gives them."""

MAX_GRADIENT_NORM = 5.0
"""A gradient of a larger norm is scaled down to this one, as published."""

ADAM_EPSILON = 1e-9
"""AdamW's ε, as published."""

POOL = 8
"""So many batches are drawn together and sorted by length, so that a batch holds little padding."""


def fit_retriever(
    dataset: Dataset,
    settings: RetrieverSettings,
    *,
    seed: int,
    folder: Path,
    device: str | None = "cpu",
    progress: bool = True,
) -> SequentialRecommender:
    """Train a retriever, or go on with the training that ``folder`` holds, or return the one it holds finished.

    Training ends after ``settings.epochs``, or after ``settings.patience`` validations without a better
    Recall@10 over the whole catalogue. The global generator of torch is seeded on the way.

    Args:
        dataset: its training split is learnt; its validation split decides when to stop and what to keep.
        settings: the model and its training.
        seed: of the initial weights, the order of the batches and dropout.
        folder: where checkpoint, curve and weights are written.
        device: where to train; ``None`` takes the GPU where there is one.
        progress: show a progress bar on stderr.

    Returns:
        The model with its best weights, in evaluation mode.

    Raises:
        InputError: ``folder`` holds a run of other settings, data or seed, or the training diverged.
    """
    folder = Path(folder)
    checkpoint, finished = folder / "checkpoint.safetensors", folder / "retriever.safetensors"
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    model = METHODS[settings.method](dataset.n_items, settings).to(device)
    identity = _identity(dataset, settings) | {"seed": seed}

    if finished.exists():
        best, _ = load_checkpoint(finished, settings=identity, device=device)
        checkpoint.unlink(missing_ok=True)  # a kill between the last two lines of this function leaves it behind
        model.load_state_dict(best)
        return model.eval()

    optimizer = make_optimizer(model, settings)
    best, curve = _copy(model), []
    if checkpoint.exists():
        tensors, reached = load_checkpoint(checkpoint, settings=identity, device=device)
        restore_optimizer(optimizer, tensors)
        model.load_state_dict(under("model.", tensors))
        best, curve = under("best.", tensors), reached["curve"]

    sequences = training_sequences(dataset, max_length=settings.max_length)
    if not sequences:
        raise InputError(f"{dataset.name} holds nothing to learn from: no user has four interactions.")
    total = settings.epochs * _batches_per_epoch(sequences, settings)
    seconds, started = (curve[-1]["seconds"] if curve else 0.0), time.perf_counter()
    bar = tqdm(
        desc=f"{type(model).__name__} on {dataset.name}",
        total=total,
        initial=curve[-1]["iteration"] if curve else 0,
        unit="step",
        mininterval=10,
        disable=not progress,
    )
    with bar:
        while not _has_ended(curve, total=total, patience=settings.patience):
            start = curve[-1]["iteration"] if curve else 0
            stop = min(start + settings.validate_every, total)
            loss = _train(model, optimizer, sequences, settings, seed=seed, start=start, stop=stop, bar=bar)
            metrics = _validate(model, dataset, settings)
            point = {"iteration": stop, "epoch": stop * settings.epochs / total, "training_loss": loss, **metrics}
            curve.append(point | {"seconds": round(seconds + time.perf_counter() - started, 1)})
            bar.set_postfix_str(f"validation Recall@10 {curve[-1]['recall@10']:.4f}", refresh=False)
            if _best(curve) == len(curve) - 1:
                best = _copy(model)
            tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
            tensors |= {f"best.{name}": tensor for name, tensor in best.items()} | optimizer_tensors(optimizer)
            save_checkpoint(checkpoint, tensors=tensors, progress={"curve": curve}, settings=identity)

    with replacing(folder / "training.csv") as temporary:
        pd.DataFrame(curve).to_csv(temporary, index=False)
    # the clock stays out of this file, so that a resumed run and an undisturbed one leave the same
    reached = {name: value for name, value in curve[_best(curve)].items() if name != "seconds"}
    save_checkpoint(finished, tensors=best, progress=reached, settings=identity)
    checkpoint.unlink()
    model.load_state_dict(best)
    return model.eval()


def load_retriever(
    dataset: Dataset, settings: RetrieverSettings, folder: Path, *, device: str = "cpu"
) -> SequentialRecommender:
    """Load the retriever that :func:`fit_retriever` left in ``folder``, in evaluation mode.

    Raises:
        InputError: there is none, or it was trained with other settings or on other data.
    """
    path = Path(folder) / "retriever.safetensors"
    if not path.exists():
        raise InputError(f"{path} is missing: train the retriever first.")
    best, _ = load_checkpoint(path, settings=_identity(dataset, settings), device=device)
    model = METHODS[settings.method](dataset.n_items, settings).to(device)
    model.load_state_dict(best)
    return model.eval()


def training_sequences(dataset: Dataset, *, max_length: int) -> list[Tensor]:
    """Cut the training split into sequences of at most ``max_length`` + 1 items, int64.

    Every item but a user's first is the target of exactly one position: long histories are cut from
    the end, neighbouring sequences sharing one item, which is the target of one and the first input
    of the next.
    """
    sequences = []
    for user in range(dataset.n_users):
        items = torch.from_numpy(dataset.train(user).astype(np.int64))
        for end in range(len(items), 1, -max_length):
            sequences.append(items[max(end - max_length - 1, 0) : end])
    return sequences


def make_optimizer(model: SequentialRecommender, settings: RetrieverSettings) -> torch.optim.AdamW:
    """Return AdamW whose decay spares vectors: biases and norms as published, and ν and θ.

    The published code decays ν and θ, but zero is no neutral value for them: it means a modulus of 1/e and an angle
    of 1.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, eps=ADAM_EPSILON, fused=True)


def training_step(
    model: SequentialRecommender, optimizer: torch.optim.Optimizer, sequences: list[Tensor], *, mean_positions: float
) -> tuple[float, int]:
    """Learn from one batch.

    Args:
        model: in training mode.
        optimizer: from :func:`make_optimizer`.
        sequences: item ids, oldest first, int64 (length,) each, on the model's device.
        mean_positions: the loss is divided by this number. Batches of equal lengths differ in their number of
            positions; dividing by its mean, not by a batch's own, gives every position of the data the same weight.

    Returns:
        The loss added up over the batch's positions, and their number.
    """
    states, targets = model.training_states(sequences)
    loss = model.loss(states, targets)
    optimizer.zero_grad()
    (loss / mean_positions).backward()
    nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    return loss.item(), len(targets)


def _train(
    model: SequentialRecommender,
    optimizer: torch.optim.Optimizer,
    sequences: list[Tensor],
    settings: RetrieverSettings,
    *,
    seed: int,
    start: int,
    stop: int,
    bar: tqdm,
) -> float:
    """Take the optimiser's steps number ``start`` to ``stop`` − 1 and return the mean loss."""
    device = next(model.parameters()).device
    model.train()
    mean_positions = sum(len(sequence) - 1 for sequence in sequences) / _batches_per_epoch(sequences, settings)
    total_loss, total_positions, batches = 0.0, 0, []
    for iteration in range(start, stop):
        epoch, place = divmod(iteration, _batches_per_epoch(sequences, settings))
        if place == 0 or not batches:
            batches = draw_batches(sequences, settings, seed=seed, epoch=epoch)
        torch.manual_seed(int(np.random.SeedSequence((seed, iteration)).generate_state(1)[0]))
        batch = [sequences[number].to(device) for number in batches[place]]
        loss, positions = training_step(model, optimizer, batch, mean_positions=mean_positions)
        if not math.isfinite(loss):
            raise InputError(
                f"Training diverged at iteration {iteration} (loss {loss}) with learning_rate = "
                f"{settings.learning_rate}: delete the run's folder and choose a smaller one."
            )
        total_loss += loss
        total_positions += positions
        bar.update()
    return total_loss / total_positions


def _validate(model: SequentialRecommender, dataset: Dataset, settings: RetrieverSettings) -> dict[str, float]:
    ranks = target_ranks(
        model,
        dataset,
        "validation",
        max_length=settings.max_length,
        exclude_history=settings.validation_candidates == "as_tested",
    )
    gains = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)
    return {"recall@10": float(np.mean(ranks <= 10)), "ndcg@10": float(np.mean(gains))}


def _batches_per_epoch(sequences: list[Tensor], settings: RetrieverSettings) -> int:
    return -(-len(sequences) // settings.batch_size)


def draw_batches(sequences: list[Tensor], settings: RetrieverSettings, *, seed: int, epoch: int) -> list[np.ndarray]:
    """Draw the batches of an epoch, as numbers of sequences: random pools, each sorted by length and cut, shuffled."""
    rng = np.random.default_rng((seed, epoch))
    lengths = np.array([len(sequence) for sequence in sequences])
    order = rng.permutation(len(sequences))
    batches = []
    for pool in _cut(order, POOL * settings.batch_size):
        batches += _cut(pool[np.argsort(lengths[pool], kind="stable")], settings.batch_size)
    return [batches[number] for number in rng.permutation(len(batches))]


def _cut(numbers: np.ndarray, size: int) -> list[np.ndarray]:
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


def _has_ended(curve: list[dict[str, float]], *, total: int, patience: int) -> bool:
    return bool(curve) and (curve[-1]["iteration"] >= total or len(curve) - 1 - _best(curve) >= patience)


def _best(curve: list[dict[str, float]]) -> int:
    """Return which validation was the best; the earliest of equals."""
    return int(np.argmax([point["recall@10"] for point in curve]))


def _identity(dataset: Dataset, settings: RetrieverSettings) -> dict[str, Any]:
    """Return what a checkpoint must share with a run to belong to it."""
    return settings.model_dump() | {
        "dataset": dataset.name,
        "content_hash": dataset.content_hash,
        "n_items": dataset.n_items,
    }


def _copy(model: SequentialRecommender) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
