# Two commands are enough on a fresh machine with Python ≥ 3.11, pip, make and git: `make demo` and `make test`.
# Each makes .venv and installs what it needs, once.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint check thorough boundscheck nojit emulated slow bench mutants clean

help:
	@echo "make demo    train a classifier and FCN-32s, 16s, 8s on real digits; pictures and weights in runs/demo"
	@echo "make test    lint, types and the test suite (minutes)"
	@echo "make check   the slow profiles: thorough property tests, bounds checking, no JIT, emulated CUDA, slow tests"
	@echo "make bench   side by side with PyTorch, which it installs; a quarter of an hour; tables in runs/performance.md"
	@echo "make mutants changes the code in some 600 places and counts how many changes the tests notice (half an hour)"
	@echo "make clean   remove .venv and caches; runs/ stays"

.venv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "minifcn needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

# The stamps are older than pyproject.toml when what is to be installed may have changed.
.venv/demo.stamp: pyproject.toml | .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[demo]"
	touch $@

.venv/dev.stamp: pyproject.toml | .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

.venv/bench.stamp: pyproject.toml | .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[bench]"
	touch $@

demo: .venv/demo.stamp
	$(BIN)/minifcn demo

test: lint
	$(BIN)/pytest -n 2

lint: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

check: thorough boundscheck nojit emulated slow

thorough: .venv/dev.stamp
	MINIFCN_TEST_PROFILE=thorough $(BIN)/pytest -n 2

boundscheck: .venv/dev.stamp
	NUMBA_BOUNDSCHECK=1 $(BIN)/pytest -n 2 tests/kernels

# Not these: the register tile exists in compiled code only.
nojit: .venv/dev.stamp
	NUMBA_DISABLE_JIT=1 $(BIN)/pytest -n 2 tests/kernels --ignore tests/kernels/test_tile.py \
		--ignore tests/kernels/test_tile_assembly.py \
		--ignore tests/kernels/test_conv2d_algorithms.py --ignore tests/kernels/test_winograd.py \
		--ignore tests/kernels/test_bounds.py

# The CUDA kernels on the CPU, every access held against CUDA's rules, in four orders of threads. Skipped without g++.
emulated: .venv/dev.stamp
	for order in 0 1 2 3; do \
		MINIFCN_EMULATOR=check MINIFCN_TEST_ORDER=$$order $(BIN)/pytest -n 2 tests/kernels -k emulator || exit 1; \
	done

# The wheel, VGG16 and GoogLeNet whole, and the CUDA kernels without each of their barriers and guards in turn.
slow: .venv/dev.stamp
	$(BIN)/pytest -n 2 -m slow

.venv/mutants.stamp: pyproject.toml | .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[mutants]"
	touch $@

mutants: .venv/mutants.stamp
	$(BIN)/python tests/mutants/run.py engine
	$(BIN)/python tests/mutants/run.py kernels
	$(BIN)/python tests/mutants/run.py tile

bench: .venv/bench.stamp
	mkdir -p runs
	$(BIN)/python benchmarks/cpu.py --output runs/performance.md

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
