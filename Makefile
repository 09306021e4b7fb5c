# One menu for everything. `make help` prints it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=
RUST_SOURCES := $(shell find crates -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock

.PHONY: help setup demo demo-olintserv test test-python test-rust lint format bench bench-quick bench-long bench-hops claims docs fuzz fuzz-short audit soak lock wheel clean

help: ## print this menu
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.native ## make the environment and build the native engine

$(VENV)/.python: requirements.lock
	@scripts/system-packages
	@test -x $(PY) || python3 -m venv $(VENV) || (python3 -m pip install --user virtualenv && python3 -m virtualenv $(VENV))
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.native: $(VENV)/.python pyproject.toml $(RUST_SOURCES)
	@echo "building the native engine (a few minutes the first time)"
	@mkdir -p build && $(VENV)/bin/maturin develop --release --quiet >build/native.log 2>&1 || (cat build/native.log; exit 1)
	@touch $@

demo: setup ## found an overlay in namespaces, flood the site, show what happened (ARGS=--json for machines)
	@$(VENV)/bin/polder demo $(ARGS)

demo-olintserv: setup ## reserve two last hops, spread a stream between them, fill the hops, kill relays, settle
	@$(VENV)/bin/polder demo olintserv $(ARGS)

test: test-rust test-python ## all tests

test-rust: $(VENV)/.python
	cargo test --workspace --exclude polder-py --locked --quiet

test-python: setup
	$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

lint: setup ## format, lint, types, import rules
	cargo fmt --check
	cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
	$(PY) scripts/check_crates.py
	$(PY) scripts/check_locks.py
	$(VENV)/bin/ruff format --check python tests bench scripts
	$(VENV)/bin/ruff check python tests bench scripts
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: setup ## rewrite the code in the house style
	cargo fmt
	$(VENV)/bin/ruff format python tests bench scripts
	$(VENV)/bin/ruff check --fix python tests bench scripts

bench: setup ## Polder beside its peers in the same run; results in bench/results (ARGS='chains idle')
	@scripts/bench-packages
	$(PY) -m bench $(ARGS)

bench-quick: setup ## the same, shorter; results in build/bench-quick
	@scripts/bench-packages
	$(PY) -m bench --quick $(ARGS)

bench-long: setup ## those without peers, and the experiments with kills, rotations, revocations, upgrades, outsiders: hours
	$(PY) -m bench --long $(ARGS)

bench-hops: setup ## time to completion through 1, 4, 7 and 10 nodes (the paper's tables I and II)
	$(PY) -m bench.hops $(ARGS)

claims: setup ## every claim of every recorded result; exit status 3 while one does not hold
	@$(VENV)/bin/polder lab claims

fuzz: $(VENV)/.python ## mutate the seeds of every parser and of the whole front for a minute (ARGS='--seconds 600 front')
	cargo run --release --locked --quiet -p polder-fuzz --bin run -- $(or $(ARGS),--seconds 60)
	$(PY) -W ignore -m scripts.fuzz_messages --seconds $(or $(SECONDS_PYTHON),30)

fuzz-short: setup ## every fuzz target for some seconds each, a minute in all
	cargo run --locked --quiet -p polder-fuzz --bin run -- --seconds 40
	$(PY) -W ignore -m scripts.fuzz_messages --seconds 15

audit: setup ## known weaknesses of what we depend on: needs the network, cargo-deny and pip-audit
	cargo deny check
	pip-audit --require-hashes -r requirements.lock

soak: setup ## load, deaths, rotations, revocations, reloads, upgrades at once for half an hour (ARGS='--minutes 5'); exit status 3 on a leak
	$(PY) -m bench.soak $(ARGS)

docs: setup ## the documentation site, into build/docs: journeys, runbook, references made from the code
	$(PY) -m scripts.docs

lock: ## write the lock file anew
	$(VENV)/bin/python -m pip install -q uv
	$(VENV)/bin/uv pip compile -q --upgrade --generate-hashes --extra lab --extra dev --extra postgresql pyproject.toml -o requirements.lock

wheel: setup ## build the wheel
	$(VENV)/bin/maturin build --release --out build/wheels

clean: ## remove everything that was built
	rm -rf target build $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache python/polder/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
