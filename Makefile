# Two commands matter from a clean clone: `make demo` and `make test`.
# Everything lands in .venv; nothing outside this folder is touched, but for Chromium,
# PostgreSQL, curl and openssl, which `make test` installs through apt-get where it may.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Tests wait more than they work: twice as many processes as small machines have cores.
WORKERS ?= 4
# A file's tests share what they start; files of slow tests come first, by their folder.
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test browsers quick chaos lint format docs site snippet snippet-mutation bench clean

help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## run sandbox, sample site and relay; ONCE=1: sign up three times, then end
	@$(BIN)/python -m relay demo $(if $(ONCE),--once)

test: $(READY) ## run all tests, in four processes; ARGS="-k hook" goes to pytest
	@.ci/commands
	@.ci/chromium
	@.ci/servers
	@.ci/postgres
	@.ci/faketime
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q $(PARALLEL) $(ARGS)

browsers: $(READY) ## run the browser tests in Chromium, Firefox and WebKit, each; writes docs/browsers.md
	@.ci/commands
	@.ci/chromium
	@.ci/browsers
	@.ci/servers
	@set -e; for engine in chromium firefox webkit; do \
		echo "== $$engine =="; \
		ENGINE=$$engine $(BIN)/python -m pytest -q $(PARALLEL) $(ARGS) tests/browser; \
	done
	@$(BIN)/python -m tests.support.lifetimes

quick: $(READY) ## run the tests that start no other program
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --hypothesis-profile=quick \
		-m "not (process or postgres or browser or slow)" $(ARGS) \
		tests/unit tests/integration

chaos: $(READY) ## run relays through faults at random; ARGS="--scenario proof --leads 20000"
	@.ci/postgres
	@.ci/faketime
	@$(BIN)/python -m tests.chaos $(ARGS)

lint: $(READY) ## check style and types
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy

format: $(READY) ## put the code into shape
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/ruff format --quiet

docs: $(READY) ## write docs/settings.md and relay.example.toml anew from the table
	@$(BIN)/python -m relay.config.reference

site: $(READY) ## build the docs as a site into build/site; any warning ends it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "build/site/index.html; with its search: $(BIN)/python -m http.server -d build/site"

snippet: ## build static/snippet/dist from src anew (needs node and npm)
	@rm -rf build/snippet && mkdir -p build/snippet
	@cp -R static/snippet/src static/snippet/*.mjs static/snippet/*.json build/snippet
	@cd build/snippet && npm ci --silent --no-audit --no-fund && \
		node build.mjs ../../static/snippet/dist

snippet-mutation: $(READY) ## run the snippet's tests without it: each must fail
	@.ci/chromium
	@.ci/snippet-mutation

bench: $(READY) ## measure speed (needs wrk)
	@set -e; for file in bench/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file; done

clean: ## remove what was made here
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml .ci/venv
	@.ci/venv "$(PYTHON)"
	@touch $@
