# Every target sets up what it needs. Nothing but Python 3.11 to 3.13, make and git has to be there before.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo ui test unit integration faults e2e browser check bench soak mutants docs lock clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) .env ## Send 100 sample messages through the embedded services and explain the results.
	@$(BIN)/loginetl demo

ui: $(READY) .env ## Open the Dagster UI with its daemon on http://127.0.0.1:3000, the sensor on.
	$(BIN)/loginetl ui

# dg and dagster commands read it here, so they show the history of `make demo` and `make ui`. Yours stays as it is.
.env:
	@echo "$(HISTORY)" > $@

HISTORY = DAGSTER_HOME=$(abspath $(or $(LOGINETL_HOME),.loginetl))/dagster

test: check browser ## Run every check and every test; print the branch coverage of the whole run.
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

unit: $(READY) ## Run the tests of the rules, which need no service: some seconds.
	$(BIN)/pytest $(TESTS)/unit --numprocesses logical --maxprocesses 4

integration: $(READY) ## Run the tests of the parts on a real Postgres and a real SQS server.
	$(BIN)/pytest $(TESTS)/integration $(PARALLEL)

faults: $(READY) ## Run the tests in which calls fail and processes are killed.
	$(BIN)/pytest $(TESTS)/faults $(PARALLEL)

e2e: browser ## Run the tests of the installed commands and of the Dagster UI.
	$(BIN)/pytest $(TESTS)/end_to_end $(PARALLEL)

TESTS := loginetl_assets_tests
# The tests wait much, for leases, locks and servers that start: with four processes two cores were idle at times.
PROCESSES ?= 6
PARALLEL := --numprocesses $(PROCESSES) --dist loadgroup

browser: $(READY) # Installs Chromium where nobody has to be asked, or names the command.
	@$(BIN)/python -m $(TESTS).support.browser

check: $(READY) ## Lint, types, the rule which way imports run, and tables against migrations.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m loginetl_assets_tests.support.migrations check

bench: $(READY) ## Measure every target beside the other tools, for docs/benchmarks.md (35 minutes; Linux, Node.js 20.6).
	@command -v npm >/dev/null || { echo "npm is not installed: install Node.js 20.6 or newer with npm" >&2; exit 1; }
	npm ci --prefix bench --no-fund --no-audit
	$(BIN)/python -m bench --save

soak: $(READY) ## Send messages for MINUTES (20) while 8 runs at a time are killed at random; report in bench/results/.
	$(BIN)/python -m loginetl_assets_tests.support.soak --minutes $(MINUTES) --report bench/results

MINUTES ?= 20

mutants: $(READY) ## Change the rules of logins and ledger one by one, and list the changes that no test notices.
	rm -rf mutants
	$(BIN)/mutmut run
	$(BIN)/mutmut results
	$(BIN)/python -m loginetl_assets_tests.support.mutants

docs: $(READY) ## Write the documents' tables of fields, reasons, settings and benchmarks.
	$(BIN)/python -m loginetl_assets_tests.support.settings
	$(BIN)/python -m loginetl_assets_tests.support.documents
	$(BIN)/python -m bench.documents

lock: $(READY) ## Choose new versions for every dependency and write the lock files (needs uv).
	uv pip compile $(LOCK) --upgrade --extra local --group dev pyproject.toml -o requirements-dev.txt
	uv pip compile $(LOCK) --constraint requirements-dev.txt pyproject.toml -o requirements.txt
	echo hatchling | uv pip compile $(LOCK) --constraint requirements-dev.txt - -o requirements-build.txt
	printf 'boto3\npsycopg[binary]\n' | uv pip compile $(LOCK) --constraint requirements-dev.txt - -o bench/peers/scripts.txt
	printf 'boto3\ndlt[postgres]\n' | uv pip compile $(LOCK) --upgrade --constraint requirements-dev.txt - -o bench/peers/dlt.txt
	echo mq-bridge | uv pip compile $(LOCK) --upgrade - -o bench/peers/mq-bridge.txt
	echo omniload | uv pip compile $(LOCK) --upgrade - -o bench/peers/omniload.txt

LOCK := --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes --no-header --no-annotate

clean: ## Stop the embedded services; remove their data and the virtual environment.
	[ ! -x $(BIN)/loginetl ] || $(BIN)/loginetl down
	[ "$$(cat .env 2>/dev/null)" != "$(HISTORY)" ] || rm .env
	rm -rf .loginetl .coverage* mutants $(VENV) node_modules bench/node_modules bench/peers/.venv

# The lock files name every package with its hash, hence --no-deps: pip has nothing left to resolve. --no-compile: Python
# compiles what it imports, and most of their modules never are.
$(READY): requirements-dev.txt pyproject.toml
	@python=$$(for p in "$$PYTHON" python3.11 python3.12 python3.13 python3; do \
	  [ -n "$$p" ] && "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	  && echo "$$p" && break; done); \
	[ -n "$$python" ] || { echo "loginetl needs Python 3.11 to 3.13: install it, or set PYTHON to one" >&2; exit 1; }; \
	[ -x $(BIN)/python ] || "$$python" -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
