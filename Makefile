# GLM-Crush. `make` lists the targets; `make run` and `make test` need Python 3.11+ with its headers and a C++ compiler.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ORACLE ?= $(BIN)/python
MODEL ?= smollm2:135m
HOST ?= 127.0.0.1
PORT ?= 4600
ARGS ?=
SANITIZER ?= address

.DEFAULT_GOAL := help
.PHONY: proto help setup run test check format bench conformance conformance-lock docs native native-sanitize stub oracle lock clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev native  ## environment for development (.venv, dev tools) and the native core

run: $(VENV)/.run native  ## fetch the default model, pack it and serve it on port 4600 (MODEL=, PORT=)
	@$(BIN)/glm pull $(MODEL)
	@$(BIN)/glm serve $(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

test: $(VENV)/.dev native  ## all tests (no network, no PyTorch); ARGS="-k name" to choose
	@scripts/install_test_tools.sh
	@$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev native  ## ruff, mypy --strict, import layers, file sizes, symbols of the native core
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_file_sizes.py
	$(BIN)/python scripts/check_isa_symbols.py

format: $(VENV)/.dev  ## rewrite the sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.run native  ## the figures, each beside its peers (sets the peers up first; takes an hour)
	$(BIN)/python benchmarks/peers/setup.py llama openvino models
	$(BIN)/python benchmarks/run_all.py $(ARGS)

conformance: $(VENV)/.dev native  ## real clients and public suites against real servers; writes docs/conformance.md
	PYTHONPATH=src:. $(BIN)/python conformance/run.py $(ARGS)

docs: $(VENV)/.dev native  ## write the generated parts of the documentation
	$(BIN)/python scripts/make_docs.py

# The extension is built in place, beside the Python sources; only what changed is compiled again.
native: $(VENV)/.run  ## build the native core in place
	@test -f build/native/build.ninja || echo "building the native core: minutes, the first time"
	@test -f build/native/build.ninja || $(BIN)/cmake -S . -B build/native -G Ninja \
	    -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPython_EXECUTABLE=$(abspath $(BIN))/python > /dev/null
	@$(BIN)/cmake --build build/native -- --quiet

native-sanitize: $(VENV)/.dev  ## tests of the native core under sanitizers (SANITIZER=address, thread)
	$(BIN)/cmake -S . -B build/sanitize-$(SANITIZER) -G Ninja -DGLM_SANITIZE=$(SANITIZER) \
	    -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPython_EXECUTABLE=$(abspath $(BIN))/python > /dev/null
	$(BIN)/cmake --build build/sanitize-$(SANITIZER)
	LD_PRELOAD="$$(g++ -print-file-name=lib$(subst address,a,$(subst thread,t,$(SANITIZER)))san.so) $$(g++ -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=halt_on_error=1 $(BIN)/python -m pytest tests/kernels $(ARGS); \
	    status=$$?; touch native/src/bindings.cpp; $(BIN)/cmake --build build/native -- --quiet; exit $$status

stub: native  ## write the typed stub of the native core
	$(BIN)/python -m nanobind.stubgen -m glm_crush.kernels._native -o src/glm_crush/kernels/_native.pyi

proto: $(VENV)/.dev  ## write the message classes of the gRPC API from its .proto
	cd src && ../$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. glm_crush/serving/grpc/glm_crush.proto

oracle: native  ## compare the model families live with transformers (ORACLE= a Python with torch and transformers)
	@$(ORACLE) -c 'import torch, transformers' || { echo "install torch and transformers, or set ORACLE=" >&2; exit 1; }
	PYTHONPATH=src $(ORACLE) -m pytest tests/oracle -m oracle $(ARGS)

lock: $(VENV)/.dev  ## write the lock files from pyproject.toml
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --custom-compile-command "make lock" \
	    --python-version 3.11 --extra build pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --custom-compile-command "make lock" \
	    --python-version 3.11 --extra build --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

conformance-lock: $(VENV)/.dev  ## newest versions of the clients into the lock files of conformance/
	cd conformance && for name in clients llama_index; do ../$(BIN)/uv pip compile -q --universal --upgrade --generate-hashes \
	    --no-emit-index-url --custom-compile-command "make conformance-lock" --python-version 3.11 $$name.in -o $$name.lock; done
	cd conformance && npm update --package-lock-only

clean:  ## remove the builds (keeps .venv and the models)
	rm -rf build dist src/glm_crush/kernels/_native*.so

# One environment, two fillings: what running needs, and what development needs on top.
$(BIN)/python:
	@$(PYTHON) scripts/check_build.py
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing the packages of requirements.lock: a minute or more"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -C wheel.cmake=false -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@echo "installing the packages of requirements-dev.lock"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
