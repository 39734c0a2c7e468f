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
