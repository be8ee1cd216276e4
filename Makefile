# Everything a newcomer types. Needs Python >= 3.11 with pip, make and git; the rest lands in .venv.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help env book test reduced paper bench serve lock clean

# Any Python >= 3.11 will do; say which one by  make env PYTHON=/path/to/python
PYTHON ?=
BIN := .venv/bin
PORT ?= 8000
PYTEST_ARGS ?=

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|' 2>/dev/null || grep '##' Makefile

env: .venv/installed  ## install everything, in the pinned versions, into .venv

# uv rather than pip: it takes exactly the locked files, whatever else this machine's pip is told to look at.
# Its own version is the one in the lock. Without --without-pip, a Debian Python lacks a package that venv needs.
.venv/installed: requirements.lock pyproject.toml
	@given="$(PYTHON)"; if [ -n "$$given" ]; then set -- "$$given"; \
	else set -- python3 python3.14 python3.13 python3.12 python3.11 python; fi; \
	python=; for candidate in "$$@"; do \
	    if "$$candidate" -c 'import sys, venv, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    if [ -n "$$given" ]; then echo "PYTHON=$$given will not do: it must be a Python >= 3.11 with pip and venv" >&2; \
	    else echo "No Python >= 3.11 with pip was found: install one, or name it with  make env PYTHON=/path/to/python" >&2; fi; \
	    exit 1; \
	fi; \
	set -e; \
	echo "Installing into .venv with $$("$$python" --version) (a few minutes the first time)"; \
	"$$python" -m venv --without-pip --clear .venv; \
	"$$python" -m pip --python $(BIN)/python install --quiet "$$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.lock)"; \
	export VIRTUAL_ENV="$$PWD/.venv"; \
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode requirements.lock; \
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Straight after cloning this runs every notebook; later only those whose notebook, code or results changed.
# After a failure the pages are read anew: Sphinx warns only of pages that it reads, and the next build would pass.
book: env  ## regenerate every plot and table and build the site into _build/html
	@$(BIN)/jupyter-book build book/ -n -W --keep-going || { rm -rf _build/.doctrees; exit 1; }
	@echo; echo "The book is in  $$PWD/_build/html/index.html"; echo "To read it with search:  make serve"

# One worker per core, one torch thread each.
test: env  ## run every test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal $(PYTEST_ARGS)

# One process per core, or WORKERS=1; STATUS=1 lists per page what is done, what is missing and what it will cost.
QUEUE = $(BIN)/python -m nrae_lib.pages.queue $@ $(if $(WORKERS),--workers $(WORKERS)) $(if $(STATUS),--status)
reduced: env  ## run what is missing of the experiments that fit a CPU (days, killable at any time) and store it in results/
	@$(QUEUE)

paper: env  ## the same at full scale (STATUS=1 says how long; made for a GPU)
	@$(QUEUE)

bench: env  ## measure the training step and the neighbour graph against other formulations (some minutes)
	@$(BIN)/python benchmarks/steps.py

serve: env  ## serve the built site at http://localhost:8000 (another port: make serve PORT=8123)
	@test -f _build/html/index.html || { echo "There is no site yet: run  make book  first" >&2; exit 1; }
	@echo "http://localhost:$(PORT)  (Ctrl-C stops)"; $(BIN)/python -m http.server --bind localhost --directory _build/html $(PORT)

# One version of each package for every Python >= 3.11; the versions already pinned stay unless pyproject.toml forbids them.
lock:  ## pin requirements.lock anew from pyproject.toml (delete it first to take the newest versions)
	@uv=$(BIN)/uv; [ -x "$$uv" ] || uv=uv; \
	"$$uv" pip compile pyproject.toml --quiet --extra book --extra images --extra methods --extra phate --extra cluster --extra test --extra dev --universal --python-version 3.11 \
	    --fork-strategy fewest --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	    --output-file requirements.lock

clean:  ## remove the site, the executed notebooks, the runs stored in _build and the environment
	@rm -rf .venv _build book/notebooks book/_static/thumbnails *.egg-info .pytest_cache .ruff_cache
