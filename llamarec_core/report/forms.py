"""What each table of the study looks like: one description for the page and for LaTeX, by the name of the table's file.

Numbers stand beside their 95 % interval in brackets, the published value beside ours, the best bold. A page shows the
quoted metrics first; the whole table stands behind a fold, and the CSV holds what no page shows.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd

QUOTED = ("NDCG@10", "Recall@10")
"""The metrics that pages show first; the first of them is the primary one."""

Row = dict[str, Any]
Cell = str | Callable[[Row], str]
"""A format string over a row's columns, empty where one is missing; or a function of the row."""


@dataclass(frozen=True)
class Form:
    """How a tidy table is laid out.

    Without ``across`` each row of the frame is a row of the table. With it, frame rows of the same headings share a
    line, and each value of ``across`` heads columns of its own.
    """

    rows: Mapping[str, Cell]
    """Heading → what names a row. Leading ones that never differ are left out."""
    cells: Mapping[str, Cell]
    """Heading → what stands in a column. Columns without any text are left out."""
    across: Cell | None = None
    bold: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = field(default_factory=dict)
    """Heading → which rows of the frame are bold there."""
    prepare: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame
    """Select and sort the rows before anything else."""
    first: Callable[[pd.DataFrame], pd.Series] | None = None
    """Rows of the frame that the page shows before the fold; without it there is no fold."""
    whole_in_latex: bool = True
    """Whether LaTeX holds all rows, or those before the fold."""
    prose: Mapping[str, str] = field(default_factory=dict)
    """Heading of a column of sentences → its width in LaTeX."""
    note: str = ""
    """Ends the caption."""


def plain(frame: pd.DataFrame) -> Form:
    """Return the form that shows the columns as they are, the first as heading of the rows."""
    shown = {column.replace("_", " "): lambda row, column=column: number(row[column]) for column in frame}
    first = next(iter(shown))
    return Form({first: shown.pop(first)}, shown)


def text(cell: Cell, row: Row) -> str:
    """Return what a cell says of a row."""
    if callable(cell):
        return cell(row)
    if any(pd.isna(row.get(name)) for _, name, _, _ in Formatter().parse(cell) if name):
        return ""
    return _minus(cell.format(**row))


def number(value: Any) -> str:
    """Return a value of any table: a number without an exponent, yes or no, or the text itself."""
    if pd.isna(value):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)
    if abs(value) < 1e-9:
        return "0"
    if abs(value) < 1e-4:
        return _minus(np.format_float_positional(value, precision=2, unique=False, fractional=False, trim="-"))
    return _minus(f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}")


def _minus(written: str) -> str:
    """Write a minus sign before negative numbers."""
    return re.sub(r"(?<!\w)-(?=[\d.])", "−", written)


_INTERVAL = "{measured:.4f} [{ci_low:.3f},\xa0{ci_high:.3f}]"
_SIGNED = "{difference:+.4f} [{ci_low:+.4f},\xa0{ci_high:+.4f}]"
_UNITS = {
    "difference": "{:+.4f}", "gain": "{:+.2%}", "share": "{:.2%}", "seconds": "{:.2f} s", "ratio": "{:.1f}",
}  # fmt: skip
_MEASURES = {
    "NDCG@10": "NDCG@10", "Recall@10": "Recall@10", "valid_outputs": "valid outputs", "answered": "answered",
    "forward_passes": "forward passes", "tokens_read": "tokens read", "tokens_generated": "tokens generated",
    "seconds_p50": "median seconds", "seconds_p95": "seconds, 95th percentile",
    "requests_per_second": "requests a second, together", "peak_mib": "peak MiB, together",
}  # fmt: skip


def _p_value(row: Row) -> str:
    value = row["p_holm"]
    written = "" if pd.isna(value) else "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
    return written.replace(" ", "\xa0")


def _beyond_chance(frame: pd.DataFrame) -> pd.Series:
    return frame["p_holm"] < 0.05


def _best(column: str) -> Callable[[pd.DataFrame], pd.Series]:
    """Return what marks the largest of several methods in a column."""

    def largest(frame: pd.DataFrame) -> pd.Series:
        methods = frame.groupby(["dataset", "subset", "metric"])[column]
        return (frame[column] == methods.transform("max")) & (methods.transform("count") > 1)

    return largest


def _in_unit(row: Row, column: str) -> str:
    written = "" if pd.isna(row.get(column)) else _minus(_UNITS[row["unit"]].format(row[column]))
    return written.replace("%", "\xa0%")


def _ours(row: Row) -> str:
    value, low, high = (_in_unit(row, column) for column in ("measured", "ci_low", "ci_high"))
    return f"{value} [{low},\xa0{high}]" if low else value


def _of_strategy(row: Row) -> str:
    if row["metric"] in QUOTED:
        return text(_INTERVAL, row)
    if row["formula"] in ("equal", "bounded", "exceeded"):
        bound = {"equal": "=", "bounded": "≤ {predicted:.0f}", "exceeded": "> {predicted:.0f}"}[row["formula"]]
        return f"{row['measured']:.0f} ({bound.format(**row)})"
    share = {"valid_outputs": "{:.0%}", "answered": "{:.0%}", "peak_mib": "{:.0f}"}
    return share.get(row["metric"], "{:.2f}").format(row["measured"])


_SET = {"data set": "{dataset}"}
_STRATEGIES = {**_SET, "strategy": "{method}, {state}"}
RESULTS = Form(
    rows={**_SET, "users": "{subset}", "method": "{method}"},
    across="{metric}",
    cells={"paper": "{published:.4f}", "ours": _INTERVAL},
    bold={"paper": _best("published"), "ours": _best("measured")},
    first=lambda frame: frame["metric"].isin(QUOTED),
    note="In brackets: 95 % bootstrap intervals over users. Bold: the best.",
)
DIFFERENCES = Form(
    rows={**_SET, "difference": "{method} − {reference}"},
    across="{metric}, {subset}",
    cells={"": lambda row: f"{text(_SIGNED, row)} {_p_value(row)}".rstrip()},
    bold={"": _beyond_chance},
    prepare=lambda frame: frame.sort_values("subset", ascending=False, kind="stable"),  # what is tested stands first
    first=lambda frame: frame["metric"] == QUOTED[0],
    whole_in_latex=False,
    note="In brackets: 95 % bootstrap intervals over users. Bold: p < 0.05 by Holm's method.",
)
STATISTICS = Form(
    rows={"quantity": lambda row: row["quantity"].replace("_", " ")},
    across="{dataset}",
    cells={"paper": "{published}", "ours": lambda row: number(float(row["measured"]))},
)
INFERENCE_TIME = Form(
    rows={"precision": "{precision}", "requests": "{batch}", "title tokens": "{mean_title_length_tokens:g}",
          "method": "{method}"},
    across="{part}", cells={"": "{seconds:.3f}"}, note="Median seconds a request.",
)  # fmt: skip
FORMS: dict[str, Form] = {
    **dict.fromkeys(("table1", "table3", "table4", "table1_retrieval"), RESULTS),
    **dict.fromkeys(("comparison", "floors", "retrieval_pairs"), DIFFERENCES),
    **dict.fromkeys(("table2", "table2_retrieval"), STATISTICS),
    **dict.fromkeys(("inference_time", "inference_time_7b"), INFERENCE_TIME),
    "claims": Form(
        rows={"claim": "{statement}"},
        cells={"data set": "{dataset}", "verdict": "{verdict}", "our model": lambda row: number(row.get("observed")),
               "paper": lambda row: _in_unit(row, "published"), "ours": _ours,
               "detectable": lambda row: _in_unit(row, "detectable"), "because": "{why}"},
        prose={"claim": "6.5cm", "because": "5cm"},
        note="Detectable: the smallest difference that a test on these users sees with a power of 80 %.",
    ),
    "ranker": Form(
        rows={**_SET, "compared": "{group}", "variant": "{method}"},
        cells={"NDCG@10": _INTERVAL,
               "minus the group's first": "{difference:+.4f} [{difference_low:+.3f},\xa0{difference_high:+.3f}]",
               "by Holm": _p_value, "first label": "{first_label:.0%}"},
        bold={"minus the group's first": _beyond_chance},
        note="First label: the share of users whose first candidate is the most probable.",
    ),
    "tunings": Form(
        rows={"tuning": "{tuning}"},
        cells={"answers": "{answers:,.0f}", "tokens a second": "{tokens_per_second:.0f}",
               "minutes": lambda row: f"{row['seconds'] / 60:.0f}", "reached": "{reached:.4f}",
               "reached with the retriever's score": "{reached_with_retriever:.4f}",
               "peak MiB": "{peak_memory_mib:,.0f}"},
        note="Reached: the validation NDCG@10 of the adapter that was kept.",
    ),
    "strategies": Form(
        rows={**_STRATEGIES, "ranks": "{ranked}"},
        across=lambda row: _MEASURES[row["metric"]],
        cells={"": _of_strategy},
        prepare=lambda frame: frame[(frame["subset"] == "all") & frame["metric"].isin(_MEASURES)],
        first=lambda frame: frame["metric"].isin(["NDCG@10", "valid_outputs", "forward_passes", "seconds_p50"]),
        note="All users; in brackets: 95 % intervals. Behind each count, what its formula predicts.",
    ),
    "strategy_pairs": replace(DIFFERENCES, rows=_STRATEGIES, across="minus {reference}", first=None),
    "key_differences": Form(
        rows={**_SET, "strategy": "{strategy}"},
        cells={"tokens generated": "{tokens_generated:.0f}", "forward passes": "{forward_passes:.0f}",
               "tokens read": "{tokens_read:,.0f}", "median seconds": "{seconds_p50:.2f}",
               "times LlamaRec's": "{times_verbalizer:.1f}",
               "needs a retriever": lambda row: number(row["two_stage"])},
    ),
    "grid": Form(
        rows={"method": "{method}", **_SET},
        cells={"weight decay": "{weight_decay:g}", "dropout": "{dropout:g}", "validation Recall@10": "{recall@10:.4f}",
               "validation NDCG@10": "{ndcg@10:.4f}", "best of epochs": "{best_epoch:.0f} of {epochs:.0f}",
               "minutes": lambda row: "not run" if pd.isna(row["seconds"]) else f"{row['seconds'] / 60:.0f}"},
        bold={"validation Recall@10": lambda frame: frame["chosen"].astype(bool)},
        note="Bold: the setting chosen.",
    ),
    "noise": Form(rows={"metric": "{metric}", "source": "{source}"}, across="{dataset}", cells={"": "{size:.4f}"}),
    "bench": Form(
        rows={"case": "{case}", "variant": "{variant}"},
        cells={"median ms": lambda row: number(float(f"{1000 * row['median_seconds']:.3g}")),
               "IQR, ms": lambda row: number(float(f"{1000 * row['iqr_seconds']:.3g}")),
               "ratio": "{ratio_to_reference:.2f}", "peak MiB": "{peak_mib:,.0f}"},
        prose={"case": "5cm"},
        note="A ratio above 1: so many times as fast as the case's first variant.",
    ),
    "retriever_recall": Form(
        rows={"items": "{items:,}", "index": "{index}", "probes": "{probes:.0f}"},
        cells={"recall@20": "{recall@20:.3f}", "ms a query": lambda row: f"{1000 * row['median_seconds']:.3g}",
               "seconds to build": "{build_seconds:.2f}"},
    ),
    "consistency_relative_gains": Form(
        rows={**_SET, "metric": "{metric}"},
        cells={"by Table 1": "{table1:+.2%}", "by Table 3": "{table3:+.2%}", "agree": lambda row: number(row["agree"])},
    ),
    "consistency_stated": Form(
        rows={"statement": "{statement}"},
        cells={**_SET, "stands in": "{where}", "text": lambda row: number(row["stated"]),
               "tables": lambda row: number(row["published"])},
        prose={"statement": "7cm"},
    ),
}  # fmt: skip
"""A table's name → its form."""
