"""Profiles: every setting of a run, in one YAML file, checked before anything is computed.

A profile changes settings, never the code. ``notebooks/profiles`` holds a commented file for each; the defaults are the
paper's (Yue et al., 2023, section 4.1, and the authors' configuration).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from llamarec_core.checked import (
    Count,
    Fraction,
    Name,
    NotNegative,
    Positive,
    PositiveInt,
    Seed,
    Settings,
    Width,
    first_fault,
    parse_yaml,
    read_yaml,
)
from llamarec_core.files import InputError

MAX_CANDIDATES = 20
"""The verbalizer's labels are the letters A…T, twenty of them."""

SHARING = ("candidates_first", "label_after")
"""Templates whose prompts begin with the list of candidates, so that several histories can follow it."""

Method = Literal["lrurec", "sasrec", "bert4rec", "narm", "item_knn"]
"""The retrievers."""

LinearLayer = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The linear layers of a Llama's blocks."""


class RetrieverSettings(Settings):
    """Stage 1: the sequential recommender and its training (LRURec, arXiv 2310.02367, section 4.1)."""

    method: Method = "lrurec"
    """The retriever; ``item_knn`` uses only ``validation_users`` and ``test_users`` of the other settings."""
    dim: Annotated[Width, Field(multiple_of=2)] = 64
    """Width of the item embedding and of every hidden state; each of two attention heads gets half."""
    blocks: PositiveInt = 2
    """Number of (linear recurrent unit or attention, feed-forward) blocks, or of NARM's recurrent layers."""
    dropout: Fraction = 0.2
    """Dropout probability everywhere in the model; the paper's grid is 0.1 … 0.5."""
    max_length: PositiveInt = 50
    """Most recent interactions read from a history; the paper takes 200 for MovieLens, 50 otherwise."""
    batch_size: PositiveInt = 128
    """Users in a training batch."""
    learning_rate: Positive = 1e-3
    """AdamW's step size."""
    weight_decay: NotNegative = 0.01
    """AdamW's decoupled weight decay; the paper's grid is 0 and 0.01."""
    epochs: PositiveInt = 500
    """Most passes over the users."""
    validate_every: PositiveInt = 500
    """Iterations between two validations; a checkpoint is written at each."""
    patience: PositiveInt = 20
    """Validations without a better Recall@10 after which training stops."""
    validation_users: PositiveInt | None = None
    """Users drawn to validate on, the same for all retrievers and seeds; empty takes all, as the paper does."""
    test_users: PositiveInt | None = None
    """Users drawn to test on, likewise; for data so large that ranking all items for all users takes hours."""


class GridSettings(Settings):
    """What is tried of one retriever on one data set; the defaults are the paper's grid."""

    weight_decay: tuple[NotNegative, ...] = Field(default=(0.0, 0.01), min_length=1)
    """Values of AdamW's weight decay."""
    dropout: tuple[Fraction, ...] = Field(default=(0.1, 0.2, 0.3, 0.4, 0.5), min_length=1)
    """Dropout probabilities."""
    seeds: PositiveInt = 1
    """Seeds that train the chosen setting, from the profile's upwards."""

    def points(self) -> list[dict[str, float]]:
        """Return every combination, as fields of :class:`RetrieverSettings`."""
        return [{"weight_decay": decay, "dropout": dropout} for decay in self.weight_decay for dropout in self.dropout]


class RankerSettings(Settings):
    """Stage 2: the prompt, the backbone and its QLoRA tuning (LlamaRec, sections 3.2 and 4.1)."""

    backbone: str = "smollm2-135m"
    """``smollm2-135m``, ``llama-2-7b``, any other hub id of a Llama, or a local folder."""
    quantization: Literal["nf4", "none"] = "nf4"
    """``nf4``, 4-bit NormalFloat, doubly quantised as published, or ``none``, which leaves weights in ``dtype``."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the backbone's arithmetic; the adapter's weights are always float32."""
    template: Literal["ranking", "alpaca", "candidates_first", "label_after"] = "ranking"
    """The prompt's wording."""
    label_tokens: Literal["in_prompt", "as_published"] = "in_prompt"
    """The token that stands for a label: as the tokenizer makes it inside the prompt, or of the letter alone."""
    history_length: PositiveInt = 20
    """Most recent titles of the history that the prompt lists."""
    candidates: Annotated[int, Field(gt=1, le=MAX_CANDIDATES)] = MAX_CANDIDATES
    """Candidates in a prompt, labelled A, B, C, …"""
    title_tokens: PositiveInt = 32
    """A title longer than this many tokens is cut."""
    lora_rank: Width = 8
    """Rank r of the adapter's two factors."""
    lora_alpha: PositiveInt = 32
    """The adapter's output is scaled by alpha / r."""
    lora_dropout: Fraction = 0.05
    """Dropout on the adapter's input."""
    target_modules: tuple[LinearLayer, ...] = Field(default=("q_proj", "v_proj"), min_length=1)
    """Linear layers that get an adapter, the paper's W_Q and W_V."""
    start_from: str | None = None
    """Folder of an adapter of the same backbone and shape to start from, in a profile from the study's folder on."""
    negatives: Literal["random", "neighbours"] = "random"
    """Training candidates beside the target: random items, or item neighbours of the history, counted without its user.
    Of the latter, prefixes whose target is not listed are left out."""
    users_per_prompt: PositiveInt = 1
    """Users who share one list of training candidates, each with the history to itself; the paper has one."""
    names_per_prompt: Count = 0
    """Listed titles that are asked for by name after each list."""
    name_parts: bool = True
    """Ask for most names by parts of the title; otherwise always by the whole title."""
    items_per_prompt: Count = 0
    """Questions after each list which candidates were chosen together with an item that is not listed."""
    list_prior: bool = True
    """Add the list's log prior to the logits in the loss where users share a list of neighbours."""
    loss: Literal["vocabulary", "labels"] = "vocabulary"
    """A softmax over the whole vocabulary, as published, or over the labels alone."""
    temperature: Positive = 1.0
    """Divides the labels' logits of next items, not of names, in the loss over the labels."""
    learning_rate: Positive = 1e-4
    """AdamW's step size after warm-up; it then falls linearly to zero."""
    epochs: Count = 1
    """Passes over the training examples; 0 trains nothing."""
    training_examples: PositiveInt | None = None
    """Examples in an epoch, each led by another training prefix; empty takes all prefixes."""
    minutes: Positive | None = None
    """Time budget of the tuning; the step size reaches zero when it is over. Empty makes runs exactly repeatable."""
    batch_size: PositiveInt = 16
    """Examples in one forward pass."""
    gradient_accumulation: PositiveInt = 1
    """Forward passes added up to one optimiser step, over all processes together."""
    warmup_steps: Count = 100
    """Optimiser steps over which the step size rises linearly from zero."""
    validate_every: PositiveInt = 100
    """Optimiser steps between two validations; a checkpoint is written at each."""
    validation_users: PositiveInt | None = None
    """Users with a retrieved validation target who validate the ranker; empty takes all."""
    meter_answers: Count = 0
    """Answers of training users who are held out to measure learning in nats an answer; 0 holds nobody out."""
    kept_by: Literal["ndcg@10", "ndcg@10_with_retriever", "nats"] = "ndcg@10"
    """The curve's column by which the best adapter is kept: NDCG@10 of the ranker by itself, as published, or with the
    retriever's score added, or the meter."""

    def changes(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return the ranker's settings that were given as text, e.g. ``ranker.dtype=float32``, by name, checked."""
        found = _parts(texts)
        for part in found.keys() - {"ranker"}:
            raise InputError(f"A setting of the {part} belongs to training: here only those of the ranker can change.")
        given = found.get("ranker", {})
        return {name: getattr(self.changed(given, place="ranker"), name) for name in given}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        several = self.users_per_prompt + self.names_per_prompt + self.items_per_prompt > 1
        over_labels = self.names_per_prompt or self.items_per_prompt or self.temperature != 1.0
        if self.users_per_prompt > self.candidates:
            raise ValueError(f"users_per_prompt: choose at most as many as candidates, {self.candidates}")
        if several and self.template not in SHARING:
            raise ValueError(
                f"template: {self.template} puts the history first, so that a list has one question: with several "
                f"users_per_prompt, names_per_prompt or items_per_prompt choose {' or '.join(SHARING)}"
            )
        if over_labels and self.loss != "labels":
            raise ValueError("loss: names_per_prompt, items_per_prompt and temperature need loss: labels")
        if self.kept_by == "nats" and not self.meter_answers:
            raise ValueError("kept_by: nats needs meter_answers")
        return self


class EvaluationSettings(Settings):
    """Intervals, and which comparisons run on how many users."""

    bootstrap_samples: PositiveInt = 10_000
    """Resamples of the users behind each 95 % interval."""
    ablation_datasets: tuple[str, ...] = ()
    """Data sets on which `3_ablations` compares variants of the ranker."""
    ablation_users: PositiveInt | None = None
    """Test users with a retrieved target on whom `3_ablations` compares variants; empty takes all."""
    strategy_datasets: tuple[str, ...] = ()
    """Data sets on which `3_strategies` compares the ways of ranking with a language model."""
    strategy_users: Annotated[PositiveInt, Field(gt=1)] | None = None
    """Test users on whom `3_strategies` compares them, half with a retrieved target, half without; empty takes all."""
    strategy_examples: PositiveInt | None = None
    """Examples on which each strategy is tuned; empty takes as many as the ranker's ``training_examples``."""


class Overrides(Settings):
    """The settings in which one data set differs from the rest of its profile."""

    retriever: dict[str, Any] = Field(default_factory=dict)
    """Fields of :class:`RetrieverSettings` by name."""
    ranker: dict[str, Any] = Field(default_factory=dict)
    """Fields of :class:`RankerSettings` by name."""
    columns: dict[str, str] = Field(default_factory=dict)
    """What files of your own call the columns ``user_id``, ``item_id``, ``timestamp`` and ``title``."""


class Profile(Settings):
    """One run of the study over one or more data sets."""

    name: Name
    """The file's name without its suffix; results go to ``results/<name>``."""
    seed: Seed = 0
    """Seed of every random draw, from initial weights to the bootstrap."""
    datasets: dict[Name, Overrides] = Field(min_length=1)
    """Data sets to run, each with the settings in which it differs."""
    retriever: RetrieverSettings = RetrieverSettings()
    ranker: RankerSettings = RankerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    variants: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Other tunings of the ranker that `3_ablations` compares, by name: the fields in which they differ."""
    grid: dict[Method, dict[Name, GridSettings]] = Field(default_factory=dict)
    """What `make grid` tries, by retriever and data set."""

    @model_validator(mode="after")
    def _overrides_are_valid(self) -> Self:
        for dataset, overrides in self.datasets.items():
            if "method" in overrides.retriever:
                raise ValueError(f"datasets.{dataset}.retriever: one retriever serves all data sets: set method above")
            adapted = self.for_dataset(dataset)
            for variant in self.variants:
                adapted.variant(variant)
        parts = ("ablation_datasets", "strategy_datasets")
        named = {f"evaluation.{part}": getattr(self.evaluation, part) for part in parts}
        named |= {f"grid.{method}": grids for method, grids in self.grid.items()}
        for place, datasets in named.items():
            for dataset in set(datasets) - self.datasets.keys():
                raise ValueError(f"{place}: {dataset!r} is not among the profile's datasets")
        return self

    def for_dataset(self, dataset: str) -> Self:
        """Return the profile with the overrides of one data set applied; one that it does not list has none."""
        overrides, place = self.datasets.get(dataset, Overrides()), f"datasets.{dataset}"
        return self.model_copy(
            update={
                "retriever": self.retriever.changed(overrides.retriever, place=f"{place}.retriever"),
                "ranker": self.ranker.changed(overrides.ranker, place=f"{place}.ranker"),
            }
        )

    def given(self, texts: Sequence[str]) -> Self:
        """Return the profile with settings that were given as text, e.g. ``ranker.title_tokens=32``.

        What a profile says of one data set wins over its rest: apply :meth:`for_dataset` first.
        """
        found = _parts(texts)
        return self.model_copy(
            update={part: getattr(self, part).changed(values, place=part) for part, values in found.items()}
        )

    def columns(self, dataset: str) -> dict[str, str]:
        """Return what the files of a data set call their columns, where that differs from our names."""
        return self.datasets.get(dataset, Overrides()).columns

    def variant(self, name: str) -> Self:
        """Return the profile with the ranker of one of its variants."""
        changed = self.ranker.changed(self.variants[name], place=f"variants.{name}")
        return self.model_copy(update={"ranker": changed})


def load_profile(path: Path) -> Profile:
    """Read and check a profile; an :class:`InputError` where it is missing, is no YAML, or a setting is at fault."""
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml"))) or "none there"
        raise InputError(f"Unknown profile {path.stem!r}: {path} does not exist; choose from {known}.")
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold settings by name, e.g. `seed: 0`.")
    if "name" in values:
        raise InputError(f"{path} sets `name`, which is the file's own name: remove that line.")
    try:
        return Profile.model_validate({"name": path.stem} | values)
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}") from None


def _parts(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return settings given as text, ``part.name=value`` with the value in YAML: part → name → value."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        part, _, field = name.partition(".")
        if not (equals and field and part in ("retriever", "ranker", "evaluation")):
            raise InputError(f"The setting {text[:100]!r} is not of the form ranker.title_tokens=32.")
        found.setdefault(part, {})[field] = parse_yaml(value, place=name)
    return found
