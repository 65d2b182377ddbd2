# Every target makes what it needs: the virtual environment from requirements.lock, Debian packages where root can.
.PHONY: help demo test lint bench ci lock clean debian
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

help:            ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(STAMP): requirements.lock pyproject.toml
	@echo "== creating .venv from requirements.lock (hash-checked)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@echo "== installing overlaid itself, editable"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

debian:
	@tests/debian-packages mosquitto mosquitto-clients systemd openssl

demo: $(STAMP)   ## a broker, an operator and a node on this machine: deploy, serve, break, recover
	@$(BIN)/python -m tests.demo

test: $(STAMP) debian  ## unit, contract and system tests (minutes)
	@echo "== tests"
	@$(BIN)/python -m pytest

lint: $(STAMP)   ## ruff, mypy --strict, import rules
	@echo "== ruff"; $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy"; $(BIN)/mypy
	@echo "== import rules"; $(BIN)/lint-imports --no-logo

bench: $(STAMP) debian  ## figures against their targets, as a table
	@$(BIN)/python -m tests.bench

ci: lint test    ## what .ci/run runs

lock: $(STAMP)   ## remake requirements.lock from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.10 --generate-hashes \
	  --extra onnx --extra litert --extra fleet --extra plot --extra sim --extra rtl \
	  --group dev --no-header --no-annotate --quiet --output-file requirements.lock

clean:           ## remove the virtual environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
