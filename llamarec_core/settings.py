"""Profiles: every setting of a run, in one YAML file, checked before anything is computed.

A profile changes settings, never the code: sizes, and for a small backbone also parts of the recipe.
``notebooks/profiles`` holds a commented file for each; the defaults are the paper's (Yue et al., 2023, section 4.1, and
the authors' configuration).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from llamarec_core.checked import Fraction, Name, PositiveInt, Seed, Settings, Width, first_fault
from llamarec_core.files import InputError, parse_yaml, read_yaml

MAX_CANDIDATES = 20
"""The verbalizer's labels are the letters A…T, twenty of them."""

SHARING = ("candidates_first", "label_after")
"""Templates whose prompts begin with the list of candidates, so that several histories can follow it."""

Method = Literal["lrurec", "sasrec", "bert4rec", "narm", "item_knn"]
"""The retrievers."""


class RetrieverSettings(Settings):
    """Stage 1: the sequential recommender and its training (LRURec, arXiv 2310.02367, section 4.1)."""

    method: Method = "lrurec"
    """The retriever; of ``item_knn`` the other settings but ``validation_users`` and ``test_users`` say nothing."""
    dim: Annotated[Width, Field(multiple_of=2)] = 64
    """Width of the item embedding and of every hidden state, of which each of two attention heads gets half."""
    blocks: PositiveInt = 2
    """Number of (linear recurrent unit or attention, feed-forward) blocks, or of NARM's recurrent layers."""
    dropout: Fraction = 0.2
    """Dropout probability everywhere in the model; the paper's grid is 0.1 … 0.5."""
    max_length: PositiveInt = 50
    """Most recent interactions read from a history; the paper takes 200 for MovieLens, 50 otherwise."""
    batch_size: PositiveInt = 128
    """Users in a training batch."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """AdamW's step size."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
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
    """The settings of one retriever that are tried on one data set, chosen by validation Recall@10 alone."""

    weight_decay: tuple[Annotated[float, Field(ge=0.0)], ...] = Field(default=(0.0, 0.01), min_length=1)
    """Values of AdamW's weight decay; the default is the paper's grid."""
    dropout: tuple[Fraction, ...] = Field(default=(0.1, 0.2, 0.3, 0.4, 0.5), min_length=1)
    """Dropout probabilities; the default is the paper's grid."""
    seeds: PositiveInt = 1
    """The setting chosen is trained with so many seeds, from the profile's upwards."""

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
    """Which token stands for a label, the one the tokenizer makes inside the prompt or that of the letter alone."""
    history_length: PositiveInt = 20
    """Most recent titles of the history that the prompt lists."""
    candidates: Annotated[int, Field(gt=1)] = MAX_CANDIDATES
    """Candidates in a prompt, labelled A, B, C, …"""
    title_tokens: PositiveInt = 32
    """A title longer than this many tokens is cut."""
    lora_rank: Width = 8
    """Rank r of the adapter's two factors."""
    lora_alpha: PositiveInt = 32
    """The adapter's output is scaled by alpha / r."""
    lora_dropout: Fraction = 0.05
    """Dropout on the adapter's input."""
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    """Linear layers that get an adapter, the paper's W_Q and W_V."""
    start_from: str | None = None
    """Folder of an adapter to start from, of the same backbone and shape; in a profile it is counted from the study's
    folder. Empty starts from a fresh one."""
    negatives: Literal["random", "neighbours"] = "random"
    """Training candidates beside the target, from the whole catalogue or item neighbours of the history, counted
    without its user; of the latter, prefixes whose target is not listed are left out."""
    users_per_prompt: PositiveInt = 1
    """Users who share one list of training candidates, each with the history to itself; the paper has one."""
    names_per_prompt: Annotated[int, Field(ge=0)] = 0
    """Listed titles that are asked for by name after each list."""
    name_parts: bool = True
    """Ask for most names by parts of the title; otherwise always by the whole title."""
    items_per_prompt: Annotated[int, Field(ge=0)] = 0
    """Questions after each list which candidates were chosen together with an item that is not listed."""
    list_prior: bool = True
    """Add the list's log prior to the logits in the loss where users share a list of neighbours."""
    loss: Literal["vocabulary", "labels"] = "vocabulary"
    """A softmax over the whole vocabulary, as published, or over the labels alone."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Divides the labels' logits of next items in the loss over the labels: names want sharp logits, next items soft
    ones."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    """AdamW's step size after warm-up; it then falls linearly to zero."""
    epochs: Annotated[int, Field(ge=0)] = 1
    """Passes over the training examples; 0 trains nothing."""
    training_examples: PositiveInt | None = None
    """Examples in an epoch, each led by another training prefix; empty takes all prefixes."""
    minutes: Annotated[float, Field(gt=0.0)] | None = None
    """Time budget of the tuning; the step size reaches zero when it is over. Empty makes runs exactly repeatable."""
    batch_size: PositiveInt = 16
    """Examples in one forward pass."""
    gradient_accumulation: PositiveInt = 1
    """Forward passes added up to one optimiser step, over all processes together."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Optimiser steps over which the step size rises linearly from zero."""
    validate_every: PositiveInt = 100
    """Optimiser steps between two validations; a checkpoint is written at each."""
    validation_users: PositiveInt | None = None
    """Users of the retrieved validation subset to validate on, drawn once; empty takes all of them. The retriever's
    weight is fitted on them too."""
    meter_answers: Annotated[int, Field(ge=0)] = 0
    """Answers of training users who are held out to measure learning in nats an answer; 0 holds nobody out."""
    kept_by: Literal["ndcg@10", "ndcg@10_with_retriever", "nats"] = "ndcg@10"
    """The curve's column by which the best adapter is kept: NDCG@10 of the ranker by itself, as published, or with the
    retriever's score added, or the meter."""

    def changes(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return settings to rank with, which were given as text, e.g. ``ranker.dtype=float32``, by name.

        Raises:
            InputError: a setting is unknown, out of range, or not one of the ranker's.
        """
        found = {}
        for part, name, value in map(setting_of, texts):
            if part != "ranker":
                raise InputError(f"{part}.{name} belongs to training: here only settings of the ranker can change.")
            found[name] = value
        checked = self.changed(found, place="ranker")
        return {name: getattr(checked, name) for name in found}

    @model_validator(mode="after")
    def _fits_together(self) -> "RankerSettings":
        most = MAX_CANDIDATES
        if self.candidates > most:
            raise ValueError(f"candidates: {self.candidates} is more than the {most} labels A…T: choose at most {most}")
        if self.users_per_prompt > self.candidates:
            raise ValueError(
                f"users_per_prompt: {self.users_per_prompt} users are more than the {self.candidates} candidates: "
                "choose fewer"
            )
        several = self.users_per_prompt + self.names_per_prompt + self.items_per_prompt > 1
        if several and self.template not in SHARING:
            raise ValueError(
                f"template: {self.template} puts the history first, so that a list has one question: with several "
                f"users_per_prompt, names_per_prompt or items_per_prompt choose {' or '.join(SHARING)}"
            )
        if (self.names_per_prompt or self.items_per_prompt or self.temperature != 1.0) and self.loss != "labels":
            raise ValueError("loss: names_per_prompt, items_per_prompt and temperature need loss: labels")
        if self.kept_by == "nats" and not self.meter_answers:
            raise ValueError("kept_by: nats needs meter_answers")
        return self


class EvaluationSettings(Settings):
    """The uncertainty of every number."""

    bootstrap_samples: PositiveInt = 10_000
    """Resamples of the users behind each 95 % interval."""
    ablation_datasets: tuple[str, ...] = ()
    """Data sets on which `3_ablations` compares variants of the ranker."""
    ablation_users: PositiveInt | None = None
    """Test users, of those whose target was retrieved, on whom `3_ablations` compares variants; empty takes all."""
    strategy_datasets: tuple[str, ...] = ()
    """Data sets on which `3_strategies` compares the ways of ranking with a language model."""
    strategy_users: PositiveInt | None = None
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
    def _overrides_are_valid(self) -> "Profile":
        for dataset, overrides in self.datasets.items():
            if "method" in overrides.retriever:
                raise ValueError(f"datasets.{dataset}.retriever: one retriever serves all data sets: set method above")
            adapted = self.for_dataset(dataset)
            for variant in self.variants:
                adapted.variant(variant)
        settings = ("ablation_datasets", "strategy_datasets")
        named = {f"evaluation.{setting}": getattr(self.evaluation, setting) for setting in settings}
        named |= {f"grid.{method}": grids for method, grids in self.grid.items()}
        for place, datasets in named.items():
            for dataset in set(datasets) - self.datasets.keys():
                raise ValueError(f"{place}: {dataset!r} is not among the profile's datasets")
        return self

    def for_dataset(self, dataset: str) -> "Profile":
        """Return the profile with the overrides of one data set applied.

        A data set that the profile does not list runs with the profile's general settings.

        Raises:
            InputError: they contradict the profile's general settings.
        """
        overrides, place = self.datasets.get(dataset, Overrides()), f"datasets.{dataset}"
        return self.model_copy(
            update={
                "retriever": self.retriever.changed(overrides.retriever, place=f"{place}.retriever"),
                "ranker": self.ranker.changed(overrides.ranker, place=f"{place}.ranker"),
            }
        )

    def given(self, texts: Sequence[str]) -> "Profile":
        """Return the profile with settings that were given as text, e.g. ``ranker.title_tokens=32``.

        What a profile says of one data set wins over its rest: apply :meth:`for_dataset` first.

        Raises:
            InputError: a text has another form, or its setting is unknown or out of range.
        """
        profile = self
        for text in texts:
            part, field, value = setting_of(text)
            changed = getattr(profile, part).changed({field: value}, place=part)
            profile = profile.model_copy(update={part: changed})
        return profile

    def columns(self, dataset: str) -> dict[str, str]:
        """Return what the files of a data set call their columns, where that differs from our names."""
        return self.datasets.get(dataset, Overrides()).columns

    def variant(self, name: str) -> "Profile":
        """Return the profile with the ranker of one of its variants.

        Raises:
            InputError: the profile has no such variant, or it contradicts the rest of the ranker's settings.
        """
        if name not in self.variants:
            known = ", ".join(self.variants) or "none"
            raise InputError(f"Profile {self.name!r} has no variant {name!r} of the ranker: choose from {known}.")
        changed = self.ranker.changed(self.variants[name], place=f"variants.{name}")
        return self.model_copy(update={"ranker": changed})


def setting_of(text: str) -> tuple[str, str, Any]:
    """Return the part, the name and the value of a setting given as text, ``part.name=value``; the value is YAML.

    Raises:
        InputError: it has another form.
    """
    name, equals, value = text.partition("=")
    part, _, field = name.partition(".")
    if not (equals and field and part in ("retriever", "ranker", "evaluation")):
        raise InputError(f"The setting {text[:100]!r} is not of the form ranker.title_tokens=32.")
    return part, field, parse_yaml(value, place=name)


def load_profile(path: Path) -> Profile:
    """Read and check a profile.

    Raises:
        InputError: the file is missing, is not YAML in UTF-8, or a setting is unknown or out of range.
    """
    path = Path(path)
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
