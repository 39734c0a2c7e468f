"""The ledger of claims as a person reads it: one line a claim, numbers in the units of the paper."""

import pandas as pd

from llamarec_core.evaluation import RULES


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
