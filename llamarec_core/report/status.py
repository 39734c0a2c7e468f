"""What the book says about the runs themselves: the opening page's summary, run times, machines and versions.

Everything follows from tables and from provenance records (``llamarec_core.study``); nothing is typed in.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from llamarec_core.report.layout import ShownTable, show_table
from llamarec_core.report.methods import display_name, in_order
from llamarec_core.settings import RankerSettings

Records = Mapping[str, Mapping[str, Any]]
"""Provenance records by name, e.g. ``2_retriever-beauty-seed0``."""


def show_record(record: Mapping[str, Any]) -> ShownTable:
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
    return show_table(pd.DataFrame({"record": lines.keys(), "of this run": lines.values()}))


def run_times(records: Records) -> ShownTable:
    """Show wall time, peak memory and command of every notebook."""
    rows = [
        {
            "notebook": record["command"].split()[1].removeprefix("notebooks/").removesuffix(".ipynb"),
            "data set": record["parameters"].get("dataset", "all"),
            "minutes": f"{record['wall_seconds'] / 60:.1f}",
            "peak GiB": f"{record['peak_memory_mib'] / 1024:.1f}",
            "commit": (record["git_commit"] or "outside git")[:12],
            "uncommitted changes": {True: "yes", False: "no", None: "unknown"}[record["git_dirty"]],
        }
        for record in records.values()
    ]
    return show_table(pd.DataFrame(rows))


def machines(records: Records) -> ShownTable:
    """Show the machines that the notebooks ran on."""
    columns = ["processor", "cores", "memory_gib", "accelerators", "system"]
    kinds = [record["hardware"] | {"accelerators": _accelerators(record["hardware"])} for record in records.values()]
    kinds = pd.DataFrame(kinds, columns=columns)
    return show_table(kinds.drop_duplicates())


def versions(records: Records) -> ShownTable:
    """Show every version of Python and of the packages that the notebooks ran with."""
    found: dict[str, dict[str, None]] = {}
    for record in records.values():
        for name, version in record["packages"].items():
            found.setdefault(name, {})[version] = None
    return show_table(pd.DataFrame([{"package": name, "version": ", ".join(all_)} for name, all_ in found.items()]))


def opening(
    results: pd.DataFrame,
    comparison: pd.DataFrame,
    *,
    published: pd.DataFrame,
    ranker: RankerSettings,
    retriever: str = "lrurec",
    metric: str = "NDCG@10",
) -> str:
    """Return the opening page's summary as Markdown: what the paper claims, what we measured, at what scale.

    Args:
        results: what :func:`~llamarec_core.report.tables.results_table` returns.
        comparison: what :func:`~llamarec_core.report.tables.comparison_table` returns.
        published: what :func:`llamarec_core.evaluation.published` loads.
        ranker: the settings of stage 2.
        retriever: the method that retrieved the candidates.
        metric: the metric that the summary quotes.
    """
    printed = published[(published["metric"] == metric) & (published["subset"] == "all")]
    printed = printed.set_index(["dataset", "method"])["value"]
    gains = ", ".join(
        f"{printed[dataset, 'LRURec']:.4f} to {printed[dataset, 'LlamaRec']:.4f} on {dataset}"
        for dataset in printed.index.unique("dataset")
    )
    weights = "4-bit NF4" if ranker.quantization == "nf4" else ranker.dtype
    results, comparison = (frame[frame["metric"] == metric] for frame in (results, comparison))
    measured = "\n\n".join(
        _measured(dataset, rows, comparison[comparison["dataset"] == dataset], metric, display_name(retriever))
        for dataset, rows in results.groupby("dataset", sort=False)
    )
    return f"""\
**What the paper claims.** A tuned Llama-2-7B orders LRURec's candidates better than LRURec itself, in every metric and
on all three of its data sets: over all users, {metric} rises from {gains}.

**What was measured here**, with `{ranker.backbone}` ({weights} weights, LoRA on {", ".join(ranker.target_modules)})
after {ranker.training_examples or "all"} training examples:

{measured}

Brackets hold 95 % intervals over users. The scale decides what this can say: these are the numbers of this run, and
neither confirm nor refute the paper's.
"""


def _measured(dataset: str, results: pd.DataFrame, comparison: pd.DataFrame, metric: str, retriever: str) -> str:
    """Return one data set's verdict in a sentence, and its table."""
    measured = results.set_index(["method", "subset"])["measured"]
    users = results.groupby("subset")["users"].first()
    against = comparison[comparison["subset"] == "retrieved"].set_index("method")
    rows = [
        {
            "method": display_name(method),
            f"all {users['all']:,} users": f"{measured[method, 'all']:.4f}",
            f"the {users['retrieved']:,} whose target was retrieved": f"{measured[method, 'retrieved']:.4f}",
            f"there, minus {retriever}": _interval(against.loc[method]) if method in against.index else "",
        }
        for method in in_order(results["method"])
    ]
    tuned = against.loc["llamarec"]
    verdict = "no different from" if tuned["ci_low"] <= 0 <= tuned["ci_high"] else "worse than"
    verdict = "better than" if tuned["ci_low"] > 0 else verdict
    table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return f"On `{dataset}` the tuned ranker's order is {verdict} {retriever}'s own ({metric}):\n\n{table}"


def _interval(row: pd.Series) -> str:
    return f"{row['difference']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"


def _machine(hardware: Mapping[str, Any]) -> str:
    return (
        f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, {_accelerators(hardware)}"
    )


def _accelerators(hardware: Mapping[str, Any]) -> str:
    return ", ".join(hardware["accelerators"]) or "no GPU"
