# Verbs.  `make check test chaos` is what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TYPE ?= segmentation

.PHONY: help install dev demo test check chaos format bench protos clean

help:  ## say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"

# What is compiled lies in the source tree, and is made anew when its source changes.
KERNELS := hatch_build.py src/redis_consumer/processing/kernels/compiled.pyx

$(VENV)/.installed: $(VENV)/bin/pip pyproject.toml $(KERNELS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[all]"
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

install: $(VENV)/.installed  ## a virtual environment in .venv with every extra

dev: $(VENV)/.dev  ## the same with the tools of development

demo: install  ## find nuclei in simulated images, everything started and ended for you; TYPE=zip and so on for more
	$(BIN)/redis-consumer demo --type $(TYPE)

test: dev  ## all tests here; unit tests and exams on the oldest and newest Python too
	$(BIN)/pytest -n 2 --dist loadfile
	sh tests/other-pythons.sh

check: dev  ## lint, types, layers, docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/check.py

chaos: dev  ## hurt the whole system at random and prove that nothing is lost; LONG=1 for half an hour of it
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only "$(ONLY)")

format: dev  ## let ruff write
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install  ## print most of the tables in docs/ and write benchmarks/results/bench.json; FULL=1 measures everything
	FULL=$(FULL) $(BIN)/python benchmarks/run.py

protos: .venv-protos  ## compile src/redis_consumer/wire/serving.proto
	cd src && ../.venv-protos/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. redis_consumer/wire/serving.proto

# Pinned, and apart from .venv: generated code needs a protobuf at least as new as its compiler (here 5.29).
.venv-protos:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check "grpcio-tools==1.69.0" setuptools

clean:  ## remove what was built
	rm -rf $(VENV) .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
