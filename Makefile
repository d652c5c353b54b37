# Everything runs in .venv, made on the first call; `make demo` and `make test` need nothing done before.
.NOTPARALLEL:
.PHONY: help demo test integrations lowest lowest-suites lint types soak docs docs-serve clean

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

# Pip cannot tell a package that it had half unpacked from a whole one, so an interrupted install starts anew.
ifneq ($(wildcard $(VENV)/.partial),)
$(info The last install was interrupted; making $(VENV) anew)
$(shell rm -rf $(VENV))
endif

help:
	@echo "make demo   try it on the bundled documents and model"
	@echo "make test   run the tests"
	@echo "make integrations   run the tests of the LangChain and LlamaIndex integrations, and their pages"
	@echo "make lowest   run tests with the lowest versions that are declared, in .venv-lowest"
	@echo "make lint   ruff and mypy, of the integrations too"
	@echo "make types  mypy alone"
	@echo "make docs   build the documentation into site/; every link and anchor is checked"
	@echo "make docs-serve   serve it on this machine, and anew after each change"
	@echo "make soak   kill a store 200 times and check it each time; some minutes"
	@echo "make clean  remove .venv, .venv-lowest and what builds leave"

demo: $(VENV)/.demo
	@$(BIN)/cmt-memory demo

test: $(VENV)/.test
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

integrations: $(VENV)/.integrations
	@cd integrations/langchain-cmt && ../../$(BIN)/python -m pytest
	@cd integrations/llama-index-cmt && ../../$(BIN)/python -m pytest
	@$(BIN)/python -m pytest tests/docs/with_frameworks.py

lowest:
	@$(MAKE) --no-print-directory VENV=.venv-lowest lowest-suites

LOWEST := $(wildcard constraints-lowest.txt integrations/*/constraints-lowest.txt)
LOWEST_TESTS := tests/test_bounds.py tests/test_readme.py tests/test_store.py tests/bank tests/retrieval tests/generation \
	tests/cli tests/model/test_loading.py tests/model/test_adapted.py tests/model/test_encoder.py tests/training/test_run.py

lowest-suites: $(VENV)/.lowest
	@$(BIN)/python -m pytest $(LOWEST_TESTS)
	@cd integrations/langchain-cmt && ../../$(BIN)/python -m pytest
	@cd integrations/llama-index-cmt && ../../$(BIN)/python -m pytest

lint: $(VENV)/.dev types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.dev
	@$(BIN)/mypy
	@cd integrations/langchain-cmt && ../../$(BIN)/mypy
	@cd integrations/llama-index-cmt && ../../$(BIN)/mypy

soak: $(VENV)/.test
	@$(BIN)/python -m benchmarks.soak_kills --kills 200 --output benchmarks/results/soak_kills.json

docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "site/index.html"

docs-serve: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

clean:
	rm -rf $(VENV) .venv-lowest build dist site *.egg-info

# A working environment that is there already is used as it is.
NEW_ENOUGH := sys.exit(sys.version_info < (3, 11))

$(VENV)/.python:
	@if $(BIN)/python -c 'import sys, pip; $(NEW_ENOUGH)' 2>/dev/null; then exit; fi; \
	python=; for p in $(PYTHON) python3 python3.11 python3.12 python3.13 python3.14 python; do \
		if "$$p" -c 'import sys, venv, ensurepip; $(NEW_ENOUGH)' 2>/dev/null; then python=$$p; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "cmt-memory needs Python 3.11 or newer with venv (Debian: python3-venv); none was found." >&2; \
		echo "If it is not on the PATH, name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	"$$python" -m venv --clear $(VENV)
	@touch $@

define install
	@echo "Installing $(1) into $(VENV); this takes a few minutes, once"
	@touch $(VENV)/.partial
	@$(PIP) $(2)
	@rm $(VENV)/.partial
	@touch $@
endef

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	$(call install,demo,-e '.[demo]')

$(VENV)/.test: $(VENV)/.python pyproject.toml constraints.txt
	$(call install,test,-e '.[test]')

$(VENV)/.integrations: $(VENV)/.test $(wildcard integrations/*/pyproject.toml)
	$(call install,integrations,-e . -e './integrations/langchain-cmt[test]' -e './integrations/llama-index-cmt[test]')

$(VENV)/.lowest: $(VENV)/.python pyproject.toml constraints.txt $(wildcard integrations/*/pyproject.toml) $(LOWEST)
	$(call install,lowest,$(addprefix -c ,$(LOWEST)) -e '.[test]' -e './integrations/langchain-cmt[test]' -e './integrations/llama-index-cmt[test]')

$(VENV)/.dev: $(VENV)/.integrations
	$(call install,dev,-e '.[dev]')

$(VENV)/.docs: $(VENV)/.python pyproject.toml constraints.txt
	$(call install,docs,-e '.[docs]')
