# Needs python3.11 (or newer, by PY=python3.12), make and git. Every target builds .venv by itself.

START := $(shell date +%s)

PY ?= python3.11
SIZE ?= standard
RESULTS ?= results/local
# make TORCH=cpu: wheels of PyTorch without GPU libraries, 1 GB in place of 6 (uv knows where).
TORCH ?=
TORCH_BACKEND = $(if $(TORCH),--torch-backend $(TORCH))

VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
STAMP := $(VENV)/.stamp
UNFINISHED := $(VENV)/.unfinished

NOTEBOOKS = $(filter-out %.failed.ipynb,$(sort $(wildcard notebooks/[0-9]*.ipynb)))
REPLICATED = $(filter notebooks/00_% notebooks/01_% notebooks/02_% notebooks/03_% notebooks/04_% \
	notebooks/05_% notebooks/06_% notebooks/07_% notebooks/08_% notebooks/09_%,$(NOTEBOOKS))
REPORTED = $(filter notebooks/10_%,$(NOTEBOOKS))
LONGEST_FIRST = $(filter notebooks/09_%,$(NOTEBOOKS)) $(filter-out notebooks/09_%,$(NOTEBOOKS))
OUT = $(RESULTS)/$(SIZE)
PARAMETERS = notebooks/parameters/$(SIZE).yaml

# How long a target took, set-up included: a row of the records, like every other figure.
RECORD_TIME = $(PYTHON) -c 'import sys, time, cpnb; t, s, size, start = sys.argv[1:]; \
	cpnb.record("make", target=t, size=size, status=int(s), seconds=time.time() - int(start))' \
	$(1) $(2) $(SIZE) $(START)

# A process a core; the tests of a file, or of a notebook, in one of them.
TOGETHER = --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help replicate test lab sweep report notebooks assignments bench-inference bench-solver gpu site lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

# The stamp is written last, so an interrupted set-up is taken up again; what it left half-installed
# cannot be trusted, so then the environment is built anew.
$(STAMP): requirements.txt pyproject.toml
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: '$(PY)' is not a Python of version 3.11 or newer that can be run." >&2; \
		echo "Install Python 3.11, or name another one: make PY=/path/to/python3.12 ..." >&2; \
		exit 1; }
	@if test -e $(UNFINISHED); then $(PY) -m venv --clear $(VENV); else $(PY) -m venv $(VENV); fi
	@touch $(UNFINISHED)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check uv \
		|| echo "uv cannot be installed here; going on with pip, which is slower"
	@if $(PYTHON) -m uv --version >/dev/null 2>&1; then \
		install="$(PYTHON) -m uv pip install --python $(PYTHON)"; \
	else \
		install="$(PYTHON) -m pip install --disable-pip-version-check"; \
	fi; \
	$$install $(TORCH_BACKEND) -r requirements.txt && $$install --no-deps -e .
	@rm $(UNFINISHED)
	@touch $(STAMP)

replicate: export CPNB_RESULTS = $(abspath $(RESULTS))
replicate: $(STAMP) ## the main job: notebooks 00 to 10; an interrupted one is taken up again (SIZE=standard|full)
	@status=0; \
	$(PYTHON) -m cpnb sweep $(REPLICATED) --parameters $(PARAMETERS) --out $(OUT) || status=1; \
	$(PYTHON) -m cpnb sweep $(REPORTED) --parameters $(PARAMETERS) --out $(OUT) --force || status=1; \
	echo; \
	$(call RECORD_TIME,replicate,$$status); \
	test $$status = 0 || echo "Not every notebook finished (see above); run the same command again."; \
	echo "Executed notebooks: $(OUT)/"; \
	echo "Records of the runs: $(OUT)/records.jsonl"; \
	echo "Report: $(patsubst notebooks/%,$(OUT)/%,$(REPORTED))"; \
	exit $$status

test: $(STAMP) ## unit tests, every notebook by nbval, and by papermill with tiny parameters
	$(PYTHON) -m pytest $(TOGETHER) --durations=15
	@results=$$(mktemp -d) && trap 'rm -rf "$$results"' EXIT && \
	CPNB_RESULTS="$$results" OMP_NUM_THREADS=1 $(PYTHON) -m pytest $(TOGETHER) --nbval-lax \
		--nbval-current-env --nbval-cell-timeout=600 --durations=5 $(LONGEST_FIRST)
	@$(call RECORD_TIME,test,0)

lab: $(STAMP) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=notebooks $$(test "$$(id -u)" = 0 && echo --allow-root)

sweep: $(STAMP) ## a grid of your own: make sweep NOTEBOOK=notebooks/04_finetune.ipynb GRID="rank_conv2=16,32 method=nls,als"
	@test -n "$(NOTEBOOK)" || { echo 'make sweep NOTEBOOK=notebooks/NAME.ipynb GRID="name=value,value ..."' >&2; exit 2; }
	$(PYTHON) -m cpnb sweep $(NOTEBOOK) $(if $(GRID),--grid $(GRID)) --out $(RESULTS)/sweep

report: $(STAMP) ## the claims from the committed records: README's table and figure
	@$(PYTHON) -m cpnb report --readme

notebooks: $(STAMP) ## execute all notebooks in place at their short size and keep the outputs
	CPNB_REMEMBER=0 $(PYTHON) -m cpnb sweep --in-place $(NOTEBOOKS)  # a page measures for itself

assignments: $(STAMP) ## build what students get (release/, otter/), and test the tests of the assignments
	$(PYTHON) -m cpnb assignments

bench-inference: $(STAMP) ## dense, factored, optimised in all runtimes (ARGS=--quick: 2 minutes; peers: pip install -e .[bench])
	$(PYTHON) benchmarks/bench_inference.py $(ARGS)

bench-solver: $(STAMP) ## CP solvers side by side, error against seconds (ARGS=--quick: 2 minutes; peers: pip install -e .[bench])
	$(PYTHON) benchmarks/bench_solver.py $(ARGS)

gpu: $(STAMP) ## where there is CUDA, all that needs it, in at most nine minutes; elsewhere it says so
	$(PYTHON) benchmarks/gpu.py

site: $(STAMP) ## notebooks, documents and public names as static pages, in site/public
	$(PYTHON) site/build.py

lint: $(STAMP) ## ruff over module, tests and notebooks
	$(BIN)/ruff check .

clean: ## remove .venv and caches; results stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
