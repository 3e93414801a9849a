# Every target sets up what it needs from a bare Python ≥ 3.11 and can be run again at any time.
#
#   make demo       train a real model on handwritten digits
#   make demo-text  train a language model on the source of Python's standard library, two to three minutes
#   make test       the default test suite
#   make test-slow  the tests marked slow: many processes, large problems, whole grids; CI runs them too
#   make lint       format, lint, types, layers, spelling
#   make bench      measure the losses beside their peers (PEERS=cut-cross-entropy adds that one, with triton)
#   make performance  docs/performance.md and the README's tables, from the results of make bench
#   make sanitize   the kernels under AddressSanitizer and UBSan
#   make neon       the kernels for 64-bit Arm, cross-compiled, under UBSan in qemu
#   make docs       regenerate the measured tables in docs/
#   make notebooks  run the notebooks of examples/ and write their outputs into the files
#   make clean      remove the environment and caches (never runs/)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt $(wildcard native/*.* native/*/*.*)
# torch comes from the constraint, first, so that nothing else decides its version or build. Which build that is (for
# the CPU, or with CUDA) is a matter of pip's index; a torch of that version that is already in .venv stays.
PIP := PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip --disable-pip-version-check install --quiet
# One process per core of the smallest machine; each keeps torch to one thread, so that they do not fight.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: demo demo-text test test-slow lint format sanitize neon bench performance docs notebooks clean

demo: $(VENV)/.demo
	@echo "== xent train digits"
	$(BIN)/xent train digits

demo-text: $(VENV)/.demo
	@echo "== xent train language_model"
	$(BIN)/xent train language_model

test: $(VENV)/.dev
	@echo "== the default test suite (about 10 minutes on 2 cores)"
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.dev
	@echo "== the tests marked slow"
	$(PYTEST) -m slow

lint: $(VENV)/.dev
	@echo "== format, lint, types, layers, spelling"
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell src tests docs *.md

format: $(VENV)/.dev
	$(BIN)/ruff format src tests benchmarks examples
	$(BIN)/ruff check --fix src tests benchmarks examples

sanitize:
	cmake -S . -B build/sanitize -DXENT_SANITIZE=address,undefined
	cmake --build build/sanitize --parallel 2
	build/sanitize/kernel_driver
	tests/native/wide_instructions.sh build/sanitize

neon:
	@command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null || \
	  { echo "make neon needs aarch64-linux-gnu-g++ and qemu-aarch64: apt-get install g++-aarch64-linux-gnu qemu-user"; exit 1; }
	cmake -S . -B build/neon -DXENT_SANITIZE=undefined -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
	cmake --build build/neon --parallel 2
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/neon/kernel_driver 7

bench: $(VENV)/.bench
	@echo "== the losses beside their peers (some three hours on 2 quiet cores; Ctrl-C keeps what was measured)"
	@$(if $(PEERS),$(PIP) $(PEERS))
	$(BIN)/xent bench cross-entropy
	$(BIN)/xent bench linear

performance: $(VENV)/.bench
	$(BIN)/python -m xent.bench.pictures
	$(BIN)/python -m xent.bench.page

docs: $(VENV)/.dev
	$(BIN)/python -m tests.conformance.counts > docs/conformance.md

notebooks: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.examples.execution

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist

$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "xent needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "== making $(VENV) and installing torch"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml $(NATIVE)
	@echo "== installing xent: compiling its kernels takes a minute (without a C++20 compiler it installs without them)"
	@$(PIP) --editable '.[digits,report]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml $(NATIVE)
	@echo "== installing xent and the tools for development: compiling its kernels takes a minute"
	@$(PIP) --editable '.[dev]'
	@touch $(VENV)/.demo $@

$(VENV)/.bench: $(VENV)/.demo pyproject.toml
	@echo "== installing the peers (jax, optax) and what draws the picture"
	@$(PIP) --editable '.[bench]'
	@touch $@
