"""The files by which the study is cited: valid, and of one mind about title, version, authors, licence and address.

`cffconvert --validate` checks CITATION.cff against the schema in `tests/schemas`, which is the Citation File Format's
own (version 1.2.0, CC BY 4.0). It needs an older jsonschema than Jupyter does, so the schema is applied here directly.
"""

import json
import tomllib

import jsonschema
import pytest
import yaml

import llamarec_core
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


@pytest.mark.parametrize("fault", [{}, {"version": None}, {"licence": "MIT"}, {"authors": []}, {"license": "MTI"}])
def test_the_citation_file_is_valid_and_a_faulty_one_is_found(citation, fault):
    schema = json.loads((ROOT / "tests" / "schemas" / "cff-1.2.0.json").read_text())
    facts = json.loads(json.dumps(citation | fault, default=str))  # JSON, and so the schema, has no dates
    checked = jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker())
    assert checked.is_valid(facts) == (not fault)


def test_all_files_say_the_same(citation):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    codemeta = json.loads((ROOT / "codemeta.json").read_text())
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())
    authors = [author["name"] for author in citation["authors"]]
    assert citation["title"] == codemeta["name"] == zenodo["title"]
    assert citation["abstract"] == codemeta["description"] == zenodo["description"]
    assert citation["version"] == codemeta["version"] == zenodo["version"] == llamarec_core.__version__
    assert str(citation["date-released"]) == codemeta["datePublished"] == zenodo["publication_date"]
    assert citation["license"] == project["license"] == zenodo["license"]
    assert (ROOT / "LICENSE").read_text().startswith(f"{citation['license']} License")
    assert codemeta["license"] == f"https://spdx.org/licenses/{citation['license']}"
    for others in (project["authors"], codemeta["author"], zenodo["creators"]):
        assert [author["name"] for author in others] == authors
    assert citation["keywords"] == project["keywords"] == codemeta["keywords"] == zenodo["keywords"]
    assert citation["repository-code"] == codemeta["codeRepository"]
    assert citation["repository-code"] in [related["identifier"] for related in zenodo["related_identifiers"]]
    assert codemeta["runtimePlatform"] == f"Python {project['requires-python']}"


def test_the_opening_page_has_a_line_to_cite(citation):
    page = (ROOT / "book" / "index.md").read_text()
    author, year = citation["authors"][0]["name"], citation["date-released"].year
    assert f"{author} ({year}). *{citation['title']}*. <{citation['repository-code']}>." in page
