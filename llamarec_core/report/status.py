"""What the book says about the runs themselves: the opening page's summary, run times, machines and versions.

Everything follows from tables and from provenance records (``llamarec_core.study``); nothing is typed in.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from llamarec_core.settings import RankerSettings

Records = Mapping[str, Mapping[str, Any]]
"""Provenance records by name, e.g. ``2_retriever-beauty-seed0``."""


def show_record(record: Mapping[str, Any]) -> Styler:
    """Show the provenance of one run in a few lines."""
    commit = (record["git_commit"] or "outside git")[:12] + (" with uncommitted changes" if record["git_dirty"] else "")
    lines = {
        "command": record["command"],
        "commit": commit,
        "data": ", ".join(f"{name}: {value[:12]}" for name, value in record["data_sha256"].items())
        or "ranks files only",
        "machine": _machine(record["hardware"]),
        "time and memory": f"{record['wall_seconds']:.0f} s, {record['peak_memory_mib'] / 1024:.1f} GiB at most",
    }
    return pd.Series(lines).to_frame("value").style.hide(axis="columns")


def run_times(records: Records) -> Styler:
    """Show wall time, peak memory and command of every notebook."""
    rows = [
        {
            "notebook": record["command"].split()[1].removeprefix("notebooks/").removesuffix(".ipynb"),
            "data set": record["parameters"].get("dataset", "all"),
            "minutes": record["wall_seconds"] / 60,
            "peak GiB": record["peak_memory_mib"] / 1024,
            "commit": (record["git_commit"] or "outside git")[:12],
            "uncommitted changes": {True: "yes", False: "no", None: "unknown"}[record["git_dirty"]],
        }
        for record in records.values()
    ]
    return pd.DataFrame(rows).style.hide(axis="index").format({"minutes": "{:.1f}", "peak GiB": "{:.1f}"})


def machines(records: Records) -> Styler:
    """Show the machines that the notebooks ran on."""
    names = dict.fromkeys(
        f"{_machine(record['hardware'])}, {record['hardware']['system']}" for record in records.values()
    )
    return pd.DataFrame({"machine": list(names)}).style.hide(axis="index")


def versions(records: Records) -> Styler:
    """Show every version of Python and of the packages that the notebooks ran with."""
    found: dict[str, dict[str, None]] = {}
    for record in records.values():
        for name, version in record["packages"].items():
            found.setdefault(name, {})[version] = None
    return pd.DataFrame(
        [{"package": name, "version": ", ".join(several)} for name, several in found.items()]
    ).style.hide(axis="index")


def opening(results: pd.DataFrame, comparison: pd.DataFrame, *, ranker: RankerSettings, metric: str = "NDCG@10") -> str:
    """Return the opening page's summary as Markdown: what the paper claims, what we measured, at what scale.

    Args:
        results: what :func:`~llamarec_core.report.tables.results_table` returns.
        comparison: what :func:`~llamarec_core.report.tables.comparison_table` returns.
        ranker: the settings of stage 2.
        metric: the metric that the summary quotes.
    """
    rows = []
    for (dataset, subset), ours in comparison[
        (comparison["method"] == "llamarec") & (comparison["metric"] == metric)
    ].groupby(["dataset", "subset"], sort=False):
        row = ours.iloc[0]
        measured = results[
            (results["dataset"] == dataset) & (results["subset"] == subset) & (results["metric"] == metric)
        ].set_index("method")["measured"]
        rows.append(
            {
                "data set": dataset,
                "users": f"{row['users']:,} {'in all' if subset == 'all' else 'retrieved'}",
                "random order": f"{measured['random-order']:.4f}",
                "popularity order": f"{measured['popularity-order']:.4f}",
                "LRURec": f"{measured['lrurec']:.4f}",
                "LlamaRec, not tuned": f"{measured['llamarec-zero-shot']:.4f}",
                "LlamaRec": f"{measured['llamarec']:.4f}",
                "LlamaRec − LRURec": f"{row['difference']:+.4f} [{row['ci_low']:+.4f}, {row['ci_high']:+.4f}]",
                "better?": _verdict(row),
            }
        )
    weights = "4-bit NF4" if ranker.quantization == "nf4" else ranker.dtype
    return f"""\
**The paper claims** that a tuned Llama-2-7B orders LRURec's candidates better than LRURec itself, in every metric and
on all three of its data sets. **Measured here**, with `{ranker.backbone}` ({weights} weights, LoRA on
{", ".join(ranker.target_modules)}) after {ranker.training_examples or "all"} training examples, {metric} on the test
targets:

{pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}

Brackets hold 95 % intervals over users; *better?* is the sign of the difference where the interval leaves zero out. The
scale decides what this can say: these are the numbers of this run, and neither confirm nor refute the paper's.
"""


def _verdict(row: pd.Series) -> str:
    if row["ci_low"] > 0:
        return "yes"
    return "no, worse" if row["ci_high"] < 0 else "cannot tell"


def _machine(hardware: Mapping[str, Any]) -> str:
    accelerators = ", ".join(hardware["accelerators"]) or "no GPU"
    return f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, {accelerators}"
