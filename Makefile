# Each target installs what it needs into .venv; a second call finds the stamp and is quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.limner-installed

.PHONY: help install demo lint layers test check bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    a real model reads a picture and writes an illustrated page: out/demo"
	@echo "make test    style, layers, and every test that this machine can run"
	@echo "make check   style and types"
	@echo "make bench   the numbers in the README"
	@echo "make install everything above, into $(VENV)"

install: $(STAMP)

$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Limner needs Python 3.11 or newer; try make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,data,audio,video,originals,serve,dev]"
	@touch $@

# The weights come by themselves on the first run (`limner models` lists where from).
demo: $(STAMP)
	$(BIN)/limner demo --output out/demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

layers: $(STAMP)
	$(BIN)/python -m pytest tests/architecture --quiet --no-header --no-summary

# The last lines are pytest's own summary.
test: lint layers
	$(BIN)/python -m pytest -m "slow or not slow"

check: lint
	$(BIN)/pyright

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf out $(STAMP) .pytest_cache .ruff_cache .hypothesis
