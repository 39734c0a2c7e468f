"""The numbers that the paper printed (Yue et al., 2023, arXiv 2311.02089), loaded from ``results/published``.

No published number stands in code: the tables of the study set these beside its own.
"""

from pathlib import Path

import pandas as pd

from llamarec_core.files import InputError

_RESULTS = {"all": "table1_all_users.csv", "retrieved": "table3_valid_retrieval_subset.csv"}


def published(folder: Path) -> pd.DataFrame:
    """Load Tables 1 and 3: five retrievers and rankers on three data sets, six metrics.

    Args:
        folder: ``results/published``.

    Returns:
        One number a row, with ``dataset``, ``subset`` (``all``: Table 1; ``retrieved``: Table 3, users whose
        target is among the retriever's top 20), ``metric``, ``method`` (the paper's name), ``value``.

    Raises:
        InputError: a file or one of its columns is missing.
    """
    columns = ["dataset", "metric", "method", "value"]
    tables = [_load(folder, name, columns).assign(subset=subset) for subset, name in _RESULTS.items()]
    return pd.concat(tables, ignore_index=True)[["dataset", "subset", "metric", "method", "value"]]


def published_statistics(folder: Path) -> pd.DataFrame:
    """Load Table 2: ``dataset``, ``users``, ``items``, ``interactions``, ``mean_length``, ``density``.

    The quantities are text as printed, because a rounded figure such as ``198K`` says less than a number.

    Raises:
        InputError: the file or one of its columns is missing.
    """
    columns = ["dataset", "users", "items", "interactions", "mean_length", "density"]
    return _load(folder, "table2_dataset_statistics.csv", columns, dtype=str)


def published_llm_baselines(folder: Path) -> pd.DataFrame:
    """Load Table 4, LLM-based methods on Beauty: ``metric``, ``method``, ``value`` (NaN where N/A).

    All but LlamaRec's own are numbers that the paper quotes from other works.

    Raises:
        InputError: the file or one of its columns is missing.
    """
    return _load(folder, "table4_llm_baselines_beauty.csv", ["metric", "method", "value"])


def published_inference_times(folder: Path) -> pd.DataFrame:
    """Load Figure 3: ``mean_title_length_tokens``, ``method``, ``seconds``, ``source`` (``text`` or ``plot``).

    Rows whose source is ``plot`` are read off the figure, to about 2 s.

    Raises:
        InputError: the file or one of its columns is missing.
    """
    return _load(folder, "figure3_inference_time.csv", ["mean_title_length_tokens", "method", "seconds", "source"])


def measured_inference_times(folder: Path) -> pd.DataFrame | None:
    """Load our own times by title length as the paper's, with ``backbone``; ``None`` where they were not measured.

    Args:
        folder: ``results/bench``; its ``inference_time.csv`` has ``mean_title_length_tokens``, ``method`` (``LlamaRec``
            or ``Llama CausalLM``), ``batch`` (requests answered together), ``part`` (of the time) and ``seconds``. As
            in the paper, the ``whole`` time of a request that is answered alone counts.

    Raises:
        InputError: the file lacks one of these columns.
    """
    name = "inference_time.csv"
    if not (Path(folder) / name).is_file():
        return None
    columns = ["mean_title_length_tokens", "method", "seconds", "backbone"]
    table = _load(folder, name, [*columns, "batch", "part"])
    return table.loc[(table["batch"] == 1) & (table["part"] == "whole"), columns].reset_index(drop=True)


def published_claims(folder: Path) -> pd.DataFrame:
    """Load the paper's claims: ``claim``, ``dataset`` (empty where none), ``where``, ``statement``, ``stated``,
    ``counts_as``.

    ``stated`` is the number that the text states, as a share and not in per cent, or empty. ``counts_as`` names the
    claim of :mod:`llamarec_core.evaluation.claims` that the statement is one wording of.

    Raises:
        InputError: the file or one of its columns is missing.
    """
    claims = _load(folder, "claims.csv", ["claim", "dataset", "where", "statement", "stated", "counts_as"])
    return claims.fillna({"dataset": ""})


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
