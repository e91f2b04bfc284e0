# make demo | test | lint | docs | ci | soak. Windows and others without make: README.md lists the same commands.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test slow lint format docs lock ci ci-extras soak clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
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

# The documentation as a site in build/site; a broken link is an error.
docs: install
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/python tools/settings_page.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

ci: lint test docs ci-extras slow

# What the slow tests want beyond the above, where it can be had; they are skipped, visibly, where it cannot.
APT = [ "$$(id -u)" = 0 ] && apt-get update -qq && timeout 600 apt-get install -qq --yes --no-install-recommends
ci-extras: install
	-$(BIN)/python -m pip install --quiet --editable ".[browser,postgres]"
	-command -v chromium || timeout 300 $(BIN)/python -m playwright install chromium || { $(APT) chromium; }
	-command -v postgres || ls /usr/lib/postgresql/*/bin/postgres || { $(APT) postgresql; }

# The versions of this environment, after a run of `make ci`, become the tested ones.
lock: install
	{ echo "# The versions that were tested together: pip install -c constraints.txt ...; written by make lock"; \
	$(BIN)/python -m pip freeze --exclude-editable; } > constraints.txt

soak: install
	$(BIN)/python benchmarks/soak.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
