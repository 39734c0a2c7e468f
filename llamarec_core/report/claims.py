"""The ledger of claims as a person reads it: one line a claim, numbers in the units of the paper."""

import pandas as pd

from llamarec_core.evaluation import RULES

_FORMATS = {
    "difference": "{:+.4f}".format,
    "gain": "{:+.2%}".format,
    "share": "{:.2%}".format,
    "seconds": "{:.2f} s".format,
    "ratio": "{:.1f}".format,
}


def claims_display(table: pd.DataFrame) -> pd.DataFrame:
    """Lay the ledger out for the page.

    Args:
        table: what :func:`llamarec_core.evaluation.claims_table` returns.

    Returns:
        ``verdict``, ``claim``, ``stands in``, ``data set``, ``paper``, ``ours`` (with its 95 % interval), ``users`` and
        ``because``. Where the text states no number, the paper's is the smallest that its table gives.
    """
    return pd.DataFrame(
        {
            "verdict": table["verdict"],
            "claim": table["statement"],
            "stands in": table["where"],
            "data set": table["dataset"],
            "paper": [_number(row.published, row.unit) for row in table.itertuples()],
            "ours": [_with_interval(row) for row in table.itertuples()],
            "users": ["" if pd.isna(users) else f"{users:,}" for users in table["users"]],
            "because": table["why"],
        }
    )


def verdict_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Count the verdicts, each beside its rule: ``verdict``, ``claims``, ``when``."""
    counts = table["verdict"].value_counts()
    return pd.DataFrame(
        [{"verdict": name, "claims": int(counts.get(name, 0)), "when": rule} for name, rule in RULES.items()]
    )


def verdicts_sentence(table: pd.DataFrame) -> str:
    """Say in a sentence how many claims got each verdict."""
    counts = [f"{row.claims} {row.verdict}" for row in verdict_counts(table).itertuples()]
    return f"Of {len(table)} claims, {', '.join(counts[:-1])} and {counts[-1]}.\n"


def _with_interval(row: tuple) -> str:
    if pd.isna(row.measured):
        return ""
    value = _number(row.measured, row.unit)
    if pd.isna(row.ci_low):
        return value
    return f"{value} [{_number(row.ci_low, row.unit)}, {_number(row.ci_high, row.unit)}]"


def _number(value: float, unit: str) -> str:
    return _FORMATS[unit](value).replace("-", "−").replace("%", "\N{NO-BREAK SPACE}%")
