# Two commands do all the set-up: `make demo` and `make test`. Both build .venv when it is not there.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-full check format clean

demo: $(STAMP)            ## install, score the embedded data set, write its report
	$(BIN)/ddeval score demo

test: $(STAMP)            ## the whole suite, a tenth of each large count
	$(BIN)/python -m pytest -n 2 -m "not slow" -ra

test-full: $(STAMP)       ## every test at its full count
	$(BIN)/python -m pytest -n 2 -ra

check: $(STAMP)           ## what a commit must pass beside the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ddeval needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
