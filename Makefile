# Two commands for a fresh machine with Python 3.11 or newer: `make demo` and `make test`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WITH_ANOMALIB := .venv-anomalib
WITH_PEERS := .venv-benchmarks
# A process per core, each with one torch thread (tests/conftest.py) and about 2 GB of memory. A file stays in one process:
# its tests share what its fixtures made; files start in their order, since the long ones come first.
PARALLEL := --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# For `make ui`. Not from the environment, where PORT often belongs to something else.
PORT        := 3000
MLFLOW_PORT := 5000

# Where bytecode may not be written, every process of the tests would compile the project's modules, and pytest all tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo ui test test-all test-cluster bench check audit format lock dist clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | column -t -s '	'

setup: $(STAMP) ## install everything into .venv

# uv installs in seconds what pip takes minutes for; constraints.txt pins every version. Unlike pip it compiles nothing
# unless told to: each process that may not write bytecode would compile thousands of modules anew.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup ## train on generated images with the teacher that comes along, no download: some five to ten minutes on two cores
	RKD_TRAININGS_PER_DEVICE=$${RKD_TRAININGS_PER_DEVICE:-2} $(BIN)/rkd run --plan demo

ui: setup ## Dagster on 127.0.0.1:3000 and MLflow on 127.0.0.1:5000 over the store; other ports: make ui PORT=3001 MLFLOW_PORT=5001
	$(BIN)/rkd ui --port $(PORT) --mlflow-port $(MLFLOW_PORT)

test: setup ## the tests, but for the slow ones
	$(BIN)/pytest $(PARALLEL) -m 'not slow and not cluster' --ignore tests/anomalib

test-cluster: setup ## those on a Ray cluster of two nodes, but for the slow ones; needs PostgreSQL's programs
	$(BIN)/pytest -m 'cluster and not slow' tests/integration

test-all: setup $(WITH_ANOMALIB)/.installed ## all tests; RKD_DATA=/path/to/data adds those on real images
	$(BIN)/pytest $(PARALLEL) -m 'not cluster' --ignore tests/anomalib
	$(BIN)/pytest -m cluster tests/integration
	$(WITH_ANOMALIB)/bin/pytest $(PARALLEL) --dist load tests/anomalib

# The optional extra, in an environment of its own: the core must work, and be tested, without it.
$(WITH_ANOMALIB)/.installed: pyproject.toml constraints.txt | $(STAMP)
	test -x $(WITH_ANOMALIB)/bin/python || $(PYTHON) -m venv $(WITH_ANOMALIB)
	$(BIN)/uv pip install --python $(WITH_ANOMALIB)/bin/python --compile-bytecode --constraint constraints.txt --editable '.[dev,anomalib]'
	touch $@

bench: $(WITH_PEERS)/.installed ## speed beside anomalib, adeval and scikit-learn, in an environment of its own: half an hour on idle cores
	$(WITH_PEERS)/bin/python benchmarks/everything.py

$(WITH_PEERS)/.installed: pyproject.toml constraints.txt benchmarks/requirements.txt | $(STAMP)
	test -x $(WITH_PEERS)/bin/python || $(PYTHON) -m venv $(WITH_PEERS)
	$(BIN)/uv pip install --python $(WITH_PEERS)/bin/python --compile-bytecode --constraint constraints.txt \
	    --editable '.[dev,anomalib]' --requirement benchmarks/requirements.txt
	touch $@

check: setup ## formatting, lint, types, and that Dagster can load the graph
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/dg check defs

audit: setup ## known vulnerabilities of the pinned packages, where pip-audit's data can be reached
	.ci/audit

format: setup ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup ## renew constraints.txt from pyproject.toml
	$(BIN)/uv pip compile --quiet --extra dev --extra anomalib --no-header --no-annotate --no-emit-index-url --upgrade \
	    --output-file constraints.txt pyproject.toml constraints.in
	$(MAKE) setup

# What an earlier build left in build/ and *.egg-info would go into the wheel, even where the source has it no more.
dist: setup ## build the wheel into dist/; to install it: pip install --constraint constraints.txt dist/*.whl
	rm -rf build dist *.egg-info
	$(BIN)/uv build --quiet --wheel --out-dir dist

clean: ## remove the environment; the store stays
	rm -rf $(VENV) $(WITH_ANOMALIB) *.egg-info
