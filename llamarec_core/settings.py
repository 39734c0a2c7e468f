"""Profiles: every setting of a run, in one YAML file, checked before anything is computed.

A profile changes settings, never the code. ``notebooks/profiles`` holds a commented file for each; the defaults are the
paper's (Yue et al., 2023, section 4.1, and the authors' configuration).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from llamarec_core.checked import Name, Settings, parse_yaml, read_yaml, validated
from llamarec_core.files import InputError

Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(gt=0, le=1_000_000)]
Width = Annotated[int, Field(gt=0, le=4096)]  # by which a model's memory grows
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]

MAX_CANDIDATES = 20  #: the verbalizer's labels are the letters A…T
#: Templates that begin with the list, so that several histories can follow it.
SHARING = ("candidates_first", "label_after")
Method = Literal["lrurec", "sasrec", "bert4rec", "narm", "item_knn"]
LinearLayer = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class RetrieverSettings(Settings):
    """Stage 1: the sequential recommender and its training (LRURec, arXiv 2310.02367, section 4.1)."""

    #: The retriever; ``item_knn`` uses only ``validation_users`` and ``test_users`` of the other settings.
    method: Method = "lrurec"
    #: Width of the item embedding and of every hidden state; each of two attention heads gets half.
    dim: Annotated[Width, Field(multiple_of=2)] = 64
    #: Number of (linear recurrent unit or attention, feed-forward) blocks, or of NARM's recurrent layers.
    blocks: PositiveInt = 2
    dropout: Fraction = 0.2  #: dropout probability everywhere in the model; the paper's grid is 0.1 … 0.5
    #: Most recent interactions read from a history; the paper takes 200 for MovieLens, 50 otherwise.
    max_length: PositiveInt = 50
    batch_size: PositiveInt = 128  #: users in a training batch
    learning_rate: Positive = 1e-3  #: AdamW's step size
    weight_decay: NotNegative = 0.01  #: AdamW's decoupled weight decay; the paper's grid is 0 and 0.01
    epochs: PositiveInt = 500  #: most passes over the users
    validate_every: PositiveInt = 500  #: iterations between two validations; a checkpoint is written at each
    patience: PositiveInt = 20  #: validations without a better Recall@10 after which training stops
    #: Users drawn to validate on, the same for all retrievers and seeds; empty takes all, as the paper does.
    validation_users: PositiveInt | None = None
    #: Users drawn to test on, likewise; for data so large that ranking all items for all users takes hours.
    test_users: PositiveInt | None = None


class GridSettings(Settings):
    """What is tried of one retriever on one data set; the defaults are the paper's grid."""

    weight_decay: tuple[NotNegative, ...] = Field(default=(0.0, 0.01), min_length=1)  #: values of AdamW's weight decay
    dropout: tuple[Fraction, ...] = Field(default=(0.1, 0.2, 0.3, 0.4, 0.5), min_length=1)  #: dropout probabilities
    seeds: PositiveInt = 1  #: seeds that train the chosen setting, from the profile's upwards

    def points(self) -> list[dict[str, float]]:
        """Return every combination, as fields of :class:`RetrieverSettings`."""
        return [{"weight_decay": decay, "dropout": dropout} for decay in self.weight_decay for dropout in self.dropout]


RANKED_WITH = {"backbone", "quantization", "dtype", "template", "label_tokens", "history_length", "title_tokens"}
"""Settings of the ranker that may be others when it ranks than when it was tuned."""


class RankerSettings(Settings):
    """Stage 2: the prompt, the backbone and its QLoRA tuning (LlamaRec, sections 3.2 and 4.1)."""

    backbone: str = "smollm2-135m"  #: ``smollm2-135m``, ``llama-2-7b``, any other hub id of a Llama, or a local folder
    #: ``nf4``, 4-bit NormalFloat, doubly quantised as published, or ``none``, which leaves weights in ``dtype``.
    quantization: Literal["nf4", "none"] = "nf4"
    #: Precision of the backbone's arithmetic; the adapter's weights are always float32.
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    template: Literal["ranking", "alpaca", "candidates_first", "label_after"] = "ranking"  #: the prompt's wording
    #: The token that stands for a label: as the tokenizer makes it inside the prompt, or of the letter alone.
    label_tokens: Literal["in_prompt", "as_published"] = "in_prompt"
    history_length: PositiveInt = 20  #: most recent titles of the history that the prompt lists
    #: Candidates in a prompt, labelled A, B, C, …
    candidates: Annotated[int, Field(gt=1, le=MAX_CANDIDATES)] = MAX_CANDIDATES
    title_tokens: PositiveInt = 32  #: a title longer than this many tokens is cut
    lora_rank: Width = 8  #: rank r of the adapter's two factors
    lora_alpha: PositiveInt = 32  #: the adapter's output is scaled by alpha / r
    lora_dropout: Fraction = 0.05  #: dropout on the adapter's input
    #: Linear layers that get an adapter, the paper's W_Q and W_V.
    target_modules: tuple[LinearLayer, ...] = Field(default=("q_proj", "v_proj"), min_length=1)
    #: Folder of an adapter of the same backbone and shape to start from, in a profile from the study's folder on.
    start_from: str | None = None
    #: Training candidates beside the target: random items, or item neighbours of the history, counted without its
    #: user. Of the latter, prefixes whose target is not listed are left out.
    negatives: Literal["random", "neighbours"] = "random"
    #: Users who share one list of training candidates, each with the history to itself; the paper has one.
    users_per_prompt: PositiveInt = 1
    names_per_prompt: Count = 0  #: listed titles that are asked for by name after each list
    name_parts: bool = True  #: ask for most names by parts of the title; otherwise always by the whole title
    #: Questions after each list which candidates were chosen together with an item that is not listed.
    items_per_prompt: Count = 0
    #: Add the list's log prior to the logits in the loss where users share a list of neighbours.
    list_prior: bool = True
    #: A softmax over the whole vocabulary, as published, or over the labels alone.
    loss: Literal["vocabulary", "labels"] = "vocabulary"
    temperature: Positive = 1.0  #: divides the labels' logits of next items, not of names, in the loss over the labels
    learning_rate: Positive = 1e-4  #: AdamW's step size after warm-up; it then falls linearly to zero
    epochs: Count = 1  #: passes over the training examples; 0 trains nothing
    #: Examples in an epoch, each led by another training prefix; empty takes all prefixes.
    training_examples: PositiveInt | None = None
    #: Time budget of the tuning; the step size reaches zero when it is over. Empty makes runs exactly repeatable.
    minutes: Positive | None = None
    batch_size: PositiveInt = 16  #: examples in one forward pass
    #: Forward passes added up to one optimiser step, over all processes together.
    gradient_accumulation: PositiveInt = 1
    warmup_steps: Count = 100  #: optimiser steps over which the step size rises linearly from zero
    validate_every: PositiveInt = 100  #: optimiser steps between two validations; a checkpoint is written at each
    #: Users with a retrieved validation target who validate the ranker; empty takes all.
    validation_users: PositiveInt | None = None
    #: Answers of training users who are held out to measure learning in nats an answer; 0 holds nobody out.
    meter_answers: Count = 0
    #: The curve's column by which the best adapter is kept: NDCG@10 of the ranker by itself, as published, or with
    #: the retriever's score added, or the meter.
    kept_by: Literal["ndcg@10", "ndcg@10_with_retriever", "nats"] = "ndcg@10"

    def changes(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return the ranker's settings that were given as text, e.g. ``ranker.dtype=float32``, by name, checked."""
        found = _parts(texts)
        for part in found.keys() - {"ranker"}:
            raise InputError(f"A setting of the {part} belongs to training: here only those of the ranker can change.")
        given = found.get("ranker", {})
        for name in given.keys() - RANKED_WITH:
            raise InputError(f"ranker.{name} belongs to training: here choose from {', '.join(sorted(RANKED_WITH))}.")
        return {name: getattr(self.changed(given, place="ranker"), name) for name in given}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        several = self.users_per_prompt + self.names_per_prompt + self.items_per_prompt > 1
        over_labels = self.names_per_prompt or self.items_per_prompt or self.temperature != 1.0
        if self.users_per_prompt > self.candidates:
            raise ValueError(f"users_per_prompt: choose at most as many as candidates, {self.candidates}")
        if several and self.template not in SHARING:
            sharing = " or ".join(SHARING)
            raise ValueError(f"template: with several users_, names_ or items_per_prompt choose {sharing}")
        if over_labels and self.loss != "labels":
            raise ValueError("loss: names_per_prompt, items_per_prompt and temperature need loss: labels")
        if self.kept_by == "nats" and not self.meter_answers:
            raise ValueError("kept_by: nats needs meter_answers")
        return self


class EvaluationSettings(Settings):
    """Intervals, and which comparisons run on how many users."""

    bootstrap_samples: PositiveInt = 10_000  #: resamples of the users behind each 95 % interval
    ablation_datasets: tuple[str, ...] = ()  #: data sets on which `3_ablations` compares variants of the ranker
    #: Test users with a retrieved target on whom `3_ablations` compares variants; empty takes all.
    ablation_users: PositiveInt | None = None
    #: Data sets on which `3_strategies` compares the ways of ranking with a language model.
    strategy_datasets: tuple[str, ...] = ()
    #: Test users on whom `3_strategies` compares them, half with a retrieved target, half without; empty takes all.
    strategy_users: Annotated[PositiveInt, Field(gt=1)] | None = None
    #: Examples on which each strategy is tuned; empty takes as many as the ranker's ``training_examples``.
    strategy_examples: PositiveInt | None = None


class Overrides(Settings):
    """The settings in which one data set differs from the rest of its profile."""

    retriever: dict[str, Any] = Field(default_factory=dict)  #: fields of :class:`RetrieverSettings` by name
    ranker: dict[str, Any] = Field(default_factory=dict)  #: fields of :class:`RankerSettings` by name
    #: What files of your own call the columns ``user_id``, ``item_id``, ``timestamp`` and ``title``.
    columns: dict[str, str] = Field(default_factory=dict)


class Profile(Settings):
    """One run of the study over one or more data sets."""

    name: Name  #: the file's name without its suffix; results go to ``results/<name>``
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  #: seed of every random draw, from initial weights to the bootstrap
    #: Data sets to run, each with the settings in which it differs.
    datasets: dict[Name, Overrides] = Field(min_length=1)
    retriever: RetrieverSettings = RetrieverSettings()
    ranker: RankerSettings = RankerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    #: Other tunings of the ranker that `3_ablations` compares, by name: the fields in which they differ.
    variants: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    #: What `make grid` tries, by retriever and data set.
    grid: dict[Method, dict[Name, GridSettings]] = Field(default_factory=dict)

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
        overrides = self.datasets.get(dataset, Overrides())
        changes = {"retriever": overrides.retriever, "ranker": overrides.ranker}
        return self._with(changes, place=f"datasets.{dataset}.")

    def given(self, texts: Sequence[str]) -> Self:
        """Return the profile with settings that were given as text, e.g. ``ranker.title_tokens=32``.

        What a profile says of one data set wins over its rest: apply :meth:`for_dataset` first.
        """
        return self._with(_parts(texts))

    def _with(self, changes: dict[str, dict[str, Any]], *, place: str = "") -> Self:
        parts = {part: getattr(self, part).changed(some, place=f"{place}{part}") for part, some in changes.items()}
        return self.model_copy(update=parts)

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
    if not isinstance(values, dict) or "name" in values:
        raise InputError(f"{path} must hold settings by name, e.g. `seed: 0`, without `name`, which is the file's own.")
    return validated(Profile, {"name": path.stem} | values, place=f"{path}: ")


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
