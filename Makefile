# make demo: set up, build and prove the sample model, ask it something.  make test: set up, test.
# make test-all: every row, every client.  make lint: ruff and mypy.  make docs: the pages of docs/.
# make release: wheel, sdist and notes of a release, checked, in dist/release; a person publishes them.
# make home-inside: the sample model again into the sample apps.
PYTHON ?= python3
VENV ?= .venv
OUT ?= dist
BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest -n auto --dist loadgroup
# One sentence, in words that any Python can read, before pip fails on an older one.
CHECK_PYTHON = import sys; sys.exit(sys.version_info < (3, 11) and "slmkit needs Python 3.11 or \
newer, and " + sys.executable + " is Python " + sys.version.split()[0] + ": name another one, as \
in make PYTHON=python3.12 VENV=.venv312" or 0)

.PHONY: demo test test-all lint docs release home-inside clean

demo: $(VENV)/.with-demo
	$(BIN)/slmkit build --target android --out $(OUT) --force
	$(BIN)/slmkit run $(OUT)/home-android-int4 --prompt "turn off the kitchen lights at 7 pm"

test: $(VENV)/.with-test
	$(PYTEST) -m "not full and not crosscheck"

test-all: $(VENV)/.with-test
	$(PYTEST) -m "not crosscheck"

lint: $(VENV)/.with-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/.with-docs
	$(BIN)/python -m mkdocs build --strict -f docs/mkdocs.yml --site-dir $(abspath $(OUT))/site

release: $(VENV)/.with-dev
	rm -rf $(OUT)/release
	$(BIN)/uv build --quiet --out-dir $(OUT)/release
	$(BIN)/python -m twine check --strict $(OUT)/release/slmkit-*
	version=$$($(BIN)/python -c "import slmkit; print(slmkit.__version__)"); \
		$(BIN)/towncrier build --draft --version $$version > $(OUT)/release/notes.md
	@echo "look at $(OUT)/release/notes.md, then see CONTRIBUTING.md: A release"

home-inside: $(VENV)/.with-demo
	$(BIN)/python sample_apps/home_model/put_inside.py

$(VENV)/.with-%: pyproject.toml
	@if test -x $(BIN)/python; then python=$(BIN)/python; else python=$(PYTHON); fi; \
		$$python -c '$(CHECK_PYTHON)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@case "$*" in demo|test) echo "pip fetches packages that take 3.7 GB or more in $(VENV): 1.3 GB are \
TensorFlow, which writes the artifact litert";; esac
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) $(OUT)
