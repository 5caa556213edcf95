# labkit's tasks. `make help` lists them; .ci/run and pre-commit call the same ones.

SHELL := /bin/bash
BIN := .venv/bin
export PATH := $(PATH):/usr/sbin:/sbin
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E) env PATH="$(CURDIR)/$(BIN):$$PATH"
# Notebooks show the machine, so they have it for themselves. Status 5 says that PYTEST chose none.
NOTEBOOKS := pytest notebooks $(PYTEST) || [ $$? = 5 ]
PEERS ?= ../shared/bench/peers.py

.PHONY: help lab setup test test-long check format bench pin clean programs-lab programs-dev

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

lab: .venv/lab ## Set up and open the course in JupyterLab (PORT=8888, LABKIT_NO_BROWSER=1)
	@scripts/open-course

setup: .venv/dev ## Install what development and tests need: programs by apt, Python packages into .venv

test: check ## Set up, check, and run all tests and notebooks, as root (PYTEST="-k name" chooses)
	$(AS_ROOT) $(NOTEBOOKS)
	$(AS_ROOT) scripts/run-tests $(PYTEST)

test-long: check ## All of that, and what takes minutes: every crash, ten minutes of load
	$(AS_ROOT) $(NOTEBOOKS)
	$(AS_ROOT) scripts/run-tests -m "long or not long" $(PYTEST)

check: setup ## Check formatting, lint, types, and the direction of imports
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup ## Time labkit beside dockerd, as root (PEERS=script that times them, ARGS="--only exec")
	$(AS_ROOT) scripts/bench $(PEERS) $(ARGS)

pin: ## Write the newest versions that work together into constraints.txt
	scripts/pin

clean: ## Remove .venv and what tools have cached (containers and images stay)
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# These two files say which extra of pyproject.toml .venv has; dev holds all that lab does.
.venv/lab .venv/dev: .venv/%: pyproject.toml constraints.txt scripts/install-python | programs-%
	scripts/install-python $*

programs-lab programs-dev: programs-%:
	@scripts/install-programs $*
