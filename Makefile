PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip -qq --disable-pip-version-check
export OMP_NUM_THREADS ?= 1

.PHONY: setup trial test test-slow check records soak adapters fmt bench docs clean

setup: .venv/stamp  ## build .venv; runs again only when the requirements change

.venv/stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit(f"controlarm needs Python 3.11 to 3.13; $(PYTHON) is {v.major}.{v.minor}: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || { echo "installing into .venv (once; a few minutes)"; $(PYTHON) -m venv .venv; }
	@$(PIP) install -c constraints.txt torch && $(PIP) install -c constraints.txt -e '.[dev]' && touch $@

trial: setup  ## the quick trial, from nothing to its report
	@$(BIN)/controlarm run trials/quick.toml

test: setup
	@$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow" --durations=20

test-slow: setup  ## what would make `make test` too long: kills and stops at many instants, two processes, benchmarks in their quick form
	@$(BIN)/python -m pytest -n auto --dist loadfile -m slow

check: setup
	@for do in "ruff check -q" "ruff format -q --check" "pyright --warnings" "lint-imports" "codespell" "pytest -q tests/test_docs.py"; do out=$$($(BIN)/$$do 2>&1) || { echo "$$do"; echo "$$out"; exit 1; }; done

records: setup  ## what every record and every claim says, made again from the data beside it and compared
	@$(BIN)/python -m claims --check

soak: KILLS ?= 50
soak: ROUNDS ?= 4
soak: setup  ## kills at seeded instants, then the memory of long work; about twenty minutes, logged in tests/faults/soak.log
	@$(BIN)/python -m tests.faults.soak $(KILLS) $(ROUNDS)

adapters: setup  ## rewards inside verl, OpenRLHF and verifiers themselves, an environment each under .venv/adapters; needs a package index
	@$(BIN)/python -m tests.adapters

fmt: setup
	@$(BIN)/ruff check -q --fix; $(BIN)/ruff format -q

bench: setup  ## every benchmark of speed but the GPU's, one after another; half an hour, on quiet cores
	@$(PIP) install -c constraints.txt -e '.[trl]' && for one in ceiling lockstep_gain growth overhead vs_trl generation audit; do $(BIN)/python benchmarks/$$one.py || exit 1; done

docs: setup
	@$(BIN)/python -m pytest -q tests/test_docs.py

clean:
	@rm -rf .venv build dist *.egg-info
