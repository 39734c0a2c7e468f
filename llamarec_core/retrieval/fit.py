"""Training a retriever: cross-entropy over the whole catalogue, early stopping, resumable after any kill.

As LRURec was published (Yue et al., 2023, section 4.1, and the authors' code). The order of the batches follows from
(seed, epoch), dropout from (seed, step).
"""

from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from llamarec_core.data import Dataset
from llamarec_core.files import InputError
from llamarec_core.retrieval.baselines import NARM, BERT4Rec, SASRec
from llamarec_core.retrieval.candidates import sampled_users, target_ranks
from llamarec_core.retrieval.item_knn import TRIED, ItemKNN
from llamarec_core.retrieval.lru import LRURec
from llamarec_core.retrieval.recommender import SequentialRecommender
from llamarec_core.seeds import rng, torch_seed
from llamarec_core.settings import RetrieverSettings
from llamarec_core.training import Plan, default_device, load_checkpoint, save_checkpoint, train

METHODS = {"lrurec": LRURec, "sasrec": SASRec, "bert4rec": BERT4Rec, "narm": NARM}
"""The retrievers that are trained, by the names that ``RetrieverSettings.method`` gives them."""

MAX_GRADIENT_NORM = 5.0  # as published
ADAM_EPSILON = 1e-9  # as published
POOL = 8  # so many batches are drawn together and sorted by length, so that a batch holds little padding


def fit_retriever(
    dataset: Dataset, settings: RetrieverSettings, *, seed: int, folder: Path
) -> SequentialRecommender | ItemKNN:
    """Train a retriever, or go on with the training that ``folder`` holds, or return the one it holds finished.

    The weights with the best validation Recall@10 are kept as ``retriever.safetensors``. ItemKNN tries its parameters
    instead, one set a validation. The global generator of torch is seeded on the way.
    """
    finished = folder / "retriever.safetensors"
    if not finished.exists():
        torch.manual_seed(seed)
        kind = _ItemKNNTask if settings.method == "item_knn" else GradientTask
        task = kind(_untrained(dataset, settings), dataset, settings, seed=seed)
        identity = _identity(dataset, settings, seed)
        train(
            task,
            task.plan,
            folder=folder,
            identity=identity,
            save=lambda tensors, row: save_checkpoint(finished, tensors=tensors, progress=row, settings=identity),
            description=f"{type(task.model).__name__} on {dataset.name}",
        )
    model = load_retriever(dataset, settings, folder, seed=seed)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)  # a kill at the very end of a run leaves it behind
    return model


def load_retriever(
    dataset: Dataset, settings: RetrieverSettings, folder: Path, *, seed: int | None = None
) -> SequentialRecommender | ItemKNN:
    """Load the retriever of these settings (and seed) that :func:`fit_retriever` left in ``folder``, to evaluate."""
    path = folder / "retriever.safetensors"
    if not path.exists():
        raise InputError(f"{path} is missing: train the retriever first.")
    model = _untrained(dataset, settings)
    model.load_state_dict(load_checkpoint(path, settings=_identity(dataset, settings, seed))[0])
    return model.eval()


def _untrained(dataset: Dataset, settings: RetrieverSettings) -> SequentialRecommender | ItemKNN:
    if settings.method == "item_knn":
        return ItemKNN(dataset)  # whose sparse matrices stay on the CPU
    return METHODS[settings.method](dataset.n_items, settings).to(default_device())


def _identity(dataset: Dataset, settings: RetrieverSettings, seed: int | None) -> dict[str, object]:
    # what a checkpoint must share with a run to belong to it
    about = {"dataset": dataset.name, "content_hash": dataset.content_hash, "n_items": dataset.n_items}
    return settings.model_dump() | about | ({} if seed is None else {"seed": seed})


class _RetrieverTask:
    """What all retrievers share as a :class:`~llamarec_core.training.Task`."""

    counts = ()
    plan: Plan

    def __init__(self, model: nn.Module, dataset: Dataset, settings: RetrieverSettings, *, seed: int):
        self.model, self.dataset, self.settings, self.seed = model, dataset, settings, seed
        self._validated = sampled_users(dataset.n_users, settings.validation_users, "validation")

    def validate(self, steps: int) -> dict[str, float]:
        ranks = target_ranks(self.model, self.dataset, "validation", users=self._validated)
        gains = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)
        return {"recall@10": float(np.mean(ranks <= 10)), "ndcg@10": float(np.mean(gains))}

    def tensors(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict(tensors)


class GradientTask(_RetrieverTask):
    """A sequential recommender, trained by gradient descent; an :class:`InputError` where there is nothing to learn."""

    def __init__(self, model: SequentialRecommender, dataset: Dataset, settings: RetrieverSettings, *, seed: int):
        super().__init__(model, dataset, settings, seed=seed)
        # Biases and norms do not decay, as published, nor do ν and θ: zero is no neutral value for these two.
        groups = [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, eps=ADAM_EPSILON, fused=True)
        self.sequences = training_sequences(dataset, max_length=settings.max_length)
        if not self.sequences:
            raise InputError(f"{dataset.name} holds nothing to learn from: no user has four interactions.")
        self.steps_per_epoch = -(-len(self.sequences) // settings.batch_size)
        self.mean_positions = sum(len(sequence) - 1 for sequence in self.sequences) / self.steps_per_epoch
        self.plan = Plan(
            steps=settings.epochs * self.steps_per_epoch,
            validate_every=settings.validate_every,
            kept_by="recall@10",
            patience=settings.patience,
        )
        self._epoch, self._batches = -1, []

    def draw_batches(self, epoch: int) -> list[np.ndarray]:
        """Draw an epoch's batches, as numbers of sequences: random pools, each sorted by length and cut, shuffled."""
        generator, size = rng(self.seed, epoch), self.settings.batch_size
        lengths = np.array([len(sequence) for sequence in self.sequences])
        order = generator.permutation(len(lengths))
        batches = []
        for pool in np.split(order, range(POOL * size, len(order), POOL * size)):
            by_length = pool[np.argsort(lengths[pool], kind="stable")]
            batches += np.split(by_length, range(size, len(pool), size))
        return [batches[number] for number in generator.permutation(len(batches))]

    def step(self, number: int) -> list[dict[str, float]]:
        """Take a step on the next batch of the epoch."""
        epoch, place = divmod(number, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self.draw_batches(epoch)
        torch.manual_seed(torch_seed(self.seed, number))
        batch = [self.sequences[chosen] for chosen in self._batches[place]]
        states, targets = self.model.train().training_states(batch)
        loss = self.model.loss(states, targets)  # added up over positions
        self.optimizer.zero_grad()
        # batches differ in their number of positions: divided by its mean, each position of the data weighs the same
        (loss / self.mean_positions).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        return [{"loss": loss.item(), "terms": len(targets)}]

    def validate(self, steps: int) -> dict[str, float]:
        """Rank the whole catalogue for the validation targets."""
        return {"epoch": steps / self.steps_per_epoch} | super().validate(steps)


class _ItemKNNTask(_RetrieverTask):
    """ItemKNN, whose step is a try of other parameters."""

    tried: ClassVar = [dict(zip(TRIED, values, strict=True)) for values in product(*TRIED.values())]
    plan = Plan(steps=len(tried), validate_every=1, kept_by="recall@10")

    def __init__(self, model: ItemKNN, dataset: Dataset, settings: RetrieverSettings, *, seed: int):
        super().__init__(model, dataset, settings, seed=seed)
        self.optimizer = torch.optim.SGD(model.parameters())  # takes no step

    def step(self, number: int) -> list[dict[str, float]]:
        for name, value in self.tried[number].items():
            self.model.get_parameter(name).fill_(value)
        return []

    def validate(self, steps: int) -> dict[str, float]:
        return self.tried[steps - 1] | {"epoch": 0.0} | super().validate(steps)


def training_sequences(dataset: Dataset, *, max_length: int) -> list[Tensor]:
    """Cut the training split into sequences of at most ``max_length`` + 1 items, int64, from the end.

    Neighbouring ones share an item, so that every item but a user's first is the target of exactly one position.
    """
    sequences = []
    for user in range(dataset.n_users):
        items = torch.from_numpy(dataset.train(user).astype(np.int64))
        for end in range(len(items), 1, -max_length):
            sequences.append(items[max(end - max_length - 1, 0) : end])
    return sequences
