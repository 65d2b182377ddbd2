# Every target makes what it needs: the virtual environment from requirements.lock, Debian packages where root can.
.PHONY: help demo test test-slow test-pynq test-peers test-gpu soak lint bench area ci lock lock-pynq lock-peers lock-gpu \
  lock-node deb clean debian peers gpu test-faults test-system test-boot test-arm64
.DEFAULT_GOAL := help
PYTHON ?= python3
SECONDS ?= 25
KILLS ?= 1000
ARCH ?= amd64
BIN := .venv/bin
STAMP := .venv/.installed
PYNQ_BIN := .venv-pynq/bin
PYNQ_STAMP := .venv-pynq/.installed
PEERS_BIN := .venv-peers/bin
PEERS_STAMP := .venv-peers/.installed
GPU_BIN := .venv-gpu/bin
GPU_STAMP := .venv-gpu/.installed

help:            ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(STAMP): requirements.lock pyproject.toml
	@echo "== creating .venv from requirements.lock (hash-checked)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@echo "== installing overlaid itself, editable"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# PYNQ needs numpy 1.26, so it has an environment of its own. From / because uv would take the constraints in
# pyproject.toml, which have no hashes, for requirements.
$(PYNQ_STAMP): requirements-pynq.lock pyproject.toml | $(STAMP)
	@echo "== creating .venv-pynq from requirements-pynq.lock (hash-checked)"
	@test -x $(PYNQ_BIN)/python || $(PYTHON) -m venv .venv-pynq
	@cd / && $(CURDIR)/$(BIN)/uv pip install --quiet --python $(CURDIR)/$(PYNQ_BIN)/python --require-hashes \
	  -r $(CURDIR)/requirements-pynq.lock
	@$(BIN)/uv pip install --quiet --python $(PYNQ_BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

# Triton, MLServer and KServe's client need other versions of numpy and protobuf. From / for PYNQ's reason.
$(PEERS_STAMP): requirements-peers.lock | $(STAMP)
	@echo "== creating .venv-peers from requirements-peers.lock (hash-checked)"
	@test -x $(PEERS_BIN)/python || $(PYTHON) -m venv .venv-peers
	@cd / && $(CURDIR)/$(BIN)/uv pip install --quiet --python $(CURDIR)/$(PEERS_BIN)/python --require-hashes \
	  -r $(CURDIR)/requirements-peers.lock
	@touch $@

# OpenVINO's onnxruntime takes the place of the other one. From / for PYNQ's reason.
$(GPU_STAMP): requirements-gpu.lock pyproject.toml | $(STAMP)
	@echo "== creating .venv-gpu from requirements-gpu.lock (hash-checked)"
	@test -x $(GPU_BIN)/python || $(PYTHON) -m venv .venv-gpu
	@cd / && $(CURDIR)/$(BIN)/uv pip install --quiet --python $(CURDIR)/$(GPU_BIN)/python --require-hashes \
	  -r $(CURDIR)/requirements-gpu.lock
	@$(BIN)/uv pip install --quiet --python $(GPU_BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

gpu: $(GPU_STAMP)  ## an environment with Intel's OpenCL and OpenVINO, for test-gpu and the bench (1.3 GB)

peers: $(PEERS_STAMP)  ## Triton and MLServer, which the bench then measures too (540 MB)

debian:
	@tests/debian-packages mosquitto mosquitto-clients systemd openssl g++ tcl nginx caddy chromium zsh fish groff-base

demo: $(STAMP)   ## a broker, an operator, nodes and the FPGA overlay on this machine: deploy, serve, break, recover
	@$(BIN)/python -m tests.demo

test: $(STAMP) debian  ## unit, contract and system tests (minutes)
	@echo "== tests"
	@$(BIN)/python -m pytest -n 3 --dist loadfile

test-slow: $(STAMP)  ## what takes minutes: the planner against HiGHS on 10,000 instances
	@echo "== slow tests"
	@$(BIN)/python -m pytest -n 2 -m slow

test-pynq: $(PYNQ_STAMP)  ## unmodified PYNQ drives the simulated FPGA
	@echo "== tests of the PYNQ path"
	@$(PYNQ_BIN)/python -m pytest tests/pynq

test-gpu: $(GPU_STAMP)  ## overlay programs on Intel's OpenCL; OpenVINO's execution provider
	@echo "== tests on Intel's OpenCL and OpenVINO"
	@$(GPU_BIN)/python -m pytest tests/gpu

# Triton needs a libpython: of its own Python, or Debian's.
test-peers: $(STAMP) peers  ## the same answers as Triton; unmodified clients of Triton and KServe
	-@tests/debian-packages libpython$$($(PEERS_BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	@echo "== tests against peers"
	@$(BIN)/python -m pytest tests/peers

test-faults: $(STAMP) debian  ## every fault in every phase of a deployment, and KILLS (1000) at random instants
	@echo "== faults"
	@$(BIN)/python -m tests.faults --kills $(KILLS)

# $(call boot,PREPARATION,PYTEST'S ARGUMENTS): in machines of the tests' own, where root can boot them.
boot = reason="$$($(BIN)/python -m tests.nspawn)"; \
  if [ -n "$$reason" ]; then echo "== skipped: $$reason"; else $(1) && $(BIN)/python -m pytest $(2); fi
BOOTING := debootstrap systemd-container iproute2 e2fsprogs mosquitto mosquitto-clients

test-system: $(STAMP)  ## the Debian package in a Debian that boots: watchdog, kill -9, power cuts, upgrade, purge (minutes)
	@-tests/debian-packages $(BOOTING)
	@echo "== tests of the package in a booted Debian"
	@$(call boot,$(MAKE) --no-print-directory deb && $(MAKE) --no-print-directory deb \
	  VERSION=$$($(BIN)/python -m tests.nspawn.package),tests/nspawn --ignore=tests/nspawn/test_arm.py -m '')

test-boot: $(STAMP)  ## the part of test-system that ci runs
	@-tests/debian-packages $(BOOTING)
	@echo "== tests of the package in a booted Debian, without the slow ones"
	@$(call boot,$(MAKE) --no-print-directory deb,tests/nspawn --ignore=tests/nspawn/test_arm.py)

test-arm64: $(STAMP)  ## the package on arm64, the core and the functional overlay on armhf too, under qemu (half an hour)
	@-tests/debian-packages $(BOOTING) qemu-user-static
	@echo "== tests on emulated arm64 and armhf"
	@$(call boot,$(MAKE) --no-print-directory deb ARCH=arm64,tests/nspawn/test_arm.py)

soak: $(STAMP) debian  ## a daemon under mixed load, crashes and changes for SECONDS (25); nothing wrong, nothing leaks
	@echo "== soak"
	@$(BIN)/python -m tests.soak --seconds $(SECONDS)

lint: $(STAMP)   ## ruff, mypy --strict, import rules
	@echo "== ruff"; $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy"; $(BIN)/mypy
	@echo "== import rules"; $(BIN)/lint-imports --no-logo

bench: $(STAMP) debian  ## figures against their targets, as a table
	@$(BIN)/python -m tests.bench

deb: $(STAMP)    ## the Debian 12 package, build/deb/overlaid_VERSION_ARCH.deb (ARCH=amd64 or arm64; VERSION=)
	@$(BIN)/python -m systemd.deb.build --arch $(ARCH) $(if $(VERSION),--version $(VERSION))

area: $(STAMP)   ## LUTs, DSPs and block RAMs of the overlays on an xc7z020, by Yosys, into a report (minutes)
	@tests/debian-packages yosys
	@$(BIN)/python -m bitstreams.area

ci: lint test test-pynq test-gpu test-peers test-boot soak  ## what .ci/run runs

lock: $(STAMP)   ## remake requirements.lock from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.10 --generate-hashes \
	  --extra onnx --extra litert --extra opencl --extra fleet --extra plot --extra sim --extra rtl \
	  --group dev --no-header --no-annotate --quiet --output-file requirements.lock

lock-pynq: $(STAMP)  ## remake requirements-pynq.lock
	@printf '%s\n' pytest hypothesis 'onnx>=1.16' | $(BIN)/uv pip compile pyproject.toml - --universal --python-version 3.10 \
	  --generate-hashes --extra fpga --extra rtl --no-header --no-annotate --quiet \
	  --output-file requirements-pynq.lock

lock-peers: $(STAMP)  ## remake requirements-peers.lock
	@$(BIN)/uv pip compile --group pyproject.toml:peers --universal --python-version 3.10 --generate-hashes --no-header \
	  --no-annotate --quiet --output-file requirements-peers.lock

lock-gpu: $(STAMP)  ## remake requirements-gpu.lock
	@$(BIN)/uv pip compile pyproject.toml --group pyproject.toml:gpu --universal --python-version 3.11 --generate-hashes \
	  --extra opencl --no-header --no-annotate --quiet --output-file requirements-gpu.lock

lock-node: $(STAMP)  ## remake requirements-node.lock, what the Debian package brings
	@$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	  --extra onnx --extra litert --extra npu --extra opencl --extra sim --no-header --no-annotate --quiet \
	  --output-file requirements-node.lock

clean:           ## remove the virtual environment and caches
	rm -rf .venv .venv-pynq .venv-peers .venv-gpu .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
