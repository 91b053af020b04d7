# `make demo` and `make test` set everything up in .venv and run. PYTHON needs to be 3.11 or 3.12.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
WORKERS := $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test test-faults check setup clean

demo: $(READY)  ## train the synthetic study across six hospitals and write its report
	rm -rf runs/demo sites/demo
	$(BIN)/wardround synthesize sites/demo --sites 6 --patients 300 --seed 7
	$(BIN)/wardround simulate examples/studies/synthetic.toml --sites sites/demo --out runs/demo

test: $(READY)  ## all tests, the end-to-end ones too
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

test-faults: $(READY)  ## a whole consortium in real processes: minutes
	$(BIN)/python -m pytest -m faults

check: $(READY)  ## style, types and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(READY)

# torch first and alone: its exact version is a CPU build, and nothing later replaces it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv runs sites
