# make demo | test | lint | docs | clean. All of it happens in .venv; nothing outside this folder is written.
PYTHON ?= python3
VENV ?= .venv
ZOO ?= .venv-zoo
DEMO := demo

# Packages come without bytecode (compiling all of them takes longer than installing them); what is imported is
# compiled once, whatever the caller's settings, and kept inside the environment.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(abspath $(VENV))/bytecode

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_DOCS := $(VENV)/.installed-docs

.DELETE_ON_ERROR:
.PHONY: help demo test lint docs zoo clean

help:
	@echo "make demo    explain the bundled picture; the maps go to $(DEMO)/"
	@echo "make test    linter, types and tests"
	@echo "make lint    linter and types only"
	@echo "make docs    the site, in docs/_build/html: warnings are errors, notebooks are run"
	@echo "make zoo     public networks of other libraries, in an environment of their own, $(ZOO)"
	@echo "make clean   remove $(VENV), $(DEMO) and caches"

demo: $(INSTALLED)
	$(BIN)/jaxcam explain --example --method lift_cam grad_cam --target "golf ball" parachute --out $(DEMO)

# The linter and the type checker beside the tests: they need one processor, and leave the tests their cache.
test: $(INSTALLED_DEV)
	@$(MAKE) --no-print-directory lint >$(VENV)/lint.log 2>&1 & linted=$$!; \
	$(BIN)/python -m pytest -n auto --dist worksteal; tested=$$?; \
	wait $$linted || tested=1; cat $(VENV)/lint.log; exit $$tested

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy jaxcam converters

docs: $(INSTALLED_DOCS)
	$(BIN)/python -m sphinx -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html

# Without their dependencies, many of which pin an old JAX; what is needed of these follows.
zoo: $(INSTALLED_DEV)
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/python -m pip install --quiet --no-compile --editable '.[dev]'
	for library in equimo flaxmodels jax-resnet image-classification-jax jax-image-models 'transformers<5'; do \
	  $(ZOO)/bin/python -m pip install --quiet --no-deps $$library || true; done
	$(ZOO)/bin/python -m pip install --quiet dm-pix einops pydantic pyyaml regex requests tqdm 'huggingface_hub<1' 'tokenizers<0.23'
	$(ZOO)/bin/python -m pytest -m zoo -rs tests/test_zoo_models.py

clean:
	rm -rf $(ZOO) $(VENV) $(DEMO) docs/_build docs/api docs/gallery docs/notebooks build .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are newer than pyproject.toml as long as what is installed fits it.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxcam needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile --editable .
	touch $@

$(INSTALLED_DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	touch $(INSTALLED) $@

$(INSTALLED_DOCS): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[docs]'
	touch $@
