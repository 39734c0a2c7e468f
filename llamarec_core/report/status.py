"""How the notebooks were run, from their provenance records: time, memory, machine, commit and versions."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from llamarec_core.report.show import ShownTable, show_table

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
