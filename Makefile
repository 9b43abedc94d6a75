# Every command that people and CI run. `make` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

install: $(INSTALLED) ## make .venv with the locked packages and the `ticketwire` command

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or later is needed, found {sys.version.split()[0]}: name one with make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install ## run the whole product here: embedded Redis and PostgreSQL, all tiers, a chat page
	$(BIN)/ticketwire dev

test: install ## the whole suite against real servers that it starts itself
	$(BIN)/pytest $(ARGS)

faults: install ## kill, pause and cut off everything while messages flow, and count them: SECONDS=600 SEED=1
	$(BIN)/python -m tests.faults --seconds $(or $(SECONDS),600) --seed $(or $(SEED),1)

check: install ## format, lint, types, import rules (changes nothing)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install ## renew what is generated from the code: docs/protocol/*.json, docs/settings.md
	$(BIN)/python -m ticketwire.protocol_documents docs/protocol
	$(BIN)/ticketwire settings --markdown > docs/settings.md

format: install ## format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/bench/.installed ## the ratios of docs/benchmarks.md but for delivery, ten minutes on a quiet machine
	$(BIN)/python -m bench.http_accept
	$(BIN)/python -m bench.accept
	TICKETWIRE_POLICY=$(CURDIR)/bench/no_rules.yaml BENCH_PYTHON=$(VENV)/bench/bin/python $(BIN)/python -m bench.worker
	$(BIN)/python -m bench.archive
	$(BIN)/python -m bench.moderation

bench-delivery: install ## delivery beside nchan, Socket.IO and bare send(2), twelve minutes: ARGS="--only rooms --rounds 1"
	$(BIN)/python -m bench.delivery $(ARGS)

# FastStream, which the worker is compared with, lives apart: the product does not need it.
$(VENV)/bench/.installed: $(INSTALLED) bench/peers/requirements.txt
	$(PYTHON) -m venv $(VENV)/bench
	$(VENV)/bench/bin/pip install --quiet --disable-pip-version-check -r bench/peers/requirements.txt
	@touch $@

lock: install ## renew requirements.lock from pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --generate-hashes --no-emit-index-url \
		--no-header --no-emit-package ticketwire --quiet -o requirements.lock

.PHONY: help install demo test faults check docs format bench bench-delivery lock
