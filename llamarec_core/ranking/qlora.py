"""QLoRA: tune the ranker and load it again (LlamaRec, sections 3.2.3 and 4.1; QLoRA, arXiv 2305.14314).

The backbone stays frozen, and quantised if the settings say so; an adapter is trained on the label
alone. Validation ranks the retriever's own candidates with the verbalizer, once before any step
(zero-shot) and then at intervals; the adapter of the best NDCG@10 is kept::

    candidates file, Dataset ──fit_ranker──▶ folder ──load_ranker──▶ VerbalizerRanker ──rerank──▶ ranks

While it runs, the folder holds ``checkpoint.safetensors``; in the end ``training.csv`` (the curve),
``ranker.json`` (settings and outcome, for people), ``circumstances.json`` (commit, machine, peak memory) and
``adapter/``, which PEFT can load too. Several processes (``accelerate launch``, ``torchrun``) need a folder that all
of them see.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from llamarec_core.checkpoint import load_checkpoint, save_checkpoint
from llamarec_core.data import Dataset
from llamarec_core.files import InputError, replacing, write_json
from llamarec_core.provenance import circumstances, peak_memory_mib
from llamarec_core.ranking.adapter import add_adapter, freeze_adapter, load_adapter, save_adapter
from llamarec_core.ranking.backbone import backbone_name, load_backbone
from llamarec_core.ranking.batches import Teacher
from llamarec_core.ranking.binding import bind_labels
from llamarec_core.ranking.prompt import PromptBuilder
from llamarec_core.ranking.rerank import candidate_items, retrieved_rows
from llamarec_core.ranking.tuning import Tuning, best_row, make_accelerator
from llamarec_core.ranking.verbalizer import VerbalizerRanker
from llamarec_core.settings import RankerSettings


def fit_ranker(
    dataset: Dataset,
    candidates: pd.DataFrame,
    settings: RankerSettings,
    *,
    seed: int,
    folder: Path,
    binding_folder: Path | None = None,
    retrieved: pd.DataFrame | None = None,
    teacher: Teacher | None = None,
    progress: bool = True,
) -> VerbalizerRanker:
    """Tune a ranker, or go on with the tuning that ``folder`` holds, or return the one it holds finished.

    The global generator of torch is seeded on the way.

    Args:
        dataset: prefixes of its training split are learnt.
        candidates: the retriever's candidates; those for validation decide which adapter is kept.
        settings: backbone, prompt, adapter and tuning.
        seed: of the adapter's initial weights, the examples, dropout and the choice of validation users.
        folder: where checkpoint, curve and adapter are written.
        binding_folder: where the label-binding phase is kept, if not in ``folder``: several tunings may share it.
        retrieved: what the retriever recommends after each training sequence (``user``, ``target``, ``items``), for
            settings that draw negatives from it.
        teacher: the retriever, as :func:`llamarec_core.retrieval.scorer` returns it, for settings with soft targets.
        progress: show a progress bar on stderr.

    Returns:
        The ranker with its best adapter.

    Raises:
        InputError: ``folder`` holds a run of other settings, data, candidates or seed; no user's target is
            among the candidates; the loss is no longer a number; the teacher is missing; or backbone, prompts or
            adapter are refused.
    """
    if settings.soft_targets and teacher is None:
        raise InputError("soft_targets need the retriever that they come from: give it as teacher.")
    folder = Path(folder)
    chosen = {"size": settings.candidates, "users": settings.validation_users, "seed": seed}
    validation = retrieved_rows(candidates, "validation", **chosen)
    identity = _identity(dataset, settings) | {"seed": seed, "validation": _rows_hash(validation)}
    if settings.negatives == "retrieved" and retrieved is not None:
        identity["retrieved"] = _rows_hash(retrieved)
    checkpoint, finished = folder / "checkpoint.safetensors", folder / "adapter"
    if finished.is_dir():
        load_adapter(finished, settings=identity)  # refuses the adapter of another run
        checkpoint.unlink(missing_ok=True)  # a kill between the last two lines of this function leaves it behind
        return load_ranker(dataset, settings, folder)
    reached = None
    if checkpoint.exists():
        tensors, reached = load_checkpoint(checkpoint, settings=identity)

    made = circumstances(Path(__file__).parent)  # now, because the code on disk may change while it runs
    accelerator = make_accelerator(settings)
    model, tokenizer = load_backbone(settings, device=accelerator.device)
    prompts = PromptBuilder(tokenizer, dataset.titles, settings)
    model = add_adapter(model, settings, seed=seed)
    ranker = VerbalizerRanker(model, prompts, batch_size=settings.evaluation_batch_size)
    if settings.warmup == "label_binding" and not reached:
        main = accelerator.is_main_process
        bind_labels(
            ranker,
            dataset,
            settings,
            seed=seed,
            folder=binding_folder or folder,
            writes=main,
            progress=progress and main,
        )
    options = {"retrieved": retrieved, "teacher": teacher, "seed": seed, "accelerator": accelerator}
    tuning = Tuning(ranker, dataset, validation, settings, **options)
    if reached:
        tuning.restore(tensors, reached["curve"])
    bar = tqdm(
        desc=f"Tuning {backbone_name(settings)} on {dataset.name}",
        total=tuning.total,
        initial=tuning.step,
        unit="step",
        mininterval=10,
        disable=not (progress and accelerator.is_main_process),
    )
    with bar:
        while not tuning.curve or tuning.step < tuning.total:
            if tuning.curve:
                tuning.train(settings.validate_every, bar)
            tuning.validate()
            bar.set_postfix(tuning.figures())
            if accelerator.is_main_process:
                reached = {"curve": tuning.curve}
                save_checkpoint(checkpoint, tensors=tuning.tensors(), progress=reached, settings=identity)
    # rounded before it is used, so that what ranks here is what is kept, in half the space
    best = {name: tensor.to(torch.bfloat16) for name, tensor in tuning.best.items()}
    freeze_adapter(model, best)
    if accelerator.is_main_process:
        with replacing(folder / "training.csv") as temporary:
            pd.DataFrame(tuning.curve).to_csv(temporary, index=False)
        # the clock stays out of these files, so that the same weights are the same bytes
        outcome = {
            "best": {
                name: value for name, value in best_row(tuning.curve, settings=settings).items() if name != "seconds"
            }
        }
        write_json(folder / "ranker.json", identity | outcome)
        write_json(folder / "circumstances.json", made | {"peak_memory_mib": peak_memory_mib()})
        save_adapter(finished, model, best, progress=outcome, settings=identity)
        checkpoint.unlink()
    accelerator.wait_for_everyone()
    return ranker


def load_ranker(
    dataset: Dataset,
    settings: RankerSettings,
    folder: Path,
    *,
    tuned: bool = True,
    **changes: Any,
) -> VerbalizerRanker:
    """Load the ranker that :func:`fit_ranker` left in ``folder``, or its backbone alone (zero-shot).

    Args:
        dataset: its titles are read.
        settings: those of the tuning; ``evaluation_batch_size`` and ``weight_users`` alone may differ.
        folder: where the ranker was tuned; not read when ``tuned`` is false.
        tuned: with the adapter, or the backbone as it came.
        changes: settings of the prompt or of the backbone's precision to rank with, other than those of the tuning.

    Raises:
        InputError: there is no finished ranker, or it was tuned with other settings or on other data.
    """
    identity = _identity(dataset, settings)
    tensors = load_adapter(Path(folder) / "adapter", settings=identity)[0] if tuned else None
    settings = settings.model_copy(update=changes)
    model, tokenizer = load_backbone(settings)
    prompts = PromptBuilder(tokenizer, dataset.titles, settings)
    if tensors:
        model = add_adapter(model, settings, seed=0)
        freeze_adapter(model, tensors)
    return VerbalizerRanker(model, prompts, batch_size=settings.evaluation_batch_size)


def _identity(dataset: Dataset, settings: RankerSettings) -> dict[str, Any]:
    """Return what an adapter belongs to: the data and all settings that shaped it."""
    shaping = settings.model_dump(mode="json", exclude={"evaluation_batch_size", "weight_users"})
    return shaping | {"backbone": backbone_name(settings), "dataset": dataset.name, "data": dataset.content_hash}


def _rows_hash(rows: pd.DataFrame) -> str:
    parts = (rows["user"].to_numpy(np.int32), rows["target"].to_numpy(np.int32), candidate_items(rows).astype(np.int32))
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
