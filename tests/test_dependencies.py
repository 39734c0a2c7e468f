"""What the library imports is what it declares, and what is installed by `requirements.lock`."""

import ast
import importlib.metadata
import re
import sys
import tomllib

from tests.conftest import ROOT


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


def locked(file):
    """Return name → hashes of each requirement of a lock file."""
    text = re.sub(r"^#.*\n", "", (ROOT / file).read_text(), flags=re.MULTILINE)
    requirements = re.split(r"\n(?=\S)", text)
    return {normal(one.split("==")[0]): re.findall(r"--hash=sha256:[0-9a-f]{64}", one) for one in requirements}


def test_every_dependency_is_locked_with_the_hashes_of_its_files():
    packages = locked("requirements.lock")
    assert declared() - {"torch"} <= packages.keys()
    assert all((packages | locked("requirements-carriers.lock")).values())
    assert locked("requirements-torch.lock").keys() == {"torch"}  # its build is the machine's


def test_what_is_installed_is_what_is_locked():
    """Without dependencies, pip installs what the lock names and no more: nothing may be missing from it."""
    names = locked("requirements.lock").keys() | {"torch"}
    for name in names - {"appnope"}:
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # of another version of Python
            continue
        needed = {normal(re.match(r"[\w.-]+", one)[0]) for one in requirements if ";" not in one}
        assert {one for one in needed if not one.startswith(("nvidia", "cuda", "triton"))} <= names, name
