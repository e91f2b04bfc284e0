# make demo | test | lint | ci | soak. Windows and others without make: README.md lists the same commands.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test slow lint format ci ci-extras soak clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: install
	$(BIN)/python train.py

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

slow: install
	$(BIN)/python -m pytest -m slow

ci: lint test ci-extras slow

# What the slow tests want beyond the above, where it can be had; they are skipped, visibly, where it cannot.
APT = [ "$$(id -u)" = 0 ] && apt-get update -qq && timeout 600 apt-get install -qq --yes --no-install-recommends
ci-extras: install
	-$(BIN)/python -m pip install --quiet --editable ".[browser,postgres]"
	-command -v chromium || timeout 300 $(BIN)/python -m playwright install chromium || { $(APT) chromium; }
	-command -v postgres || ls /usr/lib/postgresql/*/bin/postgres || { $(APT) postgresql; }

soak: install
	$(BIN)/python benchmarks/soak.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
