# make demo   what Lossmith does, in a few minutes, on data that is bundled
# make test   lint, format, types and tests: what CI runs
# Both make .venv by themselves, from any Python 3.11 or newer, and use it again the next time.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
DATA ?= $(LOSSMITH_DATA)

.DEFAULT_GOAL := help
.PHONY: help install demo test check tests chaos bench clean

help:
	@sed -n '1,3s/^# //p' Makefile

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Lossmith needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@test -x $(BIN)/python || { echo "making $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "installing Lossmith and what it needs (about a minute) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing development tools ..."
	@$(PIP) --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed

TASK := digits/mlp@noise=0.4
SEARCH := --method taylorglo --task $(TASK) --steps 1500 --generations 8 --population 16 --seed 0

demo: $(VENV)/.installed
	@rm -rf runs/demo
	@echo "\n# What it will cost\n"
	$(BIN)/lossmith plan $(SEARCH) --seeds 10
	@echo "\n# The bar to beat: published losses x learning rate x label smoothing x early stopping\n"
	$(BIN)/lossmith shelf --task $(TASK) --steps 1500 --budget-steps 50000 --seed 0 --run runs/demo/shelf
	@echo "\n# The search\n"
	$(BIN)/lossmith search $(SEARCH) --shelf runs/demo/shelf --run runs/demo/search
	@echo "\n# Is it really better?\n"
	$(BIN)/lossmith evaluate runs/demo/search --seeds 10
	@echo "\n# The loss, for any PyTorch program\n"
	$(BIN)/lossmith export runs/demo/search --to torch
	$(BIN)/lossmith report runs/demo/search

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tests: $(VENV)/.installed-dev
	$(BIN)/pytest -m "not chaos"

test: check tests

chaos: $(VENV)/.installed-dev
	$(BIN)/pytest -m chaos -n0

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/engine_costs.py
	$(BIN)/python benchmarks/workers.py
	$(BIN)/python benchmarks/bfloat16.py
	$(BIN)/python benchmarks/tree_losses.py
	$(BIN)/python benchmarks/meta_gradient.py
	$(BIN)/python benchmarks/online_step.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/recover_rule.py
	$(BIN)/python benchmarks/rediscover.py
	$(BIN)/python benchmarks/vs_random.py

clean:
	rm -rf $(VENV) runs
