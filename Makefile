# `make repro` and `make test` are all that a new machine needs; both build .venv first.
PYTHON ?= python3
BIN := .venv/bin
# A file of tests to each core; one thread each, for two that compete for a core wait for each other at every step.
TESTS := OMP_NUM_THREADS=1 pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test check bench-metrics bench-training bench-launch bench-page bench-verify bench-commands test-slurm parity docs
.DEFAULT_GOAL := repro

.venv/ready: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Proctor needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv || { echo "Python has no venv module: on Debian and Ubuntu, 'apt install python3-venv'."; exit 1; }
	$(BIN)/pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

repro: .venv/ready
	dvc repro
	@echo "The report is at file://$(CURDIR)/reports/build/index.html"

test: .venv/ready
	$(TESTS)

check: .venv/ready
	ruff check .
	ruff format --check .
	mypy
	$(TESTS)

test-slurm: .venv/ready
	OMP_NUM_THREADS=1 pytest -m slurm

bench-metrics: .venv/ready
	python -m tests.speed.bench_metrics

bench-training: .venv/ready
	python -m tests.speed.bench_training

bench-launch: .venv/ready
	OMP_NUM_THREADS=1 python -m tests.speed.bench_launch

bench-page: .venv/ready
	python -m tests.speed.bench_page

bench-verify: .venv/ready
	OMP_NUM_THREADS=1 python -m tests.speed.bench_verify

bench-commands: .venv/ready
	OMP_NUM_THREADS=1 python -m tests.speed.bench_commands

# Beside the official codes. The extra `parity` stays out of .venv/ready: nothing but this target needs it.
parity: .venv/ready
	@test -d "$(OFFICIAL)" || { echo "make parity OFFICIAL=DIR: DIR holds checkouts of the official codes, see docs/parity.md."; exit 1; }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,parity]'
	OFFICIAL="$(OFFICIAL)" OMP_NUM_THREADS=1 pytest -m parity -r s -p no:warnings tests/parity

# The site, under site/. The extra `docs` stays out of .venv/ready: nothing but this target needs it.
docs: .venv/ready
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. mkdocs build
