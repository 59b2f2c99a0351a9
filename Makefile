# Everything happens inside this folder. uv is used when it is there; plain pip does the same.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_UI := $(VENV)/.ready-ui
READY_BENCH := $(VENV)/.ready-bench
READY_CLUSTER := $(VENV)/.ready-cluster
CLIENTS := .venv-clients
PYPI_CLIENTS := salesforce-agentforce agentforce-probe
# More than the cores of a small machine, as tests wait about half of their time.
TEST_WORKERS ?= 4
OPERATOR_PAGES := docs/operators.md docs/batch.md docs/how-to/agent-tests.md docs/how-to/records.md
# Where it is set, each process compiles what it imports, and pytest rewrites each test again.
export PYTHONDONTWRITEBYTECODE :=
export AIRFLOW__CORE__LOAD_EXAMPLES := False
export AIRFLOW__USAGE_DATA_COLLECTION__ENABLED := False

.PHONY: help install demo test coverage test-airflow test-cluster test-clients test-ui screenshots docs docs-serve matrix soak mutate lint types unit wheel bench emulator cluster airflow clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(READY) ## Set up .venv

$(READY): pyproject.toml
	@if command -v uv >/dev/null; then \
	  uv venv -q --allow-existing --python "$(PYTHON)" $(VENV) && \
	  uv pip install -q --python $(BIN)/python -e . --group dev; \
	else \
	  $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q 'pip>=25.1' && \
	  $(BIN)/python -m pip install -q -e . --group dev; \
	fi
	@touch $@

# Where a package that is installed is too new for one of these, pip searches for half an hour.
$(READY_UI) $(READY_BENCH) $(READY_CLUSTER): $(READY)
	@$(BIN)/uv pip install -q --python $(BIN)/python -e . --group dev --group $(@:$(READY)-%=%)
	@touch $@

demo: $(READY) ## Run the example Dags against the emulator and show the conversations
	@$(BIN)/python scripts/demo.py

test: lint ## Check style, types, tests, docs and wheel
	+$(MAKE) -j2 unit types docs wheel

lint: $(READY) ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/retry_table.py --check docs/delivery.md
	$(BIN)/python scripts/errors_table.py --check docs/errors.md
	$(BIN)/python scripts/arguments_table.py --check $(OPERATOR_PAGES)
	$(BIN)/zizmor -q --offline .github

types: $(READY) ## Check types
	$(BIN)/mypy

unit: $(READY) ## Run the tests, with the example Dags
	$(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist worksteal $(PYTEST_ARGS) $(if $(CI),--cov --cov-report=term)

coverage: ## Run the tests, and measure branch coverage (part of CI)
	+$(MAKE) unit CI=1

test-airflow: $(READY) ## Kill, stop and clear tasks of a running Airflow (part of CI)
	AGENTFORCE_PROCESS_TESTS=1 $(BIN)/python -m pytest tests/processes -q $(PYTEST_ARGS)

test-cluster: $(READY_CLUSTER) ## Break a cluster of two Celery workers (part of CI; needs PostgreSQL, Redis, libfaketime)
	AGENTFORCE_CLUSTER_TESTS=1 $(BIN)/python -m pytest tests/cluster tests/limits -q $(PYTEST_ARGS)

test-clients: $(READY) $(CLIENTS)/.ready ## Drive the emulator with the official npm client and others (needs npm)
	AGENTFORCE_CLIENT_TESTS=1 $(BIN)/python -m pytest tests/clients -q $(PYTEST_ARGS)

# The versions are those of the lock files; Node.js 22, which the npm client needs, comes from npm too.
$(CLIENTS)/.ready: tests/clients/package.json tests/clients/package-lock.json $(PYPI_CLIENTS:%=tests/clients/%.txt)
	@command -v npm >/dev/null || { echo "make test-clients needs npm, which comes with Node.js." >&2; exit 1; }
	@mkdir -p $(CLIENTS)/npm
	@cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)/npm
	npm ci --prefix $(CLIENTS)/npm --no-audit --no-fund --loglevel=error
	@for client in $(PYPI_CLIENTS); do \
	  $(BIN)/python -m venv $(CLIENTS)/$$client && \
	  $(CLIENTS)/$$client/bin/python -m pip install -q --require-hashes -r tests/clients/$$client.txt || exit 1; \
	done
	@touch $@

docs: $(READY) ## Build the pages into build/docs; a warning or a broken link is an error
	$(BIN)/python -m sphinx -q -W --keep-going -E -b dirhtml docs build/docs

docs-serve: docs ## Build the pages and show them at http://127.0.0.1:8000
	$(BIN)/python -m http.server -b 127.0.0.1 -d build/docs 8000

test-ui: $(READY_UI) ## Use the connection form and the pages in a real browser (needs Chromium; part of CI)
	$(BIN)/python -m pytest tests/ui -q $(PYTEST_ARGS)

screenshots: $(READY_UI) ## Take the pictures of the docs again (needs Chromium)
	AGENTFORCE_SCREENSHOTS=1 $(BIN)/python -m pytest tests/ui -q

matrix: $(READY) ## Run the example Dags, border tests and lost replies on the Airflows and Pythons; writes docs/versions.md
	$(BIN)/nox -s smoke deliveries processes tests-3.13; status=$$?; $(BIN)/python scripts/versions_table.py && exit $$status

soak: $(READY) ## Try a thousand random histories of faults, kills and retries
	AGENTFORCE_SOAK=$${AGENTFORCE_SOAK:-1000} $(BIN)/python -m pytest tests/provider/test_state_machine.py tests/batch/test_histories.py -q --show-capture=no

mutate: $(READY) ## Flip every cell of the retry table and show that a test notices
	$(BIN)/python scripts/mutate_table.py

wheel: $(READY) ## Build the wheel and use it in a new environment
	$(BIN)/python scripts/check_wheel.py

bench: $(READY_BENCH) ## Measure against the goals; writes docs/benchmarks.md (ONLY=batch: just show that)
	$(BIN)/python benchmarks/run.py $(ONLY)

emulator: $(READY) ## Start the emulator and show its address
	$(BIN)/agentforce-emulator

cluster: $(READY_CLUSTER) ## Start a cluster with the example Dags, and the emulator, to click around (needs what test-cluster needs)
	$(BIN)/python scripts/cluster.py

airflow: $(READY) ## Start Airflow with the example Dags, and the emulator, to click around
	$(BIN)/python scripts/standalone.py

clean: ## Remove what these commands made
	rm -rf $(VENV) $(CLIENTS) .airflow* out build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis .nox
