# Which notebook needs which file. Each rule is one papermill call, once per data set of the profile:
#
#   data sets ──▶ 1_data ──▶ 2_retriever ──▶ 3_ranker ──▶ 3_ablations ──┐
#                    │            └──────────────┴──────────────────────┴──▶ 4_results
#                    └───────────────────────────────────────────────────────────┘
#
#   snakemake --cores 2 --config profile=quick
#
# The steps work in runs/.study, where everything is as here and results/ is a copy: Snakemake removes what a failed step
# was to write. What was asked for is published to results/ when all of it is there.
#
# A rule runs again when its notebook, the profile or the library code behind it changed; the notebook then takes up the
# weights that are there, if they are of its settings, data and seed: to train again with other code, remove them.
# Killed runs resume: finished rules are skipped, and the training loops go on from their last checkpoint.

import os
import sys
from pathlib import Path

import psutil

from llamarec_core.data.sources import raw_files
from llamarec_core.files import InputError
from llamarec_core.grid import Grid
from llamarec_core.paths import RANKED, Paths
from llamarec_core.settings import load_profile
from llamarec_core.working_copy import WorkingCopy

for folder in ("LLAMAREC_DATA", "LLAMAREC_CACHE"):  # as they are meant here, not in the copy
    if os.environ.get(folder):
        os.environ[folder] = os.path.abspath(os.environ[folder])
COPY = WorkingCopy(Path(workflow.basedir))
try:
    SETTINGS = load_profile(COPY.root / "notebooks" / "profiles" / f"{config.get('profile', 'quick')}.yaml")
    if workflow.is_main_process:  # not in the processes that Snakemake starts for single steps, e.g. on a cluster
        COPY.open()
        COPY.hush()
        COPY.heed_sigterm()
        # Two threads that spin at their barriers are several times slower beside a busy process; threads that sleep there
        # are not, but slow a quiet machine by a third.
        if psutil.cpu_percent(interval=0.5) > 25:
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # glibc keeps what a tuning frees. Its batches have ever new shapes, so that it would grow to twice the memory.
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "4194304")
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "268435456")
except InputError as error:
    raise SystemExit(f"llamarec: {error}")


workdir: str(COPY.folder)


onsuccess:
    try:
        COPY.publish()
    except InputError as error:
        raise SystemExit(f"llamarec: {error}")


onerror:
    print(f"llamarec: {COPY.last_words()}", file=sys.stderr)


wildcard_constraints:
    dataset=r"[A-Za-z0-9][A-Za-z0-9._-]*",  # as a profile's: a shell sees them


PROFILE = SETTINGS.name
PROFILE_FILE = f"notebooks/profiles/{PROFILE}.yaml"
DATASETS = list(SETTINGS.datasets)
METHOD = SETTINGS.retriever.method
PATHS = Paths(Path(), PROFILE, "{dataset}", SETTINGS.seed)
RUNS = str(PATHS.dataset_folder().parent)
WORK = str(PATHS.work)
NOTEBOOKS = str(PATHS.results / "notebooks")
ABLATIONS = str(PATHS.ablation_file)
ABLATED = list(SETTINGS.evaluation.ablation_datasets)
RANKS = str(PATHS.ranks_file("{method}"))

# A notebook's progress goes on to the terminal, and so do its warnings, but for Jupyter's note that kernels on this machine
# talk over an unencrypted loopback. A traceback goes to the log alone.
LOGGED = (
    "2> >(tee -a log.txt | awk '/^Traceback/ {{hushed = 1}} !hushed && !/without encryption/ {{print; fflush()}}' >&2)"
)
PAPERMILL = (
    "papermill --log-output --no-progress-bar --log-level WARNING {input.notebook} {output.notebook} "
    f"-r profile {PROFILE} -p seed {SETTINGS.seed} {{params}} {LOGGED}"
)


def library(*packages):
    """The library code that a rule depends on."""
    return sorted(str(file) for package in packages for file in Path("llamarec_core").glob(f"{package}/*.py"))


rule all:
    default_target: True
    input:
        expand(f"{NOTEBOOKS}/{{dataset}}/{{page}}.ipynb", dataset=DATASETS, page=["1_data", "2_retriever", "3_ranker"]),
        f"{NOTEBOOKS}/4_results.ipynb",


# `make grid` runs next to the study: every point of the retrievers' grid, then what was chosen with more seeds. A run
# is one processor core's work. Records and ranks are results: a grid that is made larger runs only its new points.

RECORD = str(PATHS.grid_record("{method}", "decay{decay}-dropout{dropout}"))
TESTED = str(Paths(Path(), PROFILE, "{dataset}", "{seed}").grid_ranks("{method}"))


def train(method, options):
    """The command that trains a retriever on a rule's data set."""
    return f"OMP_NUM_THREADS=1 llamarec train {{wildcards.dataset}} {method} --profile {PROFILE} {options} {LOGGED}"


def points(wildcards):
    """The records of one grid's points."""
    grid = Grid(SETTINGS, wildcards.dataset, wildcards.method, Path())
    settings = [grid.retriever(**point) for point in grid.settings.points()]
    return [str(grid.record_file(of_point, seed=SETTINGS.seed)) for of_point in settings]


def dataset_unless_recorded(wildcards):
    """The data set of a point that is still to be trained: a recorded point stands, also where `runs` was cleared."""
    recorded = Path(RECORD.format(**wildcards)).is_file()
    return [] if recorded else f"{RUNS}/dataset/dataset.json".format(**wildcards)


rule grid:
    input:
        [
            TESTED.format(dataset=dataset, method=method, seed=SETTINGS.seed + place)
            for method, by_dataset in SETTINGS.grid.items()
            for dataset, settings in by_dataset.items()
            for place in range(settings.seeds)
        ],


rule grid_point:
    message: "{wildcards.method} on {wildcards.dataset}: weight decay {wildcards.decay}, dropout {wildcards.dropout}"
    input:
        ancient(dataset_unless_recorded),
    output:
        RECORD,
    shell:
        train("{wildcards.method}", "--weight-decay {wildcards.decay} --dropout {wildcards.dropout}")


rule grid_choice:
    message: "{wildcards.method} on {wildcards.dataset} as chosen, seed {wildcards.seed}"
    input:
        ancient(points),
    output:
        TESTED,
    wildcard_constraints:
        method="|".join(SETTINGS.grid) or "none",
    shell:
        train("{wildcards.method}", "--seed {wildcards.seed}")


# `make retrieval` makes the book's page on retrieval from what the grid left.

rule retrieval:
    input:
        f"{NOTEBOOKS}/2_retrieval.ipynb",


rule retrieval_page:
    message: "2_retrieval: tables and figures from the grid's records and ranks"
    input:
        notebook="notebooks/2_retrieval.ipynb",
        profile=PROFILE_FILE,
        library=library("evaluation", "report"),
        datasets=expand(f"{RUNS}/dataset/dataset.json", dataset=DATASETS),
        grid=rules.grid.input,
    output:
        notebook=f"{NOTEBOOKS}/2_retrieval.ipynb",
    shell:
        PAPERMILL


# `make claims` asks what held of the paper's claims, and what its numbers alone say. It reads the ranks that are there:
# named as inputs, they would be made again where a rule thinks them old.

rule claims:
    message: "4_claims: the paper's claims and numbers"
    input:
        notebook="notebooks/4_claims.ipynb",
        profile=PROFILE_FILE,
        library=library("evaluation", "report"),
        published=[str(file) for file in Path("results/published").glob("*.csv")],
    output:
        notebook=f"{NOTEBOOKS}/4_claims.ipynb",
    shell:
        PAPERMILL


# `make strategies` runs what LlamaRec argues against beside it, on a sample of the users of the data sets that the
# profile names. The answers are no outputs of a rule, because Snakemake removes those of a killed job: the notebook goes
# on with the strategies that have none yet.

STRATEGIES = f"{NOTEBOOKS}/{{dataset}}/3_strategies.ipynb"
COMPARED = list(SETTINGS.evaluation.strategy_datasets)


rule strategies:
    input:
        f"{NOTEBOOKS}/4_comparison.ipynb",


rule strategies_answer:
    message: "3_strategies on {wildcards.dataset}: every strategy, zero-shot and tuned, on the same users"
    input:
        notebook="notebooks/3_strategies.ipynb",
        profile=PROFILE_FILE,
        library=library("llm_baselines"),
        ranks=expand(RANKS, method="llamarec", allow_missing=True),
    output:
        notebook=STRATEGIES,
    threads: workflow.cores
    params:
        "-r dataset {dataset}",
    shell:
        PAPERMILL


rule strategies_page:
    message: "4_comparison: quality against cost, Table 4, what sets the strategies apart"
    input:
        notebook="notebooks/4_comparison.ipynb",
        profile=PROFILE_FILE,
        library=library("evaluation", "report"),
        strategies=expand(STRATEGIES, dataset=COMPARED),
    output:
        notebook=f"{NOTEBOOKS}/4_comparison.ipynb",
    shell:
        PAPERMILL


# `make bench-retriever` wants a machine that does nothing else.

rule speed:
    message: "bench_retriever: a training step, serving and retrieval against their references"
    input:
        notebook="notebooks/bench_retriever.ipynb",
        profile=PROFILE_FILE,
        library=[*library("retrieval"), "llamarec_core/training.py"],
        references=["tests/retrieval/reference_lru.py", "tests/busy.py"],
        datasets=expand(f"{RUNS}/dataset/dataset.json", dataset=DATASETS),
        retriever=ancient(f"{NOTEBOOKS}/beauty/2_retriever.ipynb"),
    output:
        notebook=f"{NOTEBOOKS}/bench_retriever.ipynb",
    threads: workflow.cores
    shell:
        PAPERMILL


# `make bench-ranker` and `make bench-latency` likewise. The `paper` profile, of `make bench-latency-7b`, times a backbone of
# Llama-2-7B's shape with random weights, which is free to make: it wants a GPU of 24 GB or more.

rule ranking_times:
    message: "{wildcards.page}: how long ranking takes"
    input:
        notebook="notebooks/{page}.ipynb",
        profile=PROFILE_FILE,
        library=["llamarec_core/bench.py", *library("ranking", "llm_baselines")],
        dataset=f"runs/{PROFILE}/ml-100k/dataset/dataset.json",
    output:
        notebook=f"{NOTEBOOKS}/{{page}}.ipynb",
    wildcard_constraints:
        page="bench_ranker|bench_latency",
    threads: workflow.cores
    params:
        lambda wildcards: "-p backbone llama-2-7b" if (PROFILE, wildcards.page) == ("paper", "bench_latency") else "",
    shell:
        PAPERMILL


def raw(wildcards):
    """The raw files of a data set in the folder that LLAMAREC_DATA names; the notebook says what is wrong with them."""
    try:
        return [str(path.resolve()) for path in raw_files(wildcards.dataset)]
    except InputError:
        return []


rule data:
    message: "1_data on {wildcards.dataset}: read, clean, 5-core, split"
    input:
        raw,
        notebook="notebooks/1_data.ipynb",
        profile=PROFILE_FILE,
        library=library("data"),
    output:
        notebook=f"{NOTEBOOKS}/{{dataset}}/1_data.ipynb",
        dataset=f"{RUNS}/dataset/dataset.json",
    params:
        "-r dataset {dataset}",
    shell:
        PAPERMILL


rule retriever:
    message: "2_retriever on {wildcards.dataset}: train the retriever, take the top-20 candidates"
    input:
        notebook="notebooks/2_retriever.ipynb",
        profile=PROFILE_FILE,
        library=[*library("retrieval"), "llamarec_core/training.py"],
        dataset=f"{RUNS}/dataset/dataset.json",
    output:
        notebook=f"{NOTEBOOKS}/{{dataset}}/2_retriever.ipynb",
        candidates=f"{WORK}/candidates.parquet",
        ranks=expand(RANKS, method=METHOD, allow_missing=True),
    threads: workflow.cores
    params:
        "-r dataset {dataset}",
    shell:
        PAPERMILL


def started_from(wildcards):
    """The adapter from which the tuning starts, where this profile makes it first: another data set's."""
    folder = SETTINGS.for_dataset(wildcards.dataset).ranker.start_from or ""
    return [f"{folder}/adapter_model.safetensors"] if folder.startswith(f"results/{PROFILE}/") else []


rule ranker:
    message: "3_ranker on {wildcards.dataset}: tune the backbone, rank the candidates"
    input:
        notebook="notebooks/3_ranker.ipynb",
        profile=PROFILE_FILE,
        library=library("ranking"),
        candidates=f"{WORK}/candidates.parquet",
        start=started_from,
    output:
        notebook=f"{NOTEBOOKS}/{{dataset}}/3_ranker.ipynb",
        ranks=expand(RANKS, method=RANKED, allow_missing=True),
        adapter=f"{PATHS.weights}/adapter/adapter_model.safetensors",
    threads: workflow.cores
    params:
        "-r dataset {dataset}",
    shell:
        PAPERMILL


rule ablations:
    message: "3_ablations on {wildcards.dataset}: variants of the ranker on the same users"
    input:
        notebook="notebooks/3_ablations.ipynb",
        profile=PROFILE_FILE,
        library=library("ranking"),
        ranks=expand(RANKS, method="llamarec", allow_missing=True),
    output:
        notebook=f"{NOTEBOOKS}/{{dataset}}/3_ablations.ipynb",
        ranks=ABLATIONS,
    threads: workflow.cores
    params:
        "-r dataset {dataset}",
    shell:
        PAPERMILL


rule results:
    message: "4_results: tables and figures from the ranks"
    input:
        notebook="notebooks/4_results.ipynb",
        profile=PROFILE_FILE,
        library=library("evaluation", "report"),
        datasets=expand(f"{RUNS}/dataset/dataset.json", dataset=DATASETS),
        ranks=expand(RANKS, method=[METHOD, *RANKED], dataset=DATASETS),
        ablations=expand(ABLATIONS, dataset=ABLATED),
    output:
        notebook=f"{NOTEBOOKS}/4_results.ipynb",
        table=f"results/{PROFILE}/tables/table1.csv",
    shell:
        PAPERMILL
