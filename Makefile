# make help lists what there is. An active environment that holds the dependencies (VIRTUAL_ENV, CONDA_PREFIX) is used as it
# is; otherwise the first use of a target creates .venv and installs into it.
PYTHON ?= python3
NEEDED := torch timm hydra typer msgspec pytest xdist
HOLDS  := import importlib.util as u, sys; sys.exit(any(u.find_spec(name) is None for name in sys.argv[1:]))
ACTIVE := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX))
USABLE := $(if $(ACTIVE),$(shell $(ACTIVE)/bin/python -c '$(HOLDS)' $(NEEDED) 2>/dev/null && echo yes))
VENV   := $(if $(USABLE),$(ACTIVE),.venv)
BIN    := $(VENV)/bin
STAMP  := $(if $(USABLE),,.venv/.installed)
SUITE  ?= vtab
HERE   := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
RUN    := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/python

.PHONY: help demo test test-slow test-cluster test-packages tables report status bench chaos fuzz lint docs clean

help:  ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.installed: pyproject.toml
	@echo "Installing into .venv (about 5 GB, 1 to 3 minutes) ..."
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python {v.major}.{v.minor} is too old: karst_bench needs 3.11 or newer; try make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	@.venv/bin/uv pip install --quiet --python .venv/bin/python -e ".[dev,export,oracles,tensorboard]"
	@.venv/bin/python -c 'import timm, torchvision'
	@touch $@

demo: $(STAMP)  ## train KARST and a linear probe on an embedded task; nothing to download
	@$(RUN) -m karst_bench demo

test: $(STAMP)  ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal  # two threads in each of two workers fight

test-slow: $(STAMP)  ## the tests that take minutes
	$(RUN) -m pytest -m slow

test-cluster: $(STAMP)  ## a SLURM of two nodes and a Ray on this machine (root, slurm-wlm, munge, extra [ray]; else skipped)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster -rs tests/cluster

test-packages: $(STAMP)  ## build wheel and sdist, install each apart from the checkout, run them there
	$(RUN) -m pytest -m slow tests/packaging

tables: report  ## Tables I-III and Figures 2-3 from the records (SUITE=vtab or mini)

report: $(STAMP)  ## the same, and one page to open in a browser: results/report/<suite>/index.html
	@cd $(HERE) && $(abspath $(BIN))/python -m karst_bench report suite=$(SUITE) results=$(abspath $(or $(KARST_BENCH_RESULTS),$(HERE)results))

status: $(STAMP)  ## which cells of a suite are done, running, failed or missing
	@cd $(HERE) && $(abspath $(BIN))/python -m karst_bench status suite=$(SUITE) results=$(abspath $(or $(KARST_BENCH_RESULTS),$(HERE)results))

bench: $(STAMP)  ## what a step costs, against the frozen backbone, in one process
	$(RUN) -m benchmarks out=outputs/benchmarks  # without out= the committed figures are replaced

chaos: $(STAMP)  ## stops sweeps in every phase and checks that nothing is lost (KARST_BENCH_STOPS=300, KARST_BENCH_SEED=20261126)
	$(RUN) -m pytest -m slow tests/run/test_chaos.py -s

fuzz: $(STAMP)  ## reads files of strangers, bent at random, and prints what became of them (COUNT=60 of each kind)
	$(RUN) tests/foreign/fuzz.py count=$${COUNT:-60}

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)  ## regenerate the pages that come from code and configuration
	$(BIN)/python scripts/docs_methods.py
	$(BIN)/python scripts/docs_backbones.py
	$(BIN)/python scripts/docs_recipes.py
	$(BIN)/python scripts/docs_mini.py
	$(BIN)/python scripts/docs_results_mini.py
	$(BIN)/python -m karst_bench report suite=mini records=reference results=results > /dev/null
	$(BIN)/python scripts/docs_datasets.py
	$(BIN)/python scripts/docs_data_sources.py
	$(BIN)/python scripts/docs_gpu.py
	$(BIN)/python scripts/contact_sheets.py

clean:  ## remove outputs and caches, keep results
	rm -rf outputs multirun .pytest_cache .mypy_cache .ruff_cache
