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
        "machine": machine(record["hardware"]),
        "time and memory": f"{record['wall_seconds']:.0f} s, {record['peak_memory_mib'] / 1024:.1f} GiB at most",
    }
    return show_table(pd.DataFrame({"record": lines.keys(), "of this run": lines.values()}))


def machine(hardware: Mapping[str, Any]) -> str:
    """Name the hardware of a record: processor, cores, memory, accelerators."""
    return (
        f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, {_accelerators(hardware)}"
    )


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
    kept: Mapping[str, int | None] | None = None,
    metric: str = "NDCG@10",
) -> str:
    """Return the opening page's summary as Markdown: what the paper claims, what we measured, at what scale.

    Args:
        results: what :func:`~llamarec_core.report.tables.results_table` returns.
        comparison: what :func:`~llamarec_core.report.tables.comparison_table` returns.
        published: what :func:`llamarec_core.evaluation.published` loads.
        ranker: the settings of stage 2.
        retriever: the method that retrieved the candidates.
        kept: data set → answers that the adapter which validation kept had learnt, where they are known; 0 is that of
            the warm-up.
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
        + _kept((kept or {}).get(dataset))
        for dataset, rows in results.groupby("dataset", sort=False)
    )
    return f"""\
**What the paper claims.** A tuned Llama-2-7B orders LRURec's candidates better than LRURec itself, in every metric and
on all three of its data sets: over all users, {metric} rises from {gains}.

**What was measured here**, with `{ranker.backbone}` ({weights} weights, LoRA on {", ".join(ranker.target_modules)})
after {_learnt(ranker)}:

{measured}

Brackets hold 95 % intervals over users. The scale decides what this can say: these are the numbers of this run, and
neither confirm nor refute the paper's.
"""


def _learnt(ranker: RankerSettings) -> str:
    """Say how much the ranker was taught."""
    examples = f"{ranker.training_examples or 'all'} training examples"
    questions = ranker.users_per_prompt * ranker.targets_per_user
    return f"{examples} of up to {questions} questions" if questions > 1 else examples


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
    if "llamarec" not in against.index:
        return f"On `{dataset}` the ranker was not run."
    verdict = f"On `{dataset}` the tuned ranker's order is {_verdict(against.loc['llamarec'])} {retriever}'s own"
    if "llamarec-with-retriever" in against.index:
        verdict += f", and with {retriever}'s score added {_verdict(against.loc['llamarec-with-retriever'])} it"
    table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return f"{verdict} ({metric}):\n\n{table}"


def _verdict(row: pd.Series) -> str:
    """Say in words what the interval of a difference says."""
    if row["ci_low"] <= 0 <= row["ci_high"]:
        return "no different from"
    return "better than" if row["ci_low"] > 0 else "worse than"


def _kept(answers: int | None) -> str:
    """Say which adapter ranked."""
    if answers is None:
        return ""
    of = f"after {answers:,} answers" if answers else "of the warm-up: no answer learnt after it made validation better"
    return f"\n\nValidation kept the adapter {of}."


def _interval(row: pd.Series) -> str:
    return f"{row['difference']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"


def _accelerators(hardware: Mapping[str, Any]) -> str:
    return ", ".join(hardware["accelerators"]) or "no GPU"
