"""A published table: its name on the page, its files, and a caption that follows from the records."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from llamarec_core.checkpoint import save_checkpoint
from llamarec_core.files import InputError, write_json
from llamarec_core.report import publish_table
from llamarec_core.report.publication import anchor

CITATION = """
title: "A study of R"
version: 0.1.0
date-released: 2026-11-25
repository-code: https://example.org/study
authors:
  - name: The contributors
  - { family-names: Doe, given-names: Jane }
"""


def results(**changes):
    names = ["dataset", "method", "metric", "subset", "published", "measured", "ci_low", "ci_high", "users"]
    rows = [
        ("games", "lrurec", "MRR@5", "all", 0.05, 0.051, 0.049, 0.053, 1200),
        ("games", "llamarec", "MRR@5", "all", 0.05, 0.06, 0.055, 0.065, 1200),
        ("games", "random-order", "MRR@5", "all", np.nan, 0.03, 0.02, 0.04, 1200),
    ]
    return pd.DataFrame(rows, columns=names).assign(seeds=1, commit="abc", **changes)


def record(file, *, seed=0, warmup="label_binding", processor="Z80"):
    settings = {"backbone": "tiny", "quantization": "none", "dtype": "bfloat16", "training_examples": 120}
    return {
        "artefacts": {file: "hash"},
        "seed": seed,
        "hardware": {"processor": processor, "cores": 2, "memory_gib": 24, "accelerators": []},
        "settings": {"ranker": settings | {"warmup": warmup}},
    }


@pytest.fixture
def run(tmp_path):
    """A run whose results hold ranks of two methods on one data set, and the ranker's adapter."""
    return a_run(tmp_path, kept=0)


def a_run(root, *, kept, warmup="label_binding"):
    results = root / "results" / "small"
    ranks = results / "ranks" / "games"
    ranks.mkdir(parents=True)
    names = ["lrurec-seed0.parquet", "llamarec-seed0.parquet"]
    for name in names:
        (ranks / name).touch()
    write_json(ranks / "provenance.json", {name: record(name, warmup=warmup) for name in names})
    adapter = results / "weights" / "games-seed0" / "adapter"
    adapter.mkdir(parents=True)
    best = {"examples": kept, "answers": 10 * kept}
    weights = {"tensors": {"a": torch.zeros(1)}, "settings": {}}
    save_checkpoint(adapter / "adapter_model.safetensors", progress={"best": best}, **weights)
    (root / "CITATION.cff").write_text(CITATION)
    written = []
    return SimpleNamespace(
        root=root,
        results=results,
        table=lambda name: results / "tables" / name,
        wrote=lambda *paths: written.extend(paths),
        written=written,
        executed_notebook=results / "notebooks" / "4_results.ipynb",
        profile=SimpleNamespace(name="small"),
        commit="0123abc",
    )


def publish(run, frame, **options):
    about = "Table 1: all users."
    return publish_table(frame, "table1", run=run, about=about, measured_in=[run.results], **options)


def test_a_table_has_a_place_on_its_page_and_links_to_files_that_the_record_accounts_for(run):
    page = publish(run, results())._repr_html_()
    assert '<figure class="llamarec-figure" id="table-1">' in page
    links = re.findall(r'href="([^"#]+)" download>(\w+)<', page)
    assert links == [
        ("../tables/table1.csv", "CSV"),
        ("../tables/table1.tex", "LaTeX"),
        ("../tables/table1.bib", "BibTeX"),
    ]
    files = [(run.executed_notebook.parent / link).resolve() for link, _ in links]
    assert all(file.is_file() for file in files)
    assert run.written == files


@pytest.mark.parametrize(
    ("name", "place"),
    [("table1", "table-1"), ("claims", "table-claims"), ("table1_retrieval", "table-1-retrieval")],
)
def test_the_place_follows_from_the_name(name, place):
    assert anchor(name) == place


def test_the_caption_says_users_seeds_scale_and_machine_and_the_files_say_it_too(run):
    shown = publish(run, results())
    expected = (
        "Table 1: all users. games (1,200 users): seed 0, ranker tiny (bfloat16 weights, seed 0) after the warm-up "
        "alone. Measured on Z80, 2 cores, 24 GiB, no GPU. In brackets: 95 % bootstrap intervals over users."
    )
    assert shown.caption.startswith(expected)
    assert "(≈)" in shown.caption
    in_an_article = expected.replace("Table 1: all", "All").replace("%", r"\%")
    assert rf"\caption{{{in_an_article}" in run.table("table1").with_suffix(".tex").read_text()
    assert "(≈)" not in publish(run, results(published=np.nan)).caption


@pytest.mark.parametrize(
    ("kept", "warmup", "said"),
    [
        (0, "label_binding", "after the warm-up alone."),
        (0, "none", "after no tuning."),
        (40, "none", "after 40 of 120 training examples."),
    ],
)
def test_the_caption_says_what_validation_kept(tmp_path, kept, warmup, said):
    assert said in publish(a_run(tmp_path, kept=kept, warmup=warmup), results()).caption


def test_subsets_seeds_and_machines_are_named_apart(run):
    ranks = run.results / "ranks" / "games"
    (ranks / "sasrec-seed1.parquet").touch()
    name = "sasrec-seed1.parquet"
    more = {"other": record(name, seed=1, processor="6502")}
    write_json(
        ranks / "provenance.json", {f: record(f) for f in ("lrurec-seed0.parquet", "llamarec-seed0.parquet")} | more
    )
    both = pd.concat([results(), results(subset="retrieved").assign(users=300)])
    caption = publish(run, both).caption
    assert "games (1,200 users, 300 users whose target was retrieved): seeds 0, 1, ranker" in caption
    assert "Measured on Z80, 2 cores, 24 GiB, no GPU; 6502, 2 cores, 24 GiB, no GPU." in caption


def test_data_sets_that_were_measured_alike_share_a_sentence(run):
    for name in ("beauty", "films"):
        folder = run.results / "ranks" / name
        folder.mkdir()
        (folder / "lrurec-seed0.parquet").touch()
        write_json(folder / "provenance.json", {"a": record("lrurec-seed0.parquet")})
    frame = pd.concat([results(), results(dataset="beauty"), results(dataset="films")])
    assert "beauty (1,200 users), films (1,200 users): seed 0. Measured" in publish(run, frame).caption


def test_ranks_without_a_record_are_refused(run):
    (run.results / "ranks" / "games" / "sasrec-seed0.parquet").touch()
    with pytest.raises(InputError, match="has no record in provenance.json"):
        publish(run, results())


def test_a_data_set_without_ranks_is_not_named_and_nothing_is_measured_without_folders(run):
    assert "beauty" not in publish(run, pd.concat([results(), results(dataset="beauty")])).caption
    frame = pd.DataFrame({"dataset": ["games"], "quantity": ["users"], "published": ["1"], "measured": [1.0]})
    assert publish_table(frame, "table2", run=run, about="Table 2.").caption == "Table 2."


def test_the_intervals_of_published_numbers_are_no_bootstrap(run):
    frame = results().drop(columns=["measured", "subset", "users"])
    assert publish_table(frame, "counts", run=run, about="Counts.").caption == "Counts."


def test_a_table_of_strategies_names_the_ranker_that_validation_kept(run):
    folder = run.results / "strategies" / "games"
    folder.mkdir(parents=True)
    (folder / "verbalizer-tuned-seed0.parquet").touch()
    write_json(folder / "provenance.json", {"a": record("verbalizer-tuned-seed0.parquet")})
    options = {"run": run, "about": "Strategies.", "measured_in": [run.results / "strategies", run.results]}
    said = "Strategies. games (1,200 users): seed 0, ranker tiny (bfloat16 weights, seed 0) after the warm-up alone."
    assert publish_table(results(), "strategies", **options).caption.startswith(said)


def test_the_folders_of_the_data_sets_may_lie_in_the_folder_itself_and_the_table_may_count_no_users(run):
    frame = results().drop(columns="users")
    options = {"run": run, "about": "Strategies.", "measured_in": [run.results / "ranks"]}
    assert publish_table(frame, "strategies", **options).caption.startswith("Strategies. games: seed 0, ranker tiny")


def test_the_citation_names_table_authors_and_commit(run):
    publish(run, results())
    entry = run.table("table1").with_suffix(".bib").read_text()
    assert entry.startswith("@software{llamarec-small-table-1,\n")
    assert "{{A study of R}}" in entry
    assert "{{The contributors} and Doe, Jane}" in entry
    assert "{2026}" in entry
    assert r"note    = {Table \texttt{results/small/tables/table1.csv}, commit 0123abc}" in entry
    assert entry.count("{") == entry.count("}")


def test_the_page_may_show_another_form_than_the_files_hold(run):
    other = pd.DataFrame({"what": ["shown"], "value": [1.0]})
    assert "shown" in publish(run, results(), shown=other)._repr_html_()
    assert "shown" not in run.table("table1").with_suffix(".csv").read_text()
