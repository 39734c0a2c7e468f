"""What the library imports is what it declares, and what is installed by `requirements.lock`."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def imported():
    """Return the top-level names of other packages that the library imports."""
    names = set()
    for file in (ROOT / "llamarec_core").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - {"llamarec_core"}


def declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["study"]]
    return {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in listed}


def test_every_import_is_declared():
    distributions = importlib.metadata.packages_distributions()
    missing = {name for name in imported() if not {normal(of) for of in distributions[name]} & declared()}
    assert missing == set()


def test_what_writes_markdown_for_pandas_is_declared():
    assert any(".to_markdown(" in file.read_text() for file in (ROOT / "llamarec_core").rglob("*.py"))
    assert "tabulate" in declared()


def test_every_dependency_is_locked():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert declared() <= {normal(line.split("==")[0]) for line in lines if not line.startswith("#")}
