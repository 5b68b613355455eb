# The one door for a developer. `make demo` needs Python 3.10 or newer with venv, and nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# a process for each core; its models are so small that several threads would wait for each other
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

.PHONY: demo test test-all check lint generate bench clean

demo: $(VENV)/.base  ## caption examples/ with a base install, and show what came out
	@mkdir -p demo
	$(BIN)/omnicap caption examples --type ocr -o demo/captions.jsonl
	@$(BIN)/python scripts/print_captions.py demo/captions.jsonl
	@echo "The records are in $(CURDIR)/demo/captions.jsonl; run make demo again and nothing is done twice."

test: $(VENV)/.dev  ## everything that a change must pass, from a bare checkout
	@$(MAKE) check

test-all: $(VENV)/.dev  ## the slow tests too
	@$(MAKE) lint
	$(BIN)/python -m pytest -m ""

check: lint  ## the same, in a virtual environment that is there already
	$(PYTEST) -m "not slow"

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/generate.py --check

generate: $(VENV)/.dev  ## write docs/commands.md and completions/ from the app
	$(BIN)/python scripts/generate.py

bench: $(VENV)/.dev  ## every benchmark, each printing a table of ratios
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable . --constraint constraints.txt
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@ $(VENV)/.base
