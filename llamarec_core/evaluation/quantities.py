"""What each claim of the paper compares, as a function of the cells of a table, or of times.

The same function gives the published value, ours, and its value in a bootstrap sample of the users.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from llamarec_core.evaluation.metrics import METRICS

Cells = Mapping[tuple[str, str, str], Any]
"""(method, metric, subset) → the cell's mean: a number, or one for each bootstrap sample."""


class Quantity(NamedTuple):
    """How a claim is measured."""

    of: Callable[..., Any]
    """From :data:`Cells`; of ``timings``, from (method, mean title length in tokens) → seconds. It may return several
    values, of which the smallest counts."""
    methods: tuple[str, ...] = ()
    """The methods whose ranks it needs, by the paper's names."""
    source: Literal["ranks", "timings", "architecture"] = "ranks"
    unit: Literal["difference", "gain", "share", "seconds", "ratio"] = "difference"
    """``gain`` is relative: 0.1 is 10 %."""
    bound: bool = False
    """The claim is that the value lies below the published one."""
    null: float = 0.0
    """The value that would be no lead and no gain."""
    why: str = "one value, without users to resample"
    """What is said beside the verdict where there is no interval."""
    absolute: bool = False
    """Seconds, which only the paper's kind of hardware can test."""


def _leads(*methods: str) -> Quantity:
    """The first method's lead over each other in each metric: all above zero, it is best in every cell."""
    first, *others = methods
    return Quantity(
        lambda cells: [
            cells[first, metric, "all"] - cells[other, metric, "all"] for other in others for metric in METRICS
        ],
        methods,
    )


def _gain(cells: Cells, metric: str, other: str = "LRURec") -> Any:
    return cells["LlamaRec", metric, "all"] / cells[other, metric, "all"] - 1


def _difference(cells: Cells, metric: str, subset: str) -> Any:
    return cells["LlamaRec", metric, subset] - cells["LRURec", metric, subset]


def _surplus_of_retrieved(cells: Cells) -> Any:
    """By how much the gain in each metric is larger among the retrieved users."""
    return [_difference(cells, metric, "retrieved") - _difference(cells, metric, "all") for metric in METRICS]


def _gain_over_llm_based(cells: Cells) -> Any:
    """The mean relative gain over the best of the others in each metric; where the paper prints N/A, over the rest."""
    metrics = [metric for metric in METRICS if not metric.startswith("MRR")]
    best = {metric: np.nanmax([cells[name, metric, "all"] for name in _LLM_BASED], axis=0) for metric in metrics}
    return np.mean([cells["LlamaRec", metric, "all"] / best[metric] - 1 for metric in metrics], axis=0)


_BOTH = ("LlamaRec", "LRURec")
_LLM_BASED = ("P5", "PALR", "GPT4Rec", "RecMind", "POD")
_AT_LENGTH = 20
"""The mean title length, in tokens, for which the text states the time of generation."""

QUANTITIES = {
    "lrurec_leads": _leads("LRURec", "NARM", "BERT4Rec", "SASRec"),
    "llamarec_leads": _leads("LlamaRec", "LRURec", "NARM", "BERT4Rec", "SASRec"),
    "gain_mrr5": Quantity(lambda cells: _gain(cells, "MRR@5"), _BOTH, unit="gain"),
    "gain_ndcg5": Quantity(lambda cells: _gain(cells, "NDCG@5"), _BOTH, unit="gain"),
    "gain_recall5": Quantity(lambda cells: _gain(cells, "Recall@5"), _BOTH, unit="gain"),
    "mean_gain": Quantity(lambda cells: np.mean([_gain(cells, m) for m in METRICS], axis=0), _BOTH, unit="gain"),
    "recall10_gain_of_all": Quantity(lambda cells: _difference(cells, "Recall@10", "all"), _BOTH),
    "recall10_gain_of_retrieved": Quantity(lambda cells: _difference(cells, "Recall@10", "retrieved"), _BOTH),
    "larger_gain_of_retrieved": Quantity(_surplus_of_retrieved, _BOTH),
    "gain_over_palr": Quantity(lambda cells: _gain(cells, "NDCG@10", "PALR"), ("LlamaRec", "PALR"), unit="gain"),
    "gain_over_llm_based": Quantity(_gain_over_llm_based, ("LlamaRec", *_LLM_BASED), unit="gain"),
    "gpt4rec_lead": Quantity(
        lambda cells: cells["GPT4Rec", "Recall@5", "all"] - cells["LlamaRec", "Recall@5", "all"],
        ("GPT4Rec", "LlamaRec"),
    ),
    "trainable_share": Quantity(
        float, source="architecture", unit="share", bound=True,
        why="counted from the paper's settings: no model of that size was run",
    ),
    "ranking_seconds": Quantity(
        lambda seconds: max(value for (method, _), value in seconds.items() if method == "LlamaRec"),
        source="timings", unit="seconds", bound=True, absolute=True,
    ),
    "generation_ratio": Quantity(
        lambda seconds: seconds["Llama CausalLM", _AT_LENGTH] / seconds["LlamaRec", _AT_LENGTH],
        source="timings", unit="ratio", null=1.0,
        why="one run, each in the precision in which it is fastest; without users to resample",
    ),
}  # fmt: skip
"""The quantity of each claim, by its name in ``claims.csv``."""
