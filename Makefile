# The two commands: `make demo` and `make test`. Each sets up what it needs in .venv and nowhere else.

PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo test lint docs benchmark clean

demo: .venv/.train
	rm -rf runs/demo
	$(BIN)/resurge fit lru/digits --out runs/demo
	$(BIN)/resurge report runs/demo
	@echo
	@echo "The report:   runs/demo/report.html"
	@echo "Try next:     $(BIN)/resurge fit lru/text && $(BIN)/resurge generate runs/lru-text-0 --prompt 'def '"

test: .venv/.test lint docs
	$(BIN)/python -m pytest

lint: .venv/.test
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

docs: .venv/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

benchmark: .venv/.bench
	$(BIN)/python -m benchmarks all

clean:
	rm -rf .venv site build runs

.venv/.train: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) ".[train]"
	@touch $@

.venv/.test: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) ".[train,test,docs]"
	@touch $@ .venv/.train

.venv/.bench: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) ".[train,bench]"
	@touch $@

.venv/bin/python:
	$(PYTHON) -m venv .venv
