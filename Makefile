# The few commands that everyone needs. On Windows see the README: the same in plain pip lines.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo app test test-all lint format docs diagrams screenshots wheel bench clean

demo: $(VENV)/.search
	$(PY) examples/demo.py

app: $(VENV)/.app
	$(VENV)/bin/unetscope app

test: $(VENV)/.test
	$(PYTEST) -m "not long"

# Only what `make test` leaves out; plain `pytest` runs both.
test-all: $(VENV)/.test
	$(PYTEST) -m long

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/.test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(VENV)/.test
	$(PY) -m unetscope methods --markdown > docs/methods.md
	$(PY) docs/api.py > docs/api.md

diagrams: $(VENV)/.test
	$(PY) -m unetscope.diagrams.trace
	$(PY) docs/pictures/gallery.py
	$(PY) docs/pictures/architecture.py

screenshots: $(VENV)/.test
	$(PY) docs/pictures/screenshots.py docs/pictures/dashboard

wheel: $(VENV)/.test
	$(PY) tests/wheel.py

bench: $(VENV)/.test
	$(PY) benchmarks/merge.py

clean:
	rm -rf $(VENV) build dist demo *.egg-info

$(VENV)/.search: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[search]"
	touch $@

$(VENV)/.app: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[app]"
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[test]"
	touch $@
