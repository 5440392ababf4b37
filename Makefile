# `make demo` shows it, `make test` proves it. Both set up .venv by themselves, without root and without a compiler.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint check slow gpu screens bench clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up

help:
	@echo 'make demo    a whole round of RLHF on this machine, offline once set up'
	@echo 'make test    the tests, without the slow ones'
	@echo 'make check   format, lint, types and tests: what a change must pass'
	@echo 'make lint    the same without the tests'
	@echo 'make slow    the slow tests        make gpu    the tests that need a CUDA device'
	@echo 'make screens docs/screens anew: a picture of every page of the feedback app (needs Chromium)'
	@echo 'make bench   every benchmark once, briefly (docs/speed.md has the measured figures)'
	@echo 'make setup   .venv with the versions of constraints.txt (PYTHON=python3.12 chooses another Python)'
	@echo 'make clean   removes .venv, caches and what was built; runs/ stays'

setup: $(STAMP)

# A Python counts when it is 3.11 or newer and can make a virtual environment; 3.11 is what the versions are tested on.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { \
	  for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	      echo "$(VENV): made with $$("$$python" --version)"; "$$python" -m venv $(VENV) && exit 0; exit 1; \
	    fi; \
	  done; \
	  echo "No Python of 3.11 or newer with venv was found (python3 is $$(python3 --version 2>&1)), and tutelage" >&2; \
	  echo "needs one. Install it (Debian, Ubuntu: python3 and python3-venv), or name it: make setup PYTHON=path" >&2; \
	  exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(VENV) holds $$($(BIN)/python --version), but tutelage needs 3.11 or newer. Run: make clean setup" >&2; \
	  exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/tutelage quickstart

# Two processes, each with whole files: half the time on two cores, and fixtures of a file are made once.
test: $(STAMP)
	$(BIN)/pytest --numprocesses 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy --strict tutelage

check: lint test

slow: $(STAMP)
	$(BIN)/pytest -m slow

gpu: $(STAMP)
	$(BIN)/pytest -m gpu

screens: $(STAMP)
	TUTELAGE_SCREENS=docs/screens $(BIN)/pytest tests/label/browser/test_screens.py tests/label/browser/test_chat.py -k "fits or wide or holds or printed"

bench: $(STAMP)
	$(BIN)/python benchmarks/short.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find tutelage tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
