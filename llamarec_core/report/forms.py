"""How each table looks, on the page and in LaTeX: one form by the name of the table's file. Also the methods' names.

Our numbers stand with their 95 % intervals in brackets, the published ones beside them; the best are bold.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd

METHOD_NAMES = {
    "random-order": "Random order", "popularity-order": "Popularity order", "title-overlap": "Title overlap",
    "title-overlap-with-retriever": "Title overlap + LRURec", "item_knn": "ItemKNN", "narm": "NARM",
    "bert4rec": "BERT4Rec", "sasrec": "SASRec", "lrurec": "LRURec", "llamarec": "LlamaRec",
    "llamarec-with-retriever": "LlamaRec + LRURec",
}  # fmt: skip
"""Name in files → name on pages and, for a method of the paper, in the paper. In the order of every table."""
STRATEGY_NAMES = {
    "verbalizer": "LlamaRec (verbalizer)", "causal_lm": "Llama CausalLM", "palr": "PALR", "gpt4rec": "GPT4Rec",
    "tallrec": "TALLRec", "p5": "P5", "tallrec_apart": "TALLRec, prefix not shared", "recmind": "RecMind", "pod": "POD",
    "retriever": "Retriever's order",
}  # fmt: skip
"""The same for the ways to rank with a language model, and for those that the paper quotes beside them."""
RETRIEVER = "retriever"
"""The retriever's own order of the candidates, in tables of strategies."""
QUOTED = ("NDCG@10", "Recall@10")
"""The metrics that pages show first. The first one is the primary metric."""
_NAMES = METHOD_NAMES | STRATEGY_NAMES | {
    "all": "all users", "retrieved": "target retrieved",
    "ml-100k": "ML-100k", "beauty": "Beauty", "games": "Games", "ml-100k-1998": "MovieLens 1998",
}  # fmt: skip


def in_order(methods: Iterable[str]) -> list[str]:
    """Return the distinct methods in the order of :data:`METHOD_NAMES`, then the others as they come."""
    known = list(METHOD_NAMES)
    return sorted(dict.fromkeys(methods), key=lambda name: known.index(name) if name in known else len(known))


def display_name(method: str) -> str:
    """Return the name of a method, a strategy, a data set or a set of users on pages; an unknown one as it is."""
    return _NAMES.get(method, method)


Row = dict[str, Any]
Cell = str | tuple[str, ...] | Callable[[Row], str]
"""A format string over a row's columns, whose specs may be names in ``_SPECS``; the first of several that has all its
columns; or a function of the row."""


@dataclass(frozen=True)
class Form:
    """How a tidy table is laid out. With ``across``, rows that have the same names share a line."""

    rows: Mapping[str, Cell]  # heading → what names a row; all but the last are left out where they never differ
    cells: Mapping[str, Cell]  # heading → what a column holds; an empty column is left out
    across: Cell | None = None  # each of its values heads columns of its own
    bold: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = field(default_factory=dict)  # heading → its bold rows
    prepare: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame  # selects and sorts the rows
    first: tuple[str, ...] = ()  # metrics that a page shows before the fold; without them there is no fold
    whole_in_latex: bool = True  # or only the metrics that come first
    prose: Mapping[str, str] = field(default_factory=dict)  # heading of a column of sentences → its width in LaTeX
    note: str = ""  # ends the caption


def plain(frame: pd.DataFrame) -> Form:
    """Return the form that shows all columns as they are. The first one names the rows."""
    shown = {column.replace("_", " "): lambda row, column=column: number(row[column]) for column in frame}
    first = next(iter(shown))
    return Form({first: shown.pop(first)}, shown)


def text(cell: Cell, row: Row) -> str:
    """Return what a cell says of a row: nothing where a column is missing."""
    if callable(cell):
        return cell(row)
    for written in (cell,) if isinstance(cell, str) else cell:
        if not any(pd.isna(row.get(name)) for _, name, _, _ in Formatter().parse(written) if name):
            return _minus(_Formatter().vformat(written, (), row))
    return ""


def number(value: Any) -> str:
    """Return a value of any table: a number without an exponent, yes or no, or the text itself."""
    if pd.isna(value):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)
    if abs(value) >= 1e4:
        return _minus(f"{value:,.0f}")
    digits = {"precision": 4 if abs(value) >= 1e-4 else 2, "unique": False, "fractional": False, "trim": "-"}
    return _minus(np.format_float_positional(round(value, 9) + 0.0, **digits))


def _minus(written: str) -> str:
    return re.sub(r"(?<!\w)-(?=[\d.])", "−", written)


_SPECS: dict[str, Callable[[Any], str]] = {
    "any": number,
    "label": lambda value: value.replace("_", " "),
    "milliseconds": lambda seconds: number(float(f"{1000 * seconds:.3g}")),
    "minutes": lambda seconds: f"{seconds / 60:.0f}",
    "p": lambda value: "p\xa0<\xa00.001" if value < 0.001 else f"p\xa0=\xa0{value:.3f}",
    # units of claims
    "difference": "{:+.4f}".format,
    "gain": lambda value: f"{100 * value:+.2f}\xa0%",
    "share": lambda value: f"{100 * value:.2f}\xa0%",
    "seconds": "{:.2f} s".format,
    "ratio": "{:.1f}".format,
    # what the formula of a strategy's cost predicts
    "equal": lambda _: "=",
    "bounded": "≤ {:.0f}".format,
    "exceeded": "> {:.0f}".format,
}


class _Formatter(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        return _SPECS[format_spec](value) if format_spec in _SPECS else format(value, format_spec)


def _best(column: str) -> Callable[[pd.DataFrame], pd.Series]:
    """Return what marks the largest of several methods in a column."""
    methods = ["dataset", "subset", "metric"]
    return lambda frame: frame.groupby(methods)[column].transform(lambda of: (of == of.max()) & (of.count() > 1))


_INTERVAL = "{measured:.4f} [{ci_low:.3f},\xa0{ci_high:.3f}]"
_SIGNED = "{difference:+.4f} [{ci_low:+.4f},\xa0{ci_high:+.4f}]"
_COUNT = "{measured:.0f} ({predicted:{formula}})"
_STRATEGY_METRICS = {
    **{metric: (metric, _INTERVAL) for metric in QUOTED},
    "valid_outputs": ("valid outputs", "{measured:.0%}"), "answered": ("answered", "{measured:.0%}"),
    "forward_passes": ("forward passes", _COUNT), "tokens_read": ("tokens read", _COUNT),
    "tokens_generated": ("tokens generated", _COUNT), "seconds_p50": ("median seconds", "{measured:.2f}"),
    "seconds_p95": ("seconds, 95th percentile", "{measured:.2f}"),
    "requests_per_second": ("requests a second, batched", "{measured:.2f}"),
    "peak_mib": ("peak MiB, batched", "{measured:.0f}"),
}  # fmt: skip
"""Metric of a strategy → its heading, and how it is written."""
_SET = {"data set": "{dataset}"}
_STRATEGIES = {**_SET, "strategy": "{method}, {state}"}
_DIFFERENCES = Form(
    rows={**_SET, "difference": "{method} − {reference}"},
    across="{metric}, {subset}",
    cells={"": (f"{_SIGNED} {{p_holm:p}}", _SIGNED)},
    bold={"": lambda frame: frame["p_holm"] < 0.05},
    prepare=lambda frame: frame.sort_values("subset", ascending=False, kind="stable"),  # the subset tested is first
    first=QUOTED[:1],
    whole_in_latex=False,
    note="In brackets: 95 % bootstrap intervals over users. Bold: p < 0.05, corrected by Holm's method.",
)
FORMS: dict[str, Form] = {
    **dict.fromkeys(("table1", "table3", "table4", "table1_retrieval"), Form(
        rows={**_SET, "users": "{subset}", "method": "{method}"},
        across="{metric}",
        cells={"paper": "{published:.4f}", "ours": _INTERVAL},
        bold={"paper": _best("published"), "ours": _best("measured")},
        first=QUOTED,
        note="In brackets: 95 % bootstrap intervals over users. Bold: the best.",
    )),
    **dict.fromkeys(("comparison", "floors", "retrieval_pairs"), _DIFFERENCES),
    **dict.fromkeys(("table2", "table2_retrieval"), Form(
        rows={"quantity": "{quantity:label}"},
        across="{dataset}",
        cells={"paper": "{published}", "ours": "{measured:any}"},
    )),
    "title_words": Form(
        rows={**_SET, "tokens of a title": "{title_tokens}"},
        cells={"cut alike": "{alike:.1%}", "nats": "{nats:.3f} ± {nats_se:.3f}", "answers": "{answers:any}"},
        note="Cut alike: items that have the cut title of another.",
    ),
    **dict.fromkeys(("inference_time", "inference_time_7b"), Form(
        rows={"precision": "{precision}", "requests": "{batch}", "title tokens": "{mean_title_length_tokens:g}",
              "method": "{method}"},
        across="{part}",
        cells={"": "{seconds:.3f}"},
        note="Median seconds per request.",
    )),
    "claims": Form(
        rows={"claim": "{statement}"},
        cells={"data set": "{dataset}", "verdict": ("{verdict} (our model: {observed})", "{verdict}"),
               "paper": "{published:{unit}}",
               "ours": ("{measured:{unit}} [{ci_low:{unit}},\xa0{ci_high:{unit}}]", "{measured:{unit}}"),
               "detectable": "{detectable:{unit}}", "because": "{why}"},
        prose={"claim": "6.5cm", "because": "5cm"},
        note="Detectable: the smallest difference that a test on these users finds with a power of 80 %.",
    ),
    "ranker": Form(
        rows={**_SET, "compared": "{group}", "variant": "{method}"},
        cells={"NDCG@10": _INTERVAL,
               "minus the group's first": "{difference:+.4f} [{difference_low:+.3f},\xa0{difference_high:+.3f}]",
               "by Holm": "{p_holm:p}", "first label": "{first_label:.0%}"},
        bold={"minus the group's first": lambda frame: frame["p_holm"] < 0.05},
        note="First label: the share of users for whom the first candidate is the most probable.",
    ),
    "tunings": Form(
        rows={"tuning": "{tuning}"},
        cells={"answers": "{answers:,.0f}", "tokens a second": "{tokens_per_second:.0f}",
               "minutes": "{seconds:minutes}", "reached": "{reached:.4f}",
               "reached with the retriever's score": "{reached_with_retriever:.4f}",
               "peak MiB": "{peak_memory_mib:,.0f}"},
        note="Reached: the validation NDCG@10 of the adapter that was kept.",
    ),
    "strategies": Form(
        rows={**_STRATEGIES, "ranks": "{ranked}"},
        across=lambda row: _STRATEGY_METRICS[row["metric"]][0],
        cells={"": lambda row: text(_STRATEGY_METRICS[row["metric"]][1], row)},
        prepare=lambda frame: frame[(frame["subset"] == "all") & frame["metric"].isin(_STRATEGY_METRICS)],
        first=("NDCG@10", "valid_outputs", "forward_passes", "seconds_p50"),
        note="All users. In brackets: 95 % intervals. Each count is followed by what its formula predicts.",
    ),
    "strategy_pairs": replace(_DIFFERENCES, rows=_STRATEGIES, across="minus {reference}", first=()),
    "key_differences": Form(
        rows={**_SET, "strategy": "{strategy}"},
        cells={"tokens generated": "{tokens_generated:.0f}", "forward passes": "{forward_passes:.0f}",
               "tokens read": "{tokens_read:,.0f}", "median seconds": "{seconds_p50:.2f}",
               "times LlamaRec's": "{times_verbalizer:.1f}", "needs a retriever": "{two_stage:any}"},
    ),
    "grid": Form(
        rows={"method": "{method}", **_SET},
        cells={"weight decay": "{weight_decay:g}", "dropout": "{dropout:g}", "validation Recall@10": "{recall@10:.4f}",
               "validation NDCG@10": "{ndcg@10:.4f}", "best of epochs": "{best_epoch:.0f} of {epochs:.0f}",
               "minutes": ("{seconds:minutes}", "not run")},
        bold={"validation Recall@10": lambda frame: frame["chosen"].astype(bool)},
        note="Bold: the setting chosen.",
    ),
    "noise": Form(rows={"metric": "{metric}", "source": "{source}"}, across="{dataset}", cells={"": "{size:.4f}"}),
    "bench": Form(
        rows={"case": "{case}", "variant": "{variant}"},
        cells={"median ms": "{median_seconds:milliseconds}", "IQR, ms": "{iqr_seconds:milliseconds}",
               "ratio": "{ratio_to_reference:.2f}", "peak MiB": "{peak_mib:,.0f}"},
        prose={"case": "5cm"},
        note="Ratio: the speed, relative to the case's first variant. Above 1 is faster.",
    ),
    "retriever_recall": Form(
        rows={"items": "{items:,}", "index": "{index}", "probes": "{probes:.0f}"},
        cells={"recall@20": "{recall@20:.3f}", "ms a query": "{median_seconds:milliseconds}",
               "seconds to build": "{build_seconds:.2f}"},
    ),
    "consistency_shares": Form(
        rows={**_SET, "method": "{method}"},
        cells={"smallest": "{smallest:.4f}", "largest": "{largest:.4f}", "one share for all six": "{constant:any}",
               "possible": "{consistent:any}"},
    ),
    "consistency_counts": Form(
        rows={**_SET, "method": "{method}", "decimals": "{printing}"},
        cells={"numbers that fit": "{fits:.0f}", "smallest": "{fewest:.0f}", "largest": "{most:.0f}"},
    ),
    "consistency_recalls": Form(
        rows={**_SET, "metric": "{metric}", "method": "{method}"},
        cells={"printed": "{value:.4f}", "users": "{hits:.0f} of {users:.0f}", "that gives": "{nearest:.4f}",
               "agree": "{multiple:any}", "interval": "[{ci_low:.3f},\xa0{ci_high:.3f}]"},
    ),
    "consistency_gains": Form(
        rows={**_SET, "metric": "{metric}", "difference": "{method} − {reference}"},
        cells={"printed": "{gain:+.4f}", "users": "{gain_users:.0f}", "least p": "{least_p:p}",
               "most lost": "{most_lost:.0f}"},
    ),
    "consistency_relative_gains": Form(
        rows={**_SET, "metric": "{metric}"},
        cells={"by Table 1": "{table1:+.2%}", "by Table 3": "{table3:+.2%}", "agree": "{agree:any}"},
    ),
    "consistency_stated": Form(
        rows={"statement": "{statement}"},
        cells={**_SET, "stands in": "{where}", "text": "{stated:any}", "tables": "{published:any}"},
        prose={"statement": "7cm"},
    ),
}  # fmt: skip
"""Name of a table's file → its form."""
