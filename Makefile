# vmckpt: `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup: $(STAMP) ## make the virtual environment and install vmckpt into it

demo: $(STAMP) ## create, save, verify and restore a machine's memory, and show it
	@PATH="$(abspath $(BIN)):$$PATH" bash examples/first-checkpoint/run.sh

test: $(STAMP) ## run the tests
	@$(BIN)/python -m pytest

lint: $(STAMP) ## ruff and mypy, both strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## let ruff lay the code out
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

docs: $(STAMP) ## write docs/cli.md from the commands
	@$(BIN)/python docs/generate.py

bench: $(STAMP) ## measure against lz4, zstd, cp and QEMU: make bench IMAGES=dir RUNS=5
	@$(BIN)/python -m tests.benchmarks --runs $(or $(RUNS),5) $(if $(IMAGES),--images '$(IMAGES)') $(BENCH_OPTIONS)

.PHONY: help setup demo test lint format docs bench
