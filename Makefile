# Each target prepares what it needs: `make audit` or `make test` is all there is to type after a clone.
PYTHON ?= python3
# PyTorch's own package index, where a build other than the default one is wanted (README, "Installing").
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
LINTERS := $(VENV)/.linters
# One process a core, whole files each; more than four would only load PyTorch more often.
WORKERS := --numprocesses auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := audit
.PHONY: audit test slow check docs clean

# A first look: two pairs of each scenario, 200 permutations of the labels and 20 random maps, where an audit has all, 1,000 and
# 200 by default.
audit: $(INSTALLED) ## audit the bundled pairs
	$(BIN)/persona-audit run --effort glance --post organism:faithful --post organism:deceiver

test: $(INSTALLED) ## the tests (about 10 minutes on two cores)
	$(BIN)/python -m pytest $(WORKERS)

slow: $(INSTALLED) ## the slow claims (more than an hour)
	$(BIN)/python -m pytest -m slow

check: $(LINTERS) ## style and types
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(INSTALLED) ## write the schema of a record
	$(BIN)/python -c "from audit.record import export_schema; export_schema()"

clean: ## remove the environment, every cache and the default output folder
	rm -rf $(VENV) build dist persona-audit-out .pytest_cache .ruff_cache .hypothesis
	find audit probes tests -name __pycache__ -type d -prune -exec rm -rf {} +

# PyTorch first and alone: its index may differ, and it must not be asked for anything else. What it depends on follows
# with the rest. The build backends come from the pins too, hence no isolated (unpinned) build environment: hatchling for
# this project, and setuptools, newer than the one a new environment has, for a dependency that ships as source alone.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'found Python ' + sys.version.split()[0] + ', expected 3.11 or newer. Name one: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --no-deps --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) install --constraint constraints.txt hatchling editables setuptools
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[test,jupyter]'
	touch $@

$(LINTERS): $(INSTALLED)
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@
