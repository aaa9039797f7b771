# Each target sets up the virtual environment that it needs; a fresh machine needs only python3 (3.11 or later) and make.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# The image for `make demo`; empty for a sample that is built and served on this machine.
IMAGE ?=

# Tests run on all cores; the tests of one file share fixtures and stay in one process.
PYTEST = $(RUN) -m pytest --numprocesses=auto --dist=loadfile

# Tests and benchmarks start thousands of processes, which should not each compile the package again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-all coverage check lint types build wheel bench bench-quick fuzz clean

demo: $(VENV)/.ready
	$(RUN) -m tests.support.demo $(IMAGE)

# All tests except those marked slow.
test: $(VENV)/.ready
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.ready
	$(PYTEST)

# Branch coverage, including the commands that tests start. Ordinary users run some, so the directory is writable for all.
coverage: $(VENV)/.ready
	data=$$(mktemp -d) && trap 'rm -rf "$$data"' EXIT && chmod 1777 "$$data" && \
		COVERAGE_FILE="$$data/coverage" $(PYTEST) --cov --cov-report=term-missing:skip-covered

check: lint types test-all build

lint: $(VENV)/.ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/.ready
	$(RUN) -m mypy

# The source tree would shadow the installed package, so the wheel is tried from another directory.
build: $(VENV)/.ready
	rm -rf dist build
	$(RUN) -m build --quiet
	rm -rf build/wheel-venv
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/python -m pip install --quiet dist/*.whl
	cd build && wheel-venv/bin/ociexport --version && wheel-venv/bin/python -m ociexport unpack --help >wheel-help.txt
	test -s build/wheel-venv/share/man/man1/ociexport-pull.1
	cd build && ! wheel-venv/bin/python -c "import tests" 2>wheel-import.txt

bench: $(VENV)/.ready
	$(RUN) -m tests.bench

# A few ratios in two minutes, beside those of the last release.
bench-quick: $(VENV)/.ready
	$(RUN) -m tests.bench.quick $(BENCH)

fuzz: $(VENV)/.ready
	$(RUN) -m pip install --quiet --group fuzz
	$(RUN) -m tests.fuzz.fuzz_layers .fuzz -max_total_time=600 -timeout=60

clean:
	rm -rf $(VENV) .demo .bench .bench-installed .fuzz build dist *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# At each editable installation setuptools warns about a package directory beside tests.
$(VENV)/.ready: pyproject.toml setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade "pip >= 25.1"
	PYTHONWARNINGS=ignore $(RUN) -m pip install --quiet --editable . --group test --group check
	touch $@
