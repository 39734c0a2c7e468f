# Which notebook needs which file. Each rule is one papermill call, once per data set of the profile:
#
#   data sets ──▶ 1_data ──▶ 2_retriever ──▶ 3_ranker ──┐
#                    │            └──────────────────────┴──▶ 4_results ──▶ status
#                    └───────────────────────────────────────────┘
#
#   snakemake --cores 2 --config profile=quick
#
# A rule runs again when its notebook, the profile or the library code behind it changed. Killed runs resume:
# finished rules are skipped, and the training loops go on from their last checkpoint.

from pathlib import Path

from llamarec_core.files import InputError
from llamarec_core.settings import load_profile

PROFILE = config.get("profile", "quick")
PROFILE_FILE = f"notebooks/profiles/{PROFILE}.yaml"
try:
    SETTINGS = load_profile(Path(PROFILE_FILE))
except InputError as error:
    raise SystemExit(f"llamarec: {error}")
DATASETS = list(SETTINGS.datasets)
RUNS = f"runs/{PROFILE}/{{dataset}}"
WORK = f"{RUNS}/seed{SETTINGS.seed}"
NOTEBOOKS = f"results/{PROFILE}/notebooks"
RANKED = ["random-order", "popularity-order", "llamarec-zero-shot", "llamarec", "llamarec-shuffled"]
RANKS = f"results/{PROFILE}/ranks/{{dataset}}/{{method}}-seed{SETTINGS.seed}.parquet"

# The notebook's progress goes on to the terminal, and so do its warnings, but for Jupyter's note that kernels on this
# machine talk over an unencrypted loopback.
PAPERMILL = (
    "papermill --log-output --no-progress-bar --log-level WARNING {input.notebook} {output.notebook} "
    f"-p profile {PROFILE} -p seed {SETTINGS.seed} {{params}} 2> >(grep --line-buffered -v 'without encryption' >&2)"
)


def library(*packages):
    """The library code that a rule depends on."""
    return sorted(str(file) for package in packages for file in Path("llamarec_core").glob(f"{package}/*.py"))


rule all:
    default_target: True
    input:
        f"{NOTEBOOKS}/status.ipynb",


# `make grid` runs next to the study: every point of the retrievers' grid, then the chosen ones with more seeds, in the
# order of ties that the authors' code left, and validated as they did. A run is one processor core's work.

GRID = f"runs/{PROFILE}/{{dataset}}/grid/{{method}}"
TRAIN = f"OMP_NUM_THREADS=1 llamarec train {{wildcards.dataset}} {{wildcards.method}} --profile {PROFILE}"
TIED = [name for name in ("beauty", "games") if name in SETTINGS.grid.get("lrurec", {})]


def points(wildcards):
    """The records of one grid's points."""
    points = SETTINGS.grid[wildcards.method][wildcards.dataset].points()
    names = [f"decay{point['weight_decay']:g}-dropout{point['dropout']:g}" for point in points]
    return [f"{GRID.format(**wildcards)}/{name}-seed{SETTINGS.seed}/run.json" for name in names]


rule grid:
    input:
        [
            f"{GRID}/chosen-seed{SETTINGS.seed + seed}.done".format(dataset=dataset, method=method)
            for method, grids in SETTINGS.grid.items()
            for dataset, grid in grids.items()
            for seed in range(grid.seeds)
        ],
        expand(f"{GRID}/chosen-{{variant}}.done", dataset=TIED, method="lrurec", variant=["order_run_a", "order_run_b"]),
        expand(f"{GRID}/chosen-as-published.done", dataset=list(SETTINGS.grid.get("lrurec", {})), method="lrurec"),


rule grid_point:
    message: "{wildcards.method} on {wildcards.dataset}: weight decay {wildcards.decay}, dropout {wildcards.dropout}"
    input:
        dataset=f"{RUNS}/dataset/dataset.json",
    output:
        f"{GRID}/decay{{decay}}-dropout{{dropout}}-seed{SETTINGS.seed}/run.json",
    shell:
        TRAIN + " --weight-decay {wildcards.decay} --dropout {wildcards.dropout}"


rule chosen_seed:
    input:
        points,
    output:
        touch(f"{GRID}/chosen-seed{{seed}}.done"),
    shell:
        TRAIN + " --seed {wildcards.seed}"


rule chosen_order:
    input:
        points,
    output:
        touch(f"{GRID}/chosen-{{order,order_.*}}.done"),
    shell:
        TRAIN + " --order {wildcards.order}"


rule chosen_validated_as_published:
    input:
        points,
    output:
        touch(f"{GRID}/chosen-as-published.done"),
    shell:
        TRAIN + " --validated-as-published"


rule data:
    message: "1_data on {wildcards.dataset}: read, clean, 5-core, split"
    input:
        notebook="notebooks/1_data.ipynb",
        profile=PROFILE_FILE,
        library=library("data"),
    output:
        notebook=f"{NOTEBOOKS}/{{dataset}}/1_data.ipynb",
        dataset=f"{RUNS}/dataset/dataset.json",
    params:
        "-p dataset {dataset}",
    shell:
        PAPERMILL


rule retriever:
    message: "2_retriever on {wildcards.dataset}: train LRURec, retrieve the top-20 candidates"
    input:
        notebook="notebooks/2_retriever.ipynb",
        profile=PROFILE_FILE,
        library=library("retrieval"),
        dataset=f"{RUNS}/dataset/dataset.json",
    output:
        notebook=f"{NOTEBOOKS}/{{dataset}}/2_retriever.ipynb",
        candidates=f"{WORK}/candidates.parquet",
        ranks=expand(RANKS, method="lrurec", allow_missing=True),
    threads: workflow.cores
    params:
        "-p dataset {dataset}",
    shell:
        PAPERMILL


rule ranker:
    message: "3_ranker on {wildcards.dataset}: tune the backbone, rank the candidates"
    input:
        notebook="notebooks/3_ranker.ipynb",
        profile=PROFILE_FILE,
        library=library("ranking"),
        candidates=f"{WORK}/candidates.parquet",
    output:
        notebook=f"{NOTEBOOKS}/{{dataset}}/3_ranker.ipynb",
        ranks=expand(RANKS, method=RANKED, allow_missing=True),
    threads: workflow.cores
    params:
        "-p dataset {dataset}",
    shell:
        PAPERMILL


rule results:
    message: "4_results: tables and figures from the ranks"
    input:
        notebook="notebooks/4_results.ipynb",
        profile=PROFILE_FILE,
        library=library("evaluation", "report"),
        datasets=expand(f"{RUNS}/dataset/dataset.json", dataset=DATASETS),
        ranks=expand(RANKS, method=["lrurec", *RANKED], dataset=DATASETS),
    output:
        notebook=f"{NOTEBOOKS}/4_results.ipynb",
        table=f"results/{PROFILE}/tables/table1.csv",
    shell:
        PAPERMILL


rule status:
    message: "status: versions, hardware and run times from the provenance"
    input:
        notebook="notebooks/status.ipynb",
        profile=PROFILE_FILE,
        results=f"{NOTEBOOKS}/4_results.ipynb",
    output:
        notebook=f"{NOTEBOOKS}/status.ipynb",
    shell:
        PAPERMILL
