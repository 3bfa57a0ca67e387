# Every target does its own set-up: a fresh Debian or Ubuntu machine with make is enough.
.DEFAULT_GOAL := help
BIN := .venv/bin
EXAMPLE := examples/01-reverse-digits
RUN ?= runs/reverse-digits
# Longest first build before the tests; what is built stays, and the next run goes on from there.
CONTROL_PLANE_SECONDS ?= 3000
# Processes of tests side by side: tests wait as long as they compute. Each wants about 6 GB of memory.
TEST_PROCESSES ?= 2
# Too long for `make check`: whole operators, and processes that fork others.
LONG := tests/tandem_operator/reconcile/test_any_sequence.py tests/tandem_operator/program \
  tests/tandem_checkpoint/test_keeper.py tests/tandem_checkpoint/test_zygote.py
UNIT := $(BIN)/python -m pytest -q -m "not etcd and not megatron and not vllm and not e2e and not api_server and not node and not spin and not gpu" \
  $(LONG:%=--ignore=%)
# Folders of tests that wait long, for processes and deadlines: `make check` runs each beside the others.
WAITING := tandem_checkpoint tandem_master

.PHONY: help install control-plane demo check lint unit $(WAITING:%=unit-%) test gpu campaign bench bench-operator bench-switch bench-reshard bench-weights bench-trainer bench-learning bench-rollout bench-master faults crd requirements clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

install: ## Make .venv with the pinned environment
	@tools/environment.sh

control-plane: install ## Build the Kubernetes programs that tests need, once (about 40 minutes on 2 cores)
	tools/control-plane/packages.sh
	$(BIN)/python tools/control-plane/build.py node queues

demo: install ## Run example 01: a tiny policy learns to reverse digits (about 5 minutes)
	$(BIN)/python $(EXAMPLE)/make_policy.py
	$(BIN)/tandem up -f $(EXAMPLE)/rljob.yaml --run-dir $(RUN) --fresh

check: install ## Lint, types, import contracts, unit tests (under 3 minutes)
	@$(MAKE) --no-print-directory --jobs=4 --keep-going --output-sync=target lint unit $(WAITING:%=unit-%)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(WAITING:%=unit-%): install
	$(UNIT) $(@:unit-%=tests/%)

unit: install
	$(UNIT) $(WAITING:%=--ignore=tests/%)

test: install ## Everything, on real etcd, Megatron-Core, vLLM and Kubernetes (under 40 minutes, without the first build)
	@timeout $(CONTROL_PLANE_SECONDS) $(MAKE) --no-print-directory control-plane || \
	  echo "no control plane here: the tests that need it are skipped and say why"
	@tools/mooncake/packages.sh || echo "no Mooncake here: the tests that need it are skipped and say why"
	@tools/spin/packages.sh || echo "no spin here: the tests that check the model of the switch are skipped and say why"
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -m "not campaign and not gpu" -n $(TEST_PROCESSES) --no-loadscope-reorder

gpu: ## Trainer, server and whole jobs on an NVIDIA GPU; into .venv as docs/gpu.md says
	$(BIN)/python -m pytest -m gpu tests/gpu

campaign: install control-plane ## Hurt a job on a real node in every way; the long property tests; jobs killed again and again (about an hour)
	$(BIN)/python -m pytest -m campaign --junitxml=build/campaign.xml
	TANDEM_LONG_SEQUENCES=1 $(BIN)/python -m pytest tests/tandem_operator/reconcile/test_any_sequence.py

bench: install ## Measure example 01: learning and switching
	$(BIN)/python benchmarks/first_light.py --json build/first_light.json

bench-operator: install ## Measure the operator beside JobSet's controller
	tools/control-plane/packages.sh api-server
	$(BIN)/python tools/control-plane/build.py api-server bench
	$(BIN)/python benchmarks/operator.py --quick --json build/operator.json

bench-switch: install ## Measure what changing between training and inference costs (about 18 minutes)
	$(BIN)/python benchmarks/switch.py --quick --json build/switch.json

bench-reshard: install ## Plan and simulate how huge models' weights change places (about 2 minutes)
	$(BIN)/python benchmarks/reshard.py --quick --json build/reshard.json

bench-weights: install ## Measure export and transfer of weights, and plan every pair of layouts (about 2 minutes)
	$(BIN)/python benchmarks/weights.py --quick --json build/weights.json

bench-trainer: install ## Train on a long tail of lengths, packed and padded (about a minute)
	$(BIN)/python benchmarks/trainer.py --quick --json build/trainer.json

bench-learning: install ## Show what is learnt: objectives, length reward, sampling; write docs/results.md (about 8 minutes)
	$(BIN)/python benchmarks/learning.py --quick --real mirror_descent --real reinforce --real grpo \
	  --json build/learning.json --docs docs/results.md

bench-master: install ## Load the master with 100,000 live trajectories, and write docs/results.md (about 3 minutes)
	$(BIN)/python benchmarks/master.py --json build/master.json --docs docs/results.md

bench-rollout: install ## Measure what partial rollouts gain, and write its section of docs/results.md (about 20 minutes)
	$(BIN)/python benchmarks/rollout.py --json build/rollout.json --docs docs/results.md

faults: install ## Hurt a running job 215 times, at every stage of both directions, and write docs/faults.md (up to an hour)
	$(BIN)/python -m tests.faults.campaign --injections 215 --docs docs/faults.md

crd: install ## Generate crds/rljobs.tandem.dev.yaml and docs/rljob.md from the API's types
	$(BIN)/python -m tandem_api.crd > crds/rljobs.tandem.dev.yaml
	$(BIN)/python -m tandem_api.reference > docs/rljob.md

requirements: install ## Pin requirements/*.txt anew
	tools/requirements.sh

clean: ## Remove the environment and what builds and runs left here
	rm -rf .venv build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
