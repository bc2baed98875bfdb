# Two words for newcomers: `make run` opens the app, `make test` runs the whole suite.
# Both set up .venv the first time (and again only when pyproject.toml has changed).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-warn-script-location
# Networks this small are fastest on one thread; two only wait for each other where other work runs.
TEST_ENV := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1}

.DEFAULT_GOAL := help
.PHONY: help run test check format lint types bench many-nets bench-trace bench-measure bench-papers demos clean

help:
	@echo "make run     open Prunescope in the browser (first time: install into $(VENV))"
	@echo "make test    run the whole test suite (ARGS=... goes to pytest)"
	@echo "make check   format, lint, types, tests"
	@echo "make bench   run every benchmark in tests/bench"
	@echo "make bench-trace   trace and prune 120 networks beside Torch-Pruning (ARGS=--help tells more)"
	@echo "make bench-measure scan sensitivity beside the naive way, with the lower bound (ARGS=--help tells more)"
	@echo "make bench-papers  the papers' recipes and baselines on equal terms (ARGS=--help tells more)"
	@echo "make many-nets     hold the law on 20,000 random networks, once (ARGS=--help tells more)"
	@echo "make demos   train the demo networks again and scan them"
	@echo "make clean   remove $(VENV) and caches"
	@echo "PYTHON=python3.12 chooses the interpreter (3.11 or newer)"

run: $(VENV)/.run
	@$(BIN)/streamlit run app.py $(ARGS)

test: $(VENV)/.test
ifeq ($(ARGS),)
	@$(TEST_ENV) $(BIN)/python -m pytest -q -n 2
else
	@$(TEST_ENV) $(BIN)/python -m pytest -q $(ARGS)
endif

check: format lint types test

format: $(VENV)/.dev
	@$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	@$(BIN)/ruff check .

types: $(VENV)/.dev
	@$(BIN)/mypy

bench: $(VENV)/.bench
	@$(BIN)/python tests/bench/run.py $(ARGS)

bench-trace: $(VENV)/.bench
	@$(BIN)/python tests/bench/bench_trace.py $(ARGS)

bench-measure: $(VENV)/.bench
	@$(BIN)/python tests/bench/bench_measure.py $(ARGS)

bench-papers: $(VENV)/.bench
	@$(BIN)/python tests/bench/bench_papers.py $(ARGS)

many-nets: $(VENV)/.test
	@$(TEST_ENV) $(BIN)/python tests/bench/many_nets.py $(ARGS)

demos: $(VENV)/.run
	@$(BIN)/python assets/demos/make_demos.py $(ARGS)
	@$(BIN)/python assets/demos/make_scans.py

clean:
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find core pages tests assets -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of packages; an install that stops half-way leaves none and is simply tried again.
$(VENV)/.python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Prunescope needs Python 3.11 or newer; '$(PYTHON)' is $$("$(PYTHON)" --version 2>/dev/null || echo not there)." \
	       "Install one and name it: make run PYTHON=python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { \
	  echo "Could not create $(VENV). On Debian and Ubuntu: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@touch $@

$(VENV)/.run: pyproject.toml | $(VENV)/.python
	@echo "Installing Prunescope's packages into $(VENV): a few minutes the first time, never again until they change."
	@$(PIP) -e .
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.run
	@echo "Installing the test tools into $(VENV)."
	@$(PIP) -e '.[test]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.test
	@echo "Installing the formatter and the type checker into $(VENV)."
	@$(PIP) -e '.[test,dev]'
	@touch $@

$(VENV)/.bench: pyproject.toml | $(VENV)/.test
	@echo "Installing the peer that benchmarks compare with, and timm, into $(VENV)."
	@$(PIP) -e '.[test,timm]'
	@touch $@
