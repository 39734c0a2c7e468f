"""What the book concludes, held against the tables: a sentence cannot outlive the numbers that it was written from.

``book/conclusions.yaml`` holds each concluding sentence beside conditions over one table::

    - name: ranker_beauty
      sentence: On Beauty, our ranker alone orders the candidates worse than LRURec.
      table: small/tables/comparison.csv
      condition:
        - rows: {dataset: beauty, method: llamarec, metric: NDCG@10, subset: retrieved}
          every: {difference: < 0, p_holm: < 0.05}

``rows`` selects rows: a column has the value, or one of a list of values, or fulfils a comparison. ``every`` must hold
in each selected row, of which there must be one at least; ``count`` is a comparison of their number. A comparison is
``<``, ``<=``, ``>``, ``>=``, ``=`` or ``!=``, then a number or another column. ``= 0.12`` holds for what rounds to it.
"""

import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import yaml
from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError

from llamarec_core.files import InputError

FILE = Path("book/conclusions.yaml")

_OPERATORS = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "=": operator.eq,
}  # fmt: skip
_COMPARISON = re.compile(rf"({'|'.join(_OPERATORS)}) *(\S.*)")

Value = bool | int | float | str


class Condition(BaseModel, extra="forbid"):
    """What must hold of some rows of a table."""

    rows: dict[str, Value | list[Value]] = {}
    every: dict[str, Value] = {}
    count: Annotated[str, StringConstraints(pattern=_COMPARISON)] | None = None


class Conclusion(BaseModel, extra="forbid"):
    """A sentence of the book, and what it rests on."""

    name: str
    sentence: str
    table: str  # path under results
    condition: list[Condition]
    opens: list[str] = []  # executed notebooks, by their paths under results, whose pages open with it


def load_conclusions(root: Path) -> list[Conclusion]:
    """Load the sentences that the book's pages quote by name."""
    path = root / FILE
    try:
        return TypeAdapter(list[Conclusion]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise InputError(f"{path} does not hold a list of sentences with their conditions: {error}") from None


def check_conclusions(root: Path) -> Iterator[str]:
    """Yield, in words, each sentence that does not hold of its table; an :class:`InputError` if one cannot be told."""
    for conclusion in load_conclusions(root):
        where, path = f"{FILE}, {conclusion.name}", root / "results" / conclusion.table
        if not path.is_file():
            raise InputError(f"{where}: there is no table results/{conclusion.table}.")
        try:
            table = pd.read_csv(path)
            problems = [_problem(table, condition) for condition in conclusion.condition]
        except KeyError as error:
            raise InputError(f"{where}: {conclusion.table} has no column {error}.") from None
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: a comparison cannot be made ({error}).") from None
        for problem in filter(None, problems):
            sentence = f"{where}: “{conclusion.sentence}” does not hold"
            yield f"{sentence}: of {conclusion.table}, {problem}. Write what is true now."


def _problem(table: pd.DataFrame, condition: Condition) -> str | None:
    """Say what is wrong with a condition, if anything is."""
    for column, value in condition.rows.items():
        table = table[_fulfils(table, column, value)]
    if condition.count and not _fulfils(pd.DataFrame({"count": [len(table)]}), "count", condition.count).all():
        return f"{len(table)} rows are selected, not {condition.count}"
    if condition.every and table.empty:
        return "no row is selected"
    for column, value in condition.every.items():
        wrong = table[~_fulfils(table, column, value)]
        if len(wrong):
            return f"{column} is {wrong[column].iloc[0]} in row {wrong.index[0] + 2}, not {value}"
    return None


def _fulfils(table: pd.DataFrame, column: str, value: Value | list[Value]) -> pd.Series:
    """Say for each row whether a column has a value, one of several, or one that fulfils a comparison."""
    values = table[column]
    comparison = _COMPARISON.fullmatch(value) if isinstance(value, str) else None
    if comparison is None:
        return values.isin(value if isinstance(value, list) else [value])
    sign, operand = comparison.groups()
    if sign == "=" and operand not in table:
        return (values - float(operand)).abs() <= 0.5000001 * 10.0 ** -len(operand.partition(".")[2])
    return _OPERATORS[sign](values, table[operand] if operand in table else float(operand))
