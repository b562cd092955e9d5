# Two commands on a fresh machine with Python 3.11 and make:
#   make demo    the main job on a real model (about 10 minutes on 2 cores, after installing)
#   make test    lint, types, layer contracts and tests
# Both create .venv once and reuse it; the rest are studies and figures that take longer.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

TEST_PROCESSES ?= 2

# Every figure of the README and docs. scan_llama8b writes 16 GB into the temporary directory.
BENCHMARKS := spectra_accuracy spectra_speed error_bound scan_trust scan_noise null_law scan_speed scan_memory scan_cache \
	scan_shapes scan_moe scan_llama8b scan_killed scan_mutations scan_real_models tune_cost

.PHONY: help install demo demo-quick demo-full speech-demo figure1 study test lint types layers unit bench clean

help:
	@echo "make demo        the main job on a real model: scan, plan, tune four ways, measure, report.html"
	@echo "make demo-quick  the same in 2 minutes;  make demo-full  a study with three seeds (30 minutes)"
	@echo "make speech-demo a language model learns to hear, and keeps its text: word errors beside perplexity"
	@echo "make figure1     the paper's Figure 1, again: seven choices of what to train (hours; resumable)"
	@echo "make study       eleven arms, two domains, three seeds, at matched gain (many hours; resumable)"
	@echo "make test        lint, types, layer contracts, tests"
	@echo "make bench       every figure of the README and docs (slow); JSON in build/bench"

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "oblong needs Python 3.11 or newer: set PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit("oblong needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": set PYTHON=...") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing oblong into $(VENV) (once) ..."
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "installing the test tools into $(VENV) (once) ..."
	@$(INSTALL) -e '.[test]'
	@touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/oblong demo

demo-quick: install
	$(BIN)/oblong demo --quick

demo-full: install
	$(BIN)/oblong demo --full

speech-demo: install
	@$(INSTALL) -e '.[speech]'
	$(BIN)/oblong speech demo

figure1: install
	@$(INSTALL) -e '.[speech,tts]'
	$(BIN)/oblong fetch demo-model
	$(BIN)/oblong fetch whisper-base
	$(BIN)/oblong speech fetch-data
	$(BIN)/python -m benchmarks.figure1 --jobs 2 --json build/figure1/figure1.json

study: install
	@$(INSTALL) -e '.[adapters]'
	$(BIN)/oblong compare study-german -o build/study/german
	$(BIN)/oblong compare study-office -o build/study/office

test: $(VENV)/.installed-test lint types layers unit

lint: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed-test
	$(BIN)/mypy

layers: $(VENV)/.installed-test
	$(BIN)/lint-imports

unit: $(VENV)/.installed-test
	$(BIN)/python -m oblong fetch demo-model
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile

bench: $(VENV)/.installed-test
	@$(INSTALL) -e '.[bench]'
	@mkdir -p build/bench
	@for name in $(BENCHMARKS); do \
		echo "benchmarks.$$name"; \
		$(BIN)/python -m benchmarks.$$name --json build/bench/$$name.json || exit 1; \
	done

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
