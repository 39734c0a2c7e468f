"""The numbers that the paper printed (Yue et al., 2023, arXiv 2311.02089), loaded from ``results/published``.

No published number stands in code: the tables of the study set these beside its own. Each function takes that folder,
and raises an InputError where a file or one of its columns is missing.
"""

from pathlib import Path

import pandas as pd

from llamarec_core.files import InputError


def published(folder: Path) -> pd.DataFrame:
    """Load Tables 1 and 3: ``dataset``, ``subset``, ``metric``, ``method`` (the paper's name), ``value``.

    ``subset`` is ``all`` (Table 1), or ``retrieved``: users whose target is among the retriever's top 20 (Table 3).
    """
    files = {"all": "table1_all_users.csv", "retrieved": "table3_valid_retrieval_subset.csv"}
    columns = ["dataset", "metric", "method", "value"]
    tables = [_load(folder, name, columns).assign(subset=subset) for subset, name in files.items()]
    return pd.concat(tables, ignore_index=True)[["dataset", "subset", "metric", "method", "value"]]


def published_statistics(folder: Path) -> pd.DataFrame:
    """Load Table 2: ``dataset``, ``users``, ``items``, ``interactions``, ``mean_length``, ``density``.

    The quantities are text as printed, because a rounded figure such as ``198K`` says less than a number.
    """
    columns = ["dataset", "users", "items", "interactions", "mean_length", "density"]
    return _load(folder, "table2_dataset_statistics.csv", columns, dtype=str)


def published_llm_baselines(folder: Path) -> pd.DataFrame:
    """Load Table 4, LLM-based methods on Beauty: ``metric``, ``method``, ``value`` (NaN where N/A).

    All but LlamaRec's own are numbers that the paper quotes from other works.
    """
    return _load(folder, "table4_llm_baselines_beauty.csv", ["metric", "method", "value"])


def published_inference_times(folder: Path) -> pd.DataFrame:
    """Load Figure 3: ``mean_title_length_tokens``, ``method``, ``seconds``, ``source``.

    Rows whose source is ``plot`` are read off the figure, to about 2 s; the others stand in the ``text``.
    """
    return _load(folder, "figure3_inference_time.csv", ["mean_title_length_tokens", "method", "seconds", "source"])


def published_claims(folder: Path) -> pd.DataFrame:
    """Load the paper's statements: ``claim``, ``dataset`` (may be empty), ``where``, ``statement``, ``stated``.

    ``stated`` is the number that the text states, as a share and not in per cent, or empty. ``counts_as`` names the
    claim of :mod:`llamarec_core.evaluation.claims` that the statement is one wording of.
    """
    claims = _load(folder, "claims.csv", ["claim", "dataset", "where", "statement", "stated", "counts_as"])
    return claims.fillna({"dataset": ""})


def measured_inference_times(folder: Path) -> pd.DataFrame | None:
    """Load our own times by title length as the paper's, with ``backbone``; ``None`` where they were not measured.

    Args:
        folder: ``results/bench``. As in the paper, the ``whole`` time of a request that is answered alone counts.
    """
    if not (Path(folder) / "inference_time.csv").is_file():
        return None
    columns = ["mean_title_length_tokens", "method", "seconds", "backbone"]
    table = _load(folder, "inference_time.csv", [*columns, "batch", "part"])
    return table.loc[(table["batch"] == 1) & (table["part"] == "whole"), columns].reset_index(drop=True)


def _load(folder: Path, name: str, columns: list[str], **options) -> pd.DataFrame:
    path = Path(folder) / name
    try:
        table = pd.read_csv(path, **options)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: restore the published tables, which the repository holds.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable CSV ({error}): restore it from the repository.") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"{path} lacks the column {missing[0]!r}: restore it from the repository.")
    return table[columns]
