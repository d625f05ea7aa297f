# Everything runs in .venv, which is made on first use. Needs Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The versions that were tested together on this Python; without a file for it, the ranges of pyproject.toml.
VERSION     := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
CONSTRAINTS := $(wildcard constraints/py$(VERSION).txt)

.DEFAULT_GOAL := help

.PHONY: help
help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

.PHONY: quickstart
quickstart: $(VENV)/installed  ## Train a small GPT-2 on the text that Python itself carries, and let it write.
	$(BIN)/gpt2jax prepare pydoc --out data/pydoc --tokenizer bytes
	$(BIN)/gpt2jax train configs/quickstart.yaml

.PHONY: serve
serve: $(VENV)/installed-serve  ## Serve the quickstart's model on this machine.
	$(BIN)/gpt2jax serve --model runs/quickstart

.PHONY: test
test: $(VENV)/installed-dev  ## Run the tests.
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

.PHONY: notebooks
notebooks: $(VENV)/installed-dev  ## Execute the notebooks from top to bottom; nothing is written into them.
	$(BIN)/python -m tests.notebooks.execute

.PHONY: check
check: $(VENV)/installed-dev  ## Run ruff, mypy and shellcheck, and hold the launch manifests against their schemas.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck launch/*.sh .ci/run
	$(BIN)/python -m tests.launch.check_manifests

.PHONY: docs
docs: $(VENV)/installed-dev  ## Build the documentation's site into site/; a warning is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --config-file docs/site/mkdocs.yml

.PHONY: lock
lock:  ## Renew the tested versions for this Python: constraints/pyX.Y.txt.
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade '.[dev]'
	mkdir -p constraints
	.venv-lock/bin/python -m pip freeze --exclude gpt2jax | grep -E '^[A-Za-z0-9_.-]+==' > constraints/py$(VERSION).txt
	rm -rf .venv-lock

.PHONY: clean
clean:  ## Remove environments and caches; data/ and runs/ stay.
	rm -rf site .venv .venv-lock .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "gpt2jax needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml $(CONSTRAINTS)
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable .
	@touch $@

$(VENV)/installed-serve: $(VENV)/made pyproject.toml $(CONSTRAINTS)
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable '.[serve]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-dev: $(VENV)/made pyproject.toml $(CONSTRAINTS)
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable '.[dev]'
	@touch $@ $(VENV)/installed
