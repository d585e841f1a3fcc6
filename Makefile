# A fresh machine needs Python >= 3.11, git and make. Everything else goes into .venv.
#
#   make demo   a real job on an embedded cluster
#   make test   the test suite

PYTHON ?= python3
# A constraints file pins every version (.ci/run passes constraints.txt); empty takes the newest
# releases within the ranges of pyproject.toml.
CONSTRAINTS ?=
# Further arguments for pytest, for instance: make test PYTEST_ARGS="tests/core -x"
PYTEST_ARGS ?=
# Arguments for the benchmarks, for instance: make bench BENCH_ARGS="--only sync --repeats 5"
BENCH_ARGS ?=
# Arguments for the run under faults, for instance: make chaos CHAOS_ARGS="--seconds 600 --seed 7"
CHAOS_ARGS ?=
# Arguments for the stress, for instance: make stress STRESS_ARGS="--seconds 60 --only lives"
STRESS_ARGS ?=

BIN := .venv/bin
# setuptools warns that an editable package is importable from the root under other names: ruff bans it
PIP_INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	$(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
# pip does not compile an editable package. Where Python is told not to keep what it compiles, every
# process of a cluster would do it again.
COMPILE := $(BIN)/python -m compileall -q -x '^\./(\.venv|build|dist)' .

.DEFAULT_GOAL := help
.PHONY: demo test interleavings screenshots lint format types docs bench bench-peers chaos stress wheel clean help

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.installed ## run the main job: an index of the standard library, checked
	@$(BIN)/python -m ract.util.demo

test: .venv/.installed-dev .venv/.browser ## run the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --ignore=tests/interleavings $(PYTEST_ARGS)
	$(MAKE) interleavings

interleavings: .venv/.installed-dev ## run every interleaving of threads in the small worlds of tests/interleavings
	$(BIN)/frontrun $(BIN)/python -m pytest -n auto --maxprocesses 2 -q tests/interleavings

lint: .venv/.installed-dev ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.installed-dev ## format the code
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

types: .venv/.installed-dev .typing/ract ## check types
	MYPYPATH=.typing $(BIN)/mypy -p ract

screenshots: .venv/.installed-dev .venv/.browser ## write pictures of the dashboard's pages into docs/images
	$(BIN)/python docs/screenshots.py docs/images

docs: .venv/.installed-docs ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: .venv/.installed ## measure ract
	$(BIN)/python -m ract.benchmarks.run $(BENCH_ARGS)

bench-peers: .venv/.installed .venv-peers/.installed ## measure ract beside Ray and Dask
	$(BIN)/python -m ract.benchmarks.run --peers .venv-peers/bin/python $(BENCH_ARGS)

chaos: .venv/.installed ## work while processes and nodes are killed, and check all results
	@$(BIN)/python -m ract.util.chaos $(CHAOS_ARGS)

stress: .venv/.installed ## do rounds of everything with threads that take turns in microseconds, and check all
	@$(BIN)/python -m ract.util.stress $(STRESS_ARGS)

wheel: .venv/.installed-dev ## build the wheel into dist/
	rm -rf build dist
	$(BIN)/python -m pip wheel . --no-deps --no-build-isolation --quiet --wheel-dir dist
	@ls dist

clean: ## remove what was built, the environment included
	rm -rf .venv .venv-peers .typing build dist docs/_build *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --------------------------------------------------------------------------- the environment

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ract needs Python 3.11 or newer; say which: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | .venv/bin/python
	@echo "Installing into .venv (once) ..."
	@$(PIP_INSTALL) --editable .
	@$(COMPILE)
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/bin/python
	@echo "Installing into .venv, with what the tests need (once) ..."
	@$(PIP_INSTALL) --editable '.[test]'
	@$(COMPILE)
	@touch .venv/.installed $@

.venv/.installed-docs: pyproject.toml | .venv/bin/python
	@echo "Installing into .venv, with what the documentation needs (once) ..."
	@$(PIP_INSTALL) --editable '.[docs]'
	@$(COMPILE)
	@touch .venv/.installed $@

# The tests of the dashboard's pages use Chromium. Where it is missing it is installed, if that can be
# done without asking anybody; else those tests are skipped and say so.
.venv/.browser: | .venv/bin/python
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
	  if command -v $$name >/dev/null 2>&1; then touch $@; exit 0; fi; \
	done; \
	if command -v apt-get >/dev/null 2>&1; then \
	  if [ "$$(id -u)" = 0 ]; then run="env"; \
	  elif sudo -n true 2>/dev/null; then run="sudo -n env"; else run=""; fi; \
	  if [ -n "$$run" ]; then \
	    echo "Installing Chromium for the tests of the dashboard (once) ..."; \
	    { $$run apt-get update -qq && $$run DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	      --no-install-recommends chromium; } >/dev/null 2>&1 || \
	      echo "Chromium could not be installed: the tests that need it are skipped."; \
	  fi; \
	fi; \
	touch $@

# What ract is compared with; nothing of it is needed to use or test ract.
.venv-peers/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check \
	  "ray==2.60.*" "distributed>=2025.1" numpy psutil
	@touch $@

# mypy finds the package `ract` through this link, because the root has another name.
.typing/ract:
	@mkdir -p .typing
	@ln -sfn .. $@
