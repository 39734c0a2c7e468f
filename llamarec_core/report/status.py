"""How the notebooks were run, from their provenance records: time, memory, machine, commit and versions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from llamarec_core.report.methods import display_name
from llamarec_core.report.show import ShownTable, show_table
from llamarec_core.settings import RankerSettings

_FLOOR, _RANKER = "title-overlap-with-retriever", "llamarec-with-retriever"

Records = Mapping[str, Mapping[str, Any]]
"""Provenance records by name, e.g. ``2_retriever-beauty-seed0``."""


def show_record(record: Mapping[str, Any]) -> ShownTable:
    """Show the provenance of one run in a few lines."""
    lines = {
        "command": record["command"],
        "commit": _commit(record),
        "data": ", ".join(f"{name}: {value[:12]}" for name, value in record["data_sha256"].items())
        or "no data set was read",
        "machine": machine(record["hardware"]),
        "time and memory": f"{record['wall_seconds']:.0f} s, {record['peak_memory_mib'] / 1024:.1f} GiB at most",
    }
    return show_table(pd.DataFrame({"record": lines.keys(), "of this run": lines.values()}))


def show_runs(records: Records) -> ShownTable:
    """Show time, memory, commit and machine of every notebook."""
    rows = [
        {
            "notebook": record["command"].split()[1].removeprefix("notebooks/").removesuffix(".ipynb"),
            "data set": record["parameters"].get("dataset", "all"),
            "minutes": f"{record['wall_seconds'] / 60:.1f}",
            "peak GiB": f"{record['peak_memory_mib'] / 1024:.1f}",
            "commit": _commit(record),
            "machine": machine(record["hardware"]),
        }
        for record in records.values()
    ]
    return show_table(pd.DataFrame(rows))


def show_versions(records: Records) -> ShownTable:
    """Show every version of Python and of the packages that the notebooks ran with."""
    of_runs = ({"system": record["hardware"]["system"], **record["packages"]} for record in records.values())
    found = pd.DataFrame(list(of_runs))
    rows = [{"what": name, "versions": ", ".join(found[name].dropna().unique())} for name in found]
    return show_table(pd.DataFrame(rows))


def machine(hardware: Mapping[str, Any]) -> str:
    """Name the hardware of a record: processor, cores, memory, accelerators."""
    accelerators = ", ".join(hardware["accelerators"]) or "no GPU"
    return f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, {accelerators}"


def _commit(record: Mapping[str, Any]) -> str:
    changes = {True: " with uncommitted changes"}.get(record["git_dirty"], "")
    return f"{(record['git_commit'] or 'outside git')[:12]}{changes}"


def opening(
    results: pd.DataFrame,
    comparison: pd.DataFrame,
    *,
    floors: pd.DataFrame,
    published: pd.DataFrame,
    ranker: RankerSettings,
    records: Iterable[Mapping[str, Any]],
    retriever: str = "lrurec",
    kept: Mapping[str, int | None] | None = None,
    metric: str = "NDCG@10",
) -> str:
    """Return the opening page's summary as Markdown: what the paper claims, what was run, what came out.

    Args:
        results: what :func:`~llamarec_core.report.tables.results_table` returns.
        comparison: what :func:`~llamarec_core.report.comparison_table` returns.
        floors: what :func:`~llamarec_core.report.floors_table` returns.
        published: what :func:`llamarec_core.evaluation.published` loads.
        ranker: the settings of stage 2.
        records: provenance records of the ranks.
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
    results = results[results["metric"] == metric]
    comparison = comparison[(comparison["metric"] == metric) & (comparison["subset"] == "retrieved")]
    return f"""\
**What the paper claims.** A tuned Llama-2-7B orders LRURec's candidates better than LRURec itself, in every metric and
on all three of its data sets: over all users, {metric} rises from {gains}.

**What was run here.** {_run(ranker, kept or {})} {_where(list(records))}

**What came out.** {_came_out(comparison, floors, display_name(retriever))}

{_differences(results, comparison, retriever)}

{metric} over the users whose target was retrieved, the only ones for whom the order of the candidates matters:
LRURec's, and what each other order has more or less. An interval (95 %, over users) is for one comparison; bold allows
for all that were made on a data set (p < 0.05 by Holm's method), so that an interval may exclude 0 without it. *Title
overlap* orders by the words that titles share with the history's, without a language model.{_scale(ranker)}
"""


def _run(ranker: RankerSettings, kept: Mapping[str, int | None]) -> str:
    """Say what ranked, what it was taught, and what of that validation kept."""
    weights = "4-bit NF4" if ranker.quantization == "nf4" else ranker.dtype
    examples, questions = ranker.training_examples or "all", ranker.users_per_prompt * ranker.targets_per_user
    taught = f"{examples} prompts" + (f" of up to {questions} questions" if questions > 1 else "")
    before = " after a warm-up that teaches which title each label stands for" if ranker.warmup != "none" else ""
    text = f"`{ranker.backbone}` ({weights} weights) with LoRA was given {taught} to learn from{before}."
    alone = [dataset for dataset, answers in kept.items() if answers == 0]
    learnt = [f"{answers:,} answers on {dataset}" for dataset, answers in kept.items() if answers]
    if learnt:
        text += f" Validation kept what it had learnt after {_listed(learnt)}."
    if alone:
        text += f" On {_listed(alone)}, validation preferred the adapter of the warm-up to all that came after it: "
        text += "there *LlamaRec* knows the labels, and has learnt no preference of any user."
    return text


def _scale(ranker: RankerSettings) -> str:
    """Say what another backbone than the paper's can tell."""
    if ranker.backbone == "llama-2-7b":
        return ""
    return f" What `{ranker.backbone}` does\nneither confirms nor refutes what the paper says of its Llama-2-7B."


def _where(records: Sequence[Mapping[str, Any]]) -> str:
    """Say with which seeds, and on which machines, ranks were measured."""
    seeds = sorted({record["seed"] for record in records})
    machines = dict.fromkeys(machine(record["hardware"]) for record in records)
    return f"Seed{'s' if len(seeds) > 1 else ''} {_listed([str(seed) for seed in seeds])}, on {'; '.join(machines)}."


def _came_out(comparison: pd.DataFrame, floors: pd.DataFrame, retriever: str) -> str:
    """Say in sentences how the ranker compares with the retriever's order, and with orders without a language model."""
    sentences = [
        f"{subject} {_by_verdict(rows)}."
        for subject, rows in (
            (f"LlamaRec's order, held against {retriever}'s,", comparison[comparison["method"] == "llamarec"]),
            (f"With {retriever}'s score added, it", comparison[comparison["method"] == _RANKER]),
        )
        if len(rows)
    ]
    if len(floors):
        against = floors[floors["reference"] == _FLOOR]
        name = f"title overlap with {retriever}'s score added"
        sentences += [f"Against {name}, which needs no language model, that {_by_verdict(against)}."]
        alone = floors[floors["method"] == "llamarec"]
        verdicts = alone.apply(_verdict, axis="columns")
        better, worse = (
            ", ".join(
                f"{display_name(name).lower()} on {_listed(rows['dataset'].tolist())}"
                for name, rows in alone[verdicts == verdict].groupby("reference", sort=False)
            )
            for verdict in ("is better", "is worse")
        )
        than = [f"better than {better or 'no order without a language model'}"]
        than += [f"worse than {worse}"] if worse else []
        sentences += [f"Beyond chance, LlamaRec alone is {'; '.join(than)}."]
    return " ".join(sentences) or "The ranker was not run."


def _by_verdict(rows: pd.DataFrame) -> str:
    """Say each verdict with the data sets of which it is true."""
    verdicts: dict[str, list[str]] = {}
    for row in rows.itertuples():
        verdicts.setdefault(_verdict(row), []).append(row.dataset)
    return "; ".join(f"{verdict} on {_listed(datasets)}" for verdict, datasets in verdicts.items())


def _verdict(row: Any) -> str:
    """Say in words what a difference and its p-value say."""
    if row.p_holm >= 0.05:
        return "shows no difference beyond chance"
    return "is better" if row.difference > 0 else "is worse"


def _differences(results: pd.DataFrame, comparison: pd.DataFrame, retriever: str) -> str:
    """Return a row for each data set: its users, the retriever's metric, and the differences of the other orders."""
    rows = []
    for dataset, group in results.groupby("dataset", sort=False):
        users = group.groupby("subset")["users"].first()
        own = group[(group["method"] == retriever) & (group["subset"] == "retrieved")]["measured"].item()
        row = {"data set": dataset, "users": f"{users['retrieved']:,} of {users['all']:,}"}
        row[display_name(retriever)] = f"{own:.3f}"
        against = comparison[comparison["dataset"] == dataset].set_index("method")
        for method in ("llamarec", _RANKER, _FLOOR):
            row[display_name(method)] = _interval(against.loc[method]) if method in against.index else "not run"
        rows.append(row)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def _interval(row: pd.Series) -> str:
    difference = f"{row['difference']:+.3f}"
    difference = f"**{difference}**" if row["p_holm"] < 0.05 else difference
    return f"{difference} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"


def _listed(names: Sequence[str]) -> str:
    """Join names as a sentence does: a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
