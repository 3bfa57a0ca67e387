# Every target does its own set-up: a fresh Debian or Ubuntu machine with make is enough.
.DEFAULT_GOAL := help
BIN := .venv/bin
EXAMPLE := examples/01-reverse-digits
RUN ?= runs/reverse-digits

.PHONY: help install demo check test bench crd requirements clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

install: ## Make .venv with the pinned environment
	@tools/environment.sh

demo: install ## Run example 01: a tiny policy learns to reverse digits (about 5 minutes)
	$(BIN)/python $(EXAMPLE)/make_policy.py
	$(BIN)/tandem up -f $(EXAMPLE)/rljob.yaml --run-dir $(RUN) --fresh

check: install ## Lint, types, import contracts, unit tests (under 3 minutes)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m "not etcd and not megatron and not vllm and not e2e"

test: install ## Everything, on real etcd, Megatron-Core and vLLM (under 20 minutes)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

bench: install ## Measure example 01: learning and switching
	$(BIN)/python benchmarks/first_light.py --json build/first_light.json

crd: install ## Generate crds/rljobs.tandem.dev.yaml from the API's types
	$(BIN)/python -m tandem_api.crd > crds/rljobs.tandem.dev.yaml

requirements: install ## Pin requirements/*.txt anew
	tools/requirements.sh

clean: ## Remove the environment and what builds and runs left here
	rm -rf .venv build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
