# make help lists what there is. The first use of a target creates .venv and installs into it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SUITE  ?= vtab
RUN    := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/python

.PHONY: help demo test test-slow tables status bench chaos lint docs clean

help:  ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@echo "Installing into $(VENV) (about 5 GB, 1 to 3 minutes) ..."
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python {v.major}.{v.minor} is too old: karst_bench needs 3.11 or newer; try make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[dev,oracles,tensorboard]"
	@$(BIN)/python -c 'import timm, torchvision'
	@touch $@

demo: $(STAMP)  ## train KARST and a linear probe on an embedded task; nothing to download
	@$(RUN) scripts/demo.py

test: $(STAMP)  ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal  # two threads in each of two workers fight

test-slow: $(STAMP)  ## the tests that take minutes
	$(RUN) -m pytest -m slow

tables: $(STAMP)  ## Tables I-III and Figures 2-3 from the records (SUITE=vtab or mini)
	@$(BIN)/python -m karst_bench report suite=$(SUITE) results=results

status: $(STAMP)  ## which cells of a suite are done, running, failed or missing
	@$(BIN)/python scripts/status.py suite=$(SUITE)

bench: $(STAMP)  ## what a step costs, against the frozen backbone, in one process
	$(RUN) -m benchmarks

chaos: $(STAMP)  ## kills a sweep at random moments and checks that nothing is lost
	$(RUN) -m pytest -m slow tests/run/test_chaos.py -s

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)  ## regenerate the pages that come from code and configuration
	$(BIN)/python scripts/docs_methods.py
	$(BIN)/python scripts/docs_mini.py
	$(BIN)/python scripts/docs_datasets.py
	$(BIN)/python scripts/contact_sheets.py

clean:  ## remove outputs and caches, keep results
	rm -rf outputs multirun .pytest_cache .mypy_cache .ruff_cache
