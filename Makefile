# Every target that needs the virtual environment makes it first; the stamp lets later calls start at once.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

# The repository root is the package: on Python's path its rooms would shadow other packages' `kernels` or `spaces`.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint types contracts check clean

help:
	@echo 'make quickstart   search networks for this CPU      (make quickstart ARGS="--minutes 5")'
	@echo 'make test         run the tests                     (make test ARGS="-q tests/db")'
	@echo 'make lint         ruff: rules and formatting; buf: the API'
	@echo 'make types        mypy, strict'
	@echo 'make contracts    import-linter: who may import whom'
	@echo 'make check        lint, types, contracts and tests'
	@echo 'make clean        remove $(VENV), caches and build leftovers'
	@echo
	@echo 'PYTHON=python3.12 chooses the interpreter of a new $(VENV).'

quickstart: $(STAMP)
	$(BIN)/milliseek quickstart $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint

types: $(STAMP)
	$(BIN)/mypy

contracts: $(STAMP)
	$(BIN)/lint-imports --no-logo

check: lint types contracts test

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The version is in __init__.py, and the installed metadata repeat it.
$(STAMP): pyproject.toml constraints.txt __init__.py
	@command -v $(PYTHON) >/dev/null || { \
	    echo 'milliseek needs Python 3.11 or newer, and there is no "$(PYTHON)" here.' \
	        'On Debian or Ubuntu: apt install python3 python3-venv' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "milliseek needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	        'Name a newer one: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo '$(PYTHON) cannot make virtual environments.' \
	        'On Debian or Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo 'Installing into $(VENV); the first time takes some minutes.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-input -c constraints.txt -e '.[all,dev]'
	@touch $@
