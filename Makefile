# `make demo` runs the main job here; `make test` is what CI runs. uv comes from PyPI when it is absent.
.DEFAULT_GOAL := help
.PHONY: help demo install test test-all chaos soak mutants fuzz audit sbom lint fmt docs bench clean

UV := $(shell command -v uv || echo .uv/bin/uv)
PYTHON ?= python3
export UV_PYTHON_DOWNLOADS = never
export UV_PYTHON_PREFERENCE = only-system

help: ## Show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

demo: $(UV) ## Install what the main job needs, land sample syncs, feed them, build the marts
	@UV="$(UV)" scripts/demo

test: install lint ## Lint, types, import contract, all tests
	.venv/bin/pytest

test-all: install lint ## All of it longer and in every setting, 200 schedules of kills, ten minutes of load; about four hours
	.venv/bin/python -m tests.everything $(PARTS)

chaos: install ## Kill lakeward, its Postgres or its S3 server at N seeded points and compare with an oracle: make chaos SEED=1 N=60
	.venv/bin/python -m tests.chaos --seed $(or $(SEED),0) --n $(or $(N),60)

soak: install ## Ten minutes of a team's lake under load, then compared with an oracle: make soak MINUTES=2
	.venv/bin/python -m tests.soak --minutes $(or $(MINUTES),10)

mutants: install ## Break the engine in one place at a time and see a test fail for each
	.venv/bin/python -m tests.mutants

fuzz: $(UV) ## Fuzz every parser, guided by coverage, SECONDS=60 each (Linux on x86-64)
	$(UV) run --locked --quiet --all-extras --group fuzz python -m tests.fuzz --seconds $(or $(SECONDS),60)

audit: install ## Is everything pinned by its hash, and is any of it known to be vulnerable? Needs pypi.org
	.venv/bin/pytest -q -n0 tests/unit/test_lock.py
	$(UV) export --locked --quiet --all-extras --no-emit-project --format requirements.txt --output-file .uv/audit.txt
	$(UV) tool run --quiet --from "pip-audit>=2.10" pip-audit --strict --disable-pip --require-hashes -r .uv/audit.txt

sbom: $(UV) ## Write sbom.json: what is installed for lakeward, as CycloneDX has it
	$(UV) export --locked --quiet --all-extras --no-dev --format cyclonedx1.5 --output-file sbom.json

lint: install ## Ruff, mypy strict, the import contract
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(UV) lock --check --quiet

install: $(UV)
	@$(UV) sync --locked --quiet --all-extras --compile-bytecode
	@.venv/bin/python -m compileall -q src

fmt: install ## Format the code
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

docs: install ## Write the generated reference pages again
	.venv/bin/python docs/generate.py

bench: install ## Measure the feed against one raw DuckDB statement and against the seed's way
	.venv/bin/python benchmarks/run.py

clean: ## Remove the lake's local state and everything built; landed samples too
	@if [ -L .lake/catalog ]; then rm -rf "$$(dirname "$$(readlink .lake/catalog)")"; fi
	rm -rf .lake orchestration/target orchestration/logs .venv .uv

.uv/bin/uv:
	@$(PYTHON) -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check "uv>=0.8"
