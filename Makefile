# make demo: set up, build and prove the sample model, ask it something.  make test: set up, test.
PYTHON ?= python3
VENV ?= .venv
OUT ?= dist
BIN = $(VENV)/bin

.PHONY: demo test clean

demo: $(VENV)/.with-demo
	$(BIN)/slmkit build --target android --out $(OUT) --force
	$(BIN)/slmkit run $(OUT)/home-android-int4 --prompt "turn off the kitchen lights at 7 pm"

test: $(VENV)/.with-test
	$(BIN)/python -m pytest -n auto --dist loadgroup -m "not crosscheck"

$(VENV)/.with-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) $(OUT)
