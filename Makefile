# vmckpt: `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FUZZ_VENV ?= $(VENV)/fuzz

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' \
		--config-settings editable_mode=compat
	@touch $@

# Also where PYTHONDONTWRITEBYTECODE is set: compiling at every start would cost a command 30 ms.
compile: $(STAMP)
	@$(BIN)/python -m compileall -q vmckpt

setup: compile ## make the virtual environment and install vmckpt into it

demo: compile ## create, save, verify and restore a machine's memory, and show it
	@PATH="$(abspath $(BIN)):$$PATH" bash examples/first-checkpoint/run.sh

test: compile ## run the tests
	@$(BIN)/python -m pytest

lint: $(STAMP) ## ruff and mypy, both strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## let ruff lay the code out
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

docs: $(STAMP) ## write docs/cli.md from the commands, and the worked example of docs/format.md
	@$(BIN)/python docs/generate.py
	@$(BIN)/python -m tests.checkpoint.example

bench: compile ## measure against lz4, zstd, cp and QEMU: make bench IMAGES=dir RUNS=5
	@$(BIN)/python -m tests.benchmarks --runs $(or $(RUNS),5) $(if $(IMAGES),--images '$(IMAGES)') $(BENCH_OPTIONS)

golden: $(STAMP) ## freeze the golden files of this format version that are not there yet
	@$(BIN)/python -m tests.golden.make

campaign: $(STAMP) ## break checkpoints on purpose, for long: make campaign SEED=1 SECONDS=600
	@$(BIN)/python -m tests.faults --seed $(or $(SEED),1) --seconds $(or $(SECONDS),600)

lazy: $(STAMP) ## restore lazily, with kills, for long: make lazy SEED=1 SECONDS=600
	@$(BIN)/python -m tests.restoring --seed $(or $(SEED),1) --seconds $(or $(SECONDS),600)

exactness: compile ## save running machines, and compare every page: make exactness SEED=1000 SECONDS=600
	@$(BIN)/python -m tests.saving.campaign --seed $(or $(SEED),1000) --seconds $(or $(SECONDS),600)

fuzz: $(STAMP) ## fuzz what reads checkpoints and cores: make fuzz SECONDS=600
	@test -x $(FUZZ_VENV)/bin/python || $(PYTHON) -m venv $(FUZZ_VENV)
	@$(FUZZ_VENV)/bin/python -c 'import atheris, hypothesis' 2>/dev/null || \
		$(FUZZ_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz,dev]'
	@$(FUZZ_VENV)/bin/python -m tests.fuzz --seed $(or $(SEED),1) --seconds $(or $(SECONDS),600) $(TARGETS)

.PHONY: help compile setup demo test lint format docs bench golden campaign exactness lazy fuzz
