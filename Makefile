# Everything a fresh machine needs is made here: a virtual environment, the package, the tools.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test slow lint types clean

demo: $(READY)  ## train, evaluate with the oracle, analyse and tabulate on the embedded data set
	$(BIN)/qrepro demo

test: $(READY)  ## the test suite without the real trainings
	$(BIN)/python -m pytest --numprocesses auto --durations 15

slow: $(READY)  ## the real trainings on BCCD and shapes
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# torch and torchvision first and together: they must be a matching pair from the same index.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,dev,timm,export]'
	touch $@

clean:
	rm -rf $(VENV) dist build
