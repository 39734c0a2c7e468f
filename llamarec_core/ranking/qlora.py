"""QLoRA: tune the ranker and load it again (LlamaRec, sections 3.2.3 and 4.1; QLoRA, arXiv 2305.14314).

The backbone stays frozen, and quantised if the settings say so; an adapter is trained on the label
alone. Validation ranks the retriever's own candidates with the verbalizer, once before any step
(zero-shot) and then at intervals; the best adapter is kept::

    candidates file, Dataset ──fit_ranker──▶ folder ──load_ranker──▶ VerbalizerRanker ──rerank──▶ ranks

The folder then holds ``adapter/``, which PEFT can load too, ``ranker.json`` (settings and outcome, for people), and
what :func:`llamarec_core.training.train` leaves. Several processes (``accelerate launch``, ``torchrun``) need a folder
that all of them see.
"""

import hashlib
from pathlib import Path
from typing import Any

from llamarec_core.data import Dataset
from llamarec_core.files import sha256, write_json
from llamarec_core.ranking.adapter import (
    WEIGHTS,
    add_adapter,
    freeze_adapter,
    load_adapter,
    rounded,
    save_adapter,
    set_adapter_tensors,
)
from llamarec_core.ranking.backbone import backbone_name, load_backbone
from llamarec_core.ranking.prompt import PromptBuilder
from llamarec_core.ranking.rerank import retrieved_candidates
from llamarec_core.ranking.tuning import RankerTask, make_accelerator
from llamarec_core.ranking.verbalizer import VerbalizerRanker
from llamarec_core.retrieval.candidates import Candidates
from llamarec_core.settings import RankerSettings
from llamarec_core.training import Plan, train

NOT_SHAPING = {"minutes", "start_from"}
"""Settings that may differ from those of an adapter's tuning when it is loaded."""


def fit_ranker(
    dataset: Dataset,
    validation: Candidates,
    settings: RankerSettings,
    *,
    seed: int,
    folder: Path,
    progress: bool = True,
) -> VerbalizerRanker:
    """Tune a ranker, or go on with the tuning that ``folder`` holds, or return the one it holds finished.

    The global generator of torch is seeded on the way.

    Args:
        dataset: prefixes of its training split are learnt.
        validation: the retriever's candidates for the validation targets, which decide which adapter is kept.
        settings: backbone, prompt, adapter and tuning.
        seed: of the adapter's initial weights, the examples, dropout and the choice of validation users.
        folder: where checkpoint, curve and adapter are written.
        progress: show a progress bar on stderr.

    Returns:
        The ranker with its best adapter.

    Raises:
        InputError: ``folder`` holds a run of other settings, data, candidates or seed; no user's target is
            among the candidates; the loss is no longer a number; or backbone, prompts, adapter or ``start_from`` are
            refused.
    """
    folder = Path(folder)
    chosen = {"size": settings.candidates, "users": settings.validation_users, "seed": seed}
    validation = retrieved_candidates(validation, **chosen)
    columns = (validation.users, validation.targets, validation.items)
    content = hashlib.sha256(b"".join(column.astype("<i4").tobytes() for column in columns)).hexdigest()
    identity = _identity(dataset, settings) | {"seed": seed, "validation": content}
    if settings.start_from is not None:
        start = load_adapter(Path(settings.start_from), settings={})[0]
        identity["started_from_sha256"] = sha256(Path(settings.start_from) / WEIGHTS)
    finished = folder / "adapter"
    if finished.is_dir():
        load_adapter(finished, settings=identity)  # refuses the adapter of another run
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)  # a kill at the very end leaves it behind
        return load_ranker(dataset, settings, folder)

    accelerator = make_accelerator(settings)
    model, tokenizer = load_backbone(settings, device=accelerator.device)
    model = add_adapter(model, settings, seed=seed)
    if settings.start_from is not None:
        set_adapter_tensors(model, start)
    ranker = VerbalizerRanker(model, PromptBuilder(tokenizer, dataset.titles, settings))
    task = RankerTask(ranker, dataset, validation, settings, seed=seed, accelerator=accelerator)
    plan = Plan(
        steps=settings.epochs * task.steps_per_epoch,
        validate_every=settings.validate_every,
        kept_by=settings.kept_by,
        warmup_steps=settings.warmup_steps,
        minutes=settings.minutes,
        validate_first=True,
        first_counts=settings.start_from is not None,  # a fresh adapter counts only while there is no other
    )

    def save(best: dict[str, Any], row: dict[str, Any]) -> None:
        write_json(folder / "ranker.json", identity | {"best": row})
        save_adapter(finished, model, rounded(best), progress={"best": row}, settings=identity)

    best = train(
        task,
        plan,
        folder=folder,
        identity=identity,
        save=save,
        description=f"Tuning {backbone_name(settings)} on {dataset.name}",
        accelerator=accelerator,
        progress=progress,
    )
    freeze_adapter(model, rounded(best))  # what ranks here is what is kept
    return ranker


def load_ranker(
    dataset: Dataset, settings: RankerSettings, folder: Path, *, tuned: bool = True, **changes: Any
) -> VerbalizerRanker:
    """Load the ranker that :func:`fit_ranker` left in ``folder``, or its backbone alone (zero-shot).

    Args:
        dataset: its titles are read.
        settings: those of the tuning; :data:`NOT_SHAPING` alone may differ.
        folder: where the ranker was tuned; not read when ``tuned`` is false.
        tuned: with the adapter, or the backbone as it came.
        changes: settings of the prompt or of the backbone's precision to rank with, other than those of the tuning.

    Raises:
        InputError: there is no finished ranker, or it was tuned with other settings or on other data.
    """
    tensors = load_adapter(Path(folder) / "adapter", settings=_identity(dataset, settings))[0] if tuned else None
    settings = settings.model_copy(update=changes)
    model, tokenizer = load_backbone(settings)
    if tensors:
        model = add_adapter(model, settings, seed=0)
        freeze_adapter(model, tensors)
    return VerbalizerRanker(model, PromptBuilder(tokenizer, dataset.titles, settings))


def _identity(dataset: Dataset, settings: RankerSettings) -> dict[str, Any]:
    """Return what an adapter belongs to: the data and all settings that shaped it."""
    shaping = settings.model_dump(mode="json", exclude=NOT_SHAPING)
    return shaping | {"backbone": backbone_name(settings), "dataset": dataset.name, "data": dataset.content_hash}
