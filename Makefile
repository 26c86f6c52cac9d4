# SPDX-License-Identifier: Apache-2.0
# Two commands for everybody:   make demo   and   make test
# Each sets up its own virtual environment in .venv the first time.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.ready
EXAMPLES := $(VENV)/.ready-examples
# How pytest is run; `make test PYTEST_ARGS='tests/pki -x'` runs some of it.
PYTEST_ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help:
	@echo 'make demo      a federated network on this machine that trains a model, from nothing'
	@echo 'make test      everything that guards this tree: ruff, mypy, pytest'
	@echo 'make check     ruff and mypy alone;  make fix: let ruff put right what it can'
	@echo 'make bench     how fast things are on this machine, beside NVIDIA FLARE and Flower (half an hour or so)'
	@echo 'make campaign  identities tried often: invites, revocation, renewal, tampering, pkilint (20 minutes)'
	@echo 'make faults    what breaks is broken on purpose: kills, kill points, bad links, full disks (an hour)'
	@echo 'make proto     flprov_pb2 again from flprov/wire/flprov.proto'
	@echo 'make schemas   docs/schemas again from flprov/wire/documents'
	@echo 'make dist      a wheel in dist/, to install on other machines'
	@echo 'make clean     remove the virtual environment and what the tools left'

# ---- the virtual environment -------------------------------------------------------------------

# What everybody needs lies in the first; tests need more, some of it large.
$(EXAMPLES): EXTRAS := examples
$(STAMP): EXTRAS := dev
$(EXAMPLES) $(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "flprov needs Python 3.11 or later, and '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not there)." >&2; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),test) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -x $(PY) || { echo "making a virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing flprov[$(EXTRAS)] into $(VENV) (some minutes the first time)"
	@$(PY) -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

.PHONY: venv
venv: $(STAMP)

# ---- what people type --------------------------------------------------------------------------

.PHONY: demo
demo: $(EXAMPLES)
	@$(PY) examples/demo.py

# In one process: on two cores `-n 2` was no quicker (measured), and tests that count processes and
# milliseconds disturb each other.
.PHONY: test
test: check
	$(PY) scripts/tests.py $(PYTEST_ARGS)

.PHONY: check
check: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

.PHONY: fix
fix: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# The peers come from PyPI into .peers the first time. Three minutes, without them:  make bench BENCH_ARGS=--quick
BENCH_ARGS ?=
.PHONY: bench
bench: $(STAMP)
	@$(PY) benchmarks/bench.py $(BENCH_ARGS)

# pkilint comes from PyPI into an environment of its own; sshd and the proxies from Debian, as in .ci/run.
.PHONY: campaign
campaign: $(STAMP)
	@$(PY) benchmarks/campaign.py

# As root, where network namespaces and loop devices can be made; parts that cannot be run say so.
# One part, or one case of it:  .venv/bin/python benchmarks/faults/run.py --only kills --count 50 --seed 7
.PHONY: faults
faults: $(STAMP)
	@$(PY) benchmarks/faults/run.py

# ---- generated files ---------------------------------------------------------------------------

.PHONY: proto
proto: $(STAMP)
	$(PY) -m grpc_tools.protoc -Iflprov/wire --python_out=flprov/wire --pyi_out=flprov/wire flprov/wire/flprov.proto

.PHONY: schemas
schemas: $(STAMP)
	$(PY) scripts/schemas.py

.PHONY: dist
dist: $(STAMP)
	$(PY) -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls -1 dist/*.whl

.PHONY: clean
clean:
	rm -rf $(VENV) .peers .mypy_cache .ruff_cache .pytest_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
