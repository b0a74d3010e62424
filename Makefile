# Each target makes its own environment in .venv from the hashed lock files; nothing else has to be installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: docs picture demo test campaigns findings hosts crash check format lock bench openapi pricing prices-check conformance bundle \
	audit sbom soak clean

demo: $(VENV)/.runtime
	$(BIN)/cycles-budget-mcp demo

# As many workers as processors; PYTEST_ADDOPTS may say otherwise.
test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# Minutes: random lives, kills, damaged files and odd input; and the tests that hold the program to times.
campaigns: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal tests/campaigns
	ASSERT_TIMES=1 $(BIN)/python -m pytest tests/e2e/test_ending.py tests/e2e/test_network.py \
		tests/server/authority/test_processes.py -k "ends or ended or end or stopped"

# Claude Code itself, some 400 MB, with scripts in place of its model and of the sub-agent's.
hosts: $(VENV)/.dev $(VENV)/hosts/.ready
	CLAUDE_CODE="$$(echo $(VENV)/hosts/node_modules/@anthropic-ai/claude-code-*/claude)" $(BIN)/python -m pytest tests/hosts

# Many minutes: processes on one ledger, and servers with delegations, killed at thousands of points; and power failures.
crash: $(VENV)/.dev
	CRASH_POINTS=10000 POWER_IMAGES=10000 CAMPAIGN_KILLS=200 SERVER_KILLS=600 $(BIN)/python -m pytest -s \
		tests/campaigns/test_crash.py tests/campaigns/test_power_loss.py tests/campaigns/test_killed_anywhere.py \
		tests/campaigns/test_killed_servers.py

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python tests/voice.py server tools
	$(BIN)/mypy
	$(BIN)/mypy --config-file pyproject.toml tests benchmarks examples
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.runtime
	$(BIN)/python -m benchmarks --json $(VENV)/bench --markdown docs/benchmarks.md

# The exit code is 1 where memory, file handles, files or latencies have grown beyond their bounds.
SOAK_SECONDS ?= 600
soak: $(VENV)/.runtime
	$(BIN)/python benchmarks/soak.py --seconds $(SOAK_SECONDS)

# Each installs public packages of fixed versions in a temporary folder. FINDINGS='findings/cycles-*.sh' runs some of them.
FINDINGS ?= findings/*.sh
findings:
	@changed=; for script in $(FINDINGS); do \
		code=0; said=$$(bash "$$script" 2>&1) || code=$$?; \
		case $$code in \
			0) echo "pass        $$script";; \
			2) echo "cannot run  $$script"; echo "$$said";; \
			*) echo "changed     $$script"; echo "$$said"; changed="$$changed $$script";; \
		esac; \
	done; \
	if [ -n "$$changed" ]; then echo "Changed:$$changed"; exit 1; fi

# The protocol's OpenAPI document is not part of this project: DOCUMENT says where it is.
openapi: $(VENV)/.runtime $(VENV)/openapi/.ready
	$(VENV)/openapi/bin/python tests/openapi/fuzz.py $(DOCUMENT)

# The table at the end of the document; what is above its mark is written by hand.
pricing: $(VENV)/.runtime
	{ sed '/^<!-- make pricing/q' docs/pricing.md && echo \
		&& env -u BUDGET_PRICES $(BIN)/cycles-budget-mcp prices --markdown; } > $(VENV)/pricing.md
	mv $(VENV)/pricing.md docs/pricing.md

prices-check: $(VENV)/.runtime $(VENV)/witness/.ready
	$(BIN)/python tests/prices/witness.py $(VENV)/witness

# MARKDOWN=docs/conformance.md writes the results down; without it they are compared with what is written there.
conformance: $(VENV)/.runtime $(VENV)/conformance/.ready
	PYTHONPATH=tests $(BIN)/python -m conformance.run $(VENV)/conformance $(if $(MARKDOWN),--markdown $(MARKDOWN))

# The pages of docs/ as a site in .venv/site; a link or an anchor that leads nowhere is an error.
docs: $(VENV)/docs/.ready
	NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/mkdocs build --strict --quiet

# The picture in the README, from the real output of the demonstration.
picture: $(VENV)/.runtime
	$(BIN)/python bundle/picture.py docs/demo.svg

# Validated by the packer of the format's makers, where Node is here.
bundle: $(VENV)/.runtime
	$(BIN)/python bundle/build.py dist/cycles-budget-mcp.mcpb
	@if command -v npx >/dev/null; then npx --yes @anthropic-ai/mcpb@2.1.2 validate bundle/manifest.json; \
		else echo 'Node is not here: the manifest was not validated.'; fi

# Without --strict, a service that knows none of the packages would be a success that has looked at nothing.
LOCKS ?= requirements.lock requirements-dev.lock requirements-openapi.lock requirements-supply.lock
audit: $(VENV)/supply/.ready
	@for lock in $(LOCKS); do \
		echo "== $$lock"; \
		$(VENV)/supply/bin/pip-audit --strict --progress-spinner off --require-hashes --disable-pip --requirement $$lock \
			|| { echo "$$lock did not pass: a vulnerability above, or something that could not be looked up."; exit 1; }; \
	done

# What requirements.lock installs on this platform, with licences and who needs what; the same bytes every time.
sbom: $(VENV)/supply/.ready requirements.lock
	rm -rf $(VENV)/deployed
	$(PYTHON) -m venv --without-pip $(VENV)/deployed
	$(PIP) --python $(VENV)/deployed/bin/python install --require-hashes --requirement requirements.lock
	mkdir -p dist
	$(VENV)/supply/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/sbom.cdx.json $(VENV)/deployed/bin/python

lock: $(VENV)/.dev
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --group build \
		--python-version 3.11 --output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --group dev \
		--constraint requirements.lock --python-version 3.11 --output-file requirements-dev.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --group openapi \
		--python-version 3.11 --output-file requirements-openapi.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --group docs \
		--python-version 3.11 --output-file requirements-docs.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --group supply \
		--python-version 3.11 --output-file requirements-supply.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-deps --group witness \
		--python-version 3.11 --output-file requirements-witness.lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(PIP) install --require-hashes --requirement requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	$(PIP) install --require-hashes --requirement requirements-dev.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.runtime

$(VENV)/openapi/.ready: requirements-openapi.lock | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/openapi
	$(VENV)/openapi/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes --requirement requirements-openapi.lock
	@touch $@

$(VENV)/docs/.ready: requirements-docs.lock | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/docs
	$(VENV)/docs/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes --requirement requirements-docs.lock
	@touch $@

$(VENV)/supply/.ready: requirements-supply.lock | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/supply
	$(VENV)/supply/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes --requirement requirements-supply.lock
	@touch $@

# The program for this platform is a package of its own, which needs neither Node nor an install script to run.
$(VENV)/hosts/.ready: tests/hosts/package.json tests/hosts/package-lock.json | $(VENV)/bin/python
	@command -v npm >/dev/null || { echo 'npm is needed to install the hosts.'; exit 1; }
	mkdir -p $(VENV)/hosts
	cp tests/hosts/package.json tests/hosts/package-lock.json $(VENV)/hosts
	npm ci --prefix $(VENV)/hosts --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# Their archives are only read: nothing of them is installed or run, and any platform's archive holds the same data.
$(VENV)/witness/.ready: requirements-witness.lock | $(VENV)/bin/python
	rm -rf $(VENV)/witness
	$(PIP) download --require-hashes --no-deps --only-binary :all: --platform manylinux_2_28_x86_64 \
		--python-version 3.11 --requirement requirements-witness.lock --dest $(VENV)/witness
	@touch $@

LOCKED := $(addprefix tests/conformance/,package.json package-lock.json .npmrc)

$(VENV)/conformance/.ready: $(LOCKED) | $(VENV)/bin/python
	@command -v npm >/dev/null || { echo 'npm is needed, which comes with Node.js: install it, and try again.'; exit 1; }
	rm -rf $(VENV)/conformance
	mkdir $(VENV)/conformance
	cp $(LOCKED) $(VENV)/conformance
	cd $(VENV)/conformance && npm ci
	@touch $@
