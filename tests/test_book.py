"""The book that a reader opens: it builds without a warning, and nothing on its pages is broken or empty."""

import functools
import gzip
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from llamarec_core import __version__

ROOT = Path(__file__).parents[1]
JUPYTER_BOOK = Path(sys.executable).parent / "jupyter-book"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Every page of the freshly built book, parsed, by its path."""
    output = tmp_path_factory.mktemp("book")
    command = [JUPYTER_BOOK, "build", ROOT, "--path-output", output, "-W", "-n", "--keep-going", "--quiet"]
    build = subprocess.run(command, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stdout + build.stderr
    files = (output / "_build" / "html").rglob("*.html")
    return {file: BeautifulSoup(file.read_text(), "html.parser") for file in files if "_static" not in file.parts}


def articles(pages):
    return {file: page.find("article") for file, page in pages.items() if page.find("article")}


def test_every_page_of_the_contents_is_there_and_says_something(pages):
    built = articles(pages)
    assert len(built) >= 15
    for file, article in built.items():
        text = article.get_text(" ", strip=True)
        assert article.find("h1"), file
        assert len(text) > 100, file
        if "book" in file.parts:
            assert article.find("h1").find_next_sibling().name == "p", f"{file} opens with something else than prose"
        if "_modules" not in file.parts:
            assert not re.search(r"Traceback \(most recent call last\)|it/s\]|step/s", text), file


def test_no_page_loads_anything_from_elsewhere(pages):
    for file, page in pages.items():
        tags = page.find_all(["script", "img", "iframe"], src=True) + page.find_all("link", rel="stylesheet", href=True)
        addresses = [tag.get("src") or tag["href"] for tag in tags]
        assert not [address for address in addresses if urlsplit(address).netloc], file


def test_every_internal_link_leads_to_a_file_and_a_place_in_it(pages):
    identifiers = {file: {tag["id"] for tag in page.find_all(id=True)} for file, page in pages.items()}
    for file, page in pages.items():
        for link in page.find_all(["a", "img"]):
            url = urlsplit(link.get("href") or link.get("src") or "")
            if url.scheme or url.netloc:
                continue
            target = (file.parent / unquote(url.path)).resolve() if url.path else file
            assert target.exists(), f"{file.name} links to {url.path}"
            if url.fragment and link.name == "a" and target in identifiers:
                assert unquote(url.fragment) in identifiers[target], f"{file.name} links to {url.path}#{url.fragment}"


def test_only_pages_with_mathematics_load_what_shows_it(pages):
    katex = {file.stem for file, page in pages.items() if page.select("script[src*=katex]")}
    assert "method" in katex
    assert "index" not in katex


def test_every_picture_has_a_text_for_who_cannot_see_it(pages):
    for file, article in articles(pages).items():
        for image in article.find_all("img"):
            least = 1 if "/_static/" in f"/{image['src']}" else 5  # signs of the theme open and close an index
            assert len(image.get("alt", "").split()) >= least, f"{file.name}: {image['src'][:80]}"


def in_book(file):
    """Return a file's place in the book, which is that of its source in the study."""
    return file.resolve().as_posix().rpartition("/_build/html/")[2]


def test_each_published_table_has_its_place_and_leads_to_its_files_as_committed(pages):
    places = {}
    for file, article in articles(pages).items():
        tables = article.select("figure.llamarec-figure[id]")
        places[in_book(file)] = [table["id"] for table in tables]
        for table in tables:
            links = {link.text: file.parent / link["href"] for link in table.select("a[download]")}
            assert list(links)[:2] == ["CSV", "LaTeX"], f"{file.name}#{table['id']}"
            for link in links.values():
                assert link.read_bytes() == (ROOT / in_book(link)).read_bytes(), f"{file.name}#{table['id']}: {link}"
            assert len(table.find("figcaption").get_text().split()) > 5, f"{file.name}#{table['id']}"
    for page in ("results/quick/notebooks/4_results.html", "results/small/notebooks/4_results.html"):
        assert places[page][:3] == ["table-2", "table-1", "table-3"]


def test_each_notebook_page_says_how_to_make_it_again(pages):
    notebooks = {file: page for file, page in articles(pages).items() if "notebooks" in file.parts}
    assert len(notebooks) >= 10
    for file, article in notebooks.items():
        profile, *dataset = file.parts[file.parts.index("results") + 1 : -1]
        output = Path("results", profile, *dataset, f"{file.stem}.ipynb")
        note = article.select_one(".admonition.dropdown")
        command = note.find("pre").get_text()
        assert command.startswith(f"papermill notebooks/{file.stem}.ipynb {output} -p profile {profile}"), file
        source = ROOT / "notebooks" / f"{file.stem}.ipynb"
        link = note.select_one("a.download")
        assert bool(link) == source.is_file(), file  # some have another name by now
        assert not link or (file.parent / unquote(link["href"])).read_bytes() == source.read_bytes(), file


def test_every_page_names_the_version_and_the_commit_that_it_was_built_from(pages):
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    for file, page in pages.items():
        if page.find("article") and "_modules" not in file.parts:  # those are kept while the library is the same
            foot = page.select_one(".extra_footer").get_text()
            assert f"llamarec {__version__}, built from commit {commit.stdout[:12]}" in foot, file
    cite = next(article for file, article in articles(pages).items() if file.stem == "cite").get_text()
    assert f"Commit {commit.stdout.strip()}" in cite
    for entry in ("yue2023llamarec", "yue2024lrurec", "harper2015movielens", "he2016ups", "allal2025smollm2"):
        assert f"{{{entry}," in cite


def test_each_symbol_of_the_method_leads_to_its_code(pages):
    method = next(article for file, article in articles(pages).items() if file.stem == "method")
    table = method.find("section", id="from-symbols-to-code").find("table")
    rows = table.find("tbody").find_all("tr")
    assert len(rows) >= 25
    for row in rows:
        code = row.find_all("td")[-1]
        names, links = code.find_all("code"), code.select("a.reference[href*=api]")
        assert names, row
        assert len(names) == len(links), row


def test_each_name_of_code_on_a_page_of_prose_exists():
    roles = re.compile(r"{py:\w+}`~?(llamarec_core[\w.]+)`")
    names = {name for file in (ROOT / "book").rglob("*.md") for name in roles.findall(file.read_text())}
    assert len(names) >= 25
    assert all(map(resolve, names))
    with pytest.raises(AttributeError):
        resolve("llamarec_core.retrieval.lru.LRURec.stop")


def resolve(name):
    """Return what a dotted name stands for; of a setting or an attribute that a class documents, the class."""
    try:
        return pkgutil.resolve_name(name)
    except AttributeError:
        owner, _, part = name.rpartition(".")
        found = pkgutil.resolve_name(owner)
        documented = re.search(rf"^ +{part}: ", found.__doc__ or "", re.MULTILINE)
        fields = getattr(found, "model_fields", None) or getattr(found, "__dataclass_fields__", {})
        if not documented and part not in fields:
            raise
        return found


def test_the_map_for_contributors_names_each_file_of_the_library():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) <= 80
    library = ROOT / "llamarec_core"
    files = {file.relative_to(library).as_posix() for file in library.rglob("*.py") if file.name != "__init__.py"}
    named = {name for name in re.findall(r"`([\w/]+\.py)`", text) if not name.endswith("__init__.py")}
    assert named == files


def test_every_term_of_the_glossary_is_explained_once_and_used(pages):
    glossary = next(article for file, article in articles(pages).items() if file.stem == "glossary")
    terms = [term["id"] for term in glossary.select("dl.glossary dt")]
    assert len(set(terms)) == len(terms) >= 20
    links = [link["href"] for page in pages.values() for link in page.select("a[href*='glossary.html#term-']")]
    assert len(set(links)) >= 12


@functools.cache
def transferred(file):
    """Bytes that a server sends for a file: texts are compressed."""
    content = file.read_bytes()
    return len(gzip.compress(content) if file.suffix in (".html", ".css", ".js", ".svg") else content)


def test_no_page_weighs_more_than_a_megabyte_and_a_half_and_the_opening_page_less_than_half_of_that(pages):
    for file, page in pages.items():
        tags = page.find_all(["script", "img"], src=True) + page.find_all("link", rel="stylesheet", href=True)
        addresses = {urlsplit(tag.get("src") or tag["href"]) for tag in tags}
        paths = {address.path for address in addresses if address.scheme != "data"}  # such a picture is in the page
        root = file.parents[len(Path(in_book(file)).parts) - 1]
        font = root / "_static" / "vendor" / "fontawesome" / "webfonts" / "fa-solid-900.woff2"
        parts = {file, font, *((file.parent / unquote(path)).resolve() for path in paths if path)}
        weight = sum(transferred(part) for part in parts if part.is_file())
        most = 700_000 if in_book(file) == "book/index.html" else 1_500_000
        assert 50_000 < weight < most or not page.find("article"), f"{file}: {weight:,} bytes"
