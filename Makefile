# VENV=.venv is made by the first target that needs it. `make VENV= ...` uses $(PYTHON) as it is and installs nothing.
VENV ?= .venv
PYTHON ?= python3
WORKERS ?= 2
ARGS ?=

ifeq ($(strip $(VENV)),)
PY := $(PYTHON)
PROBGEN := $(PY) -c 'import sys; from probgen.cli.main import main; sys.exit(main())'
INSTALLED :=
else
PY := $(VENV)/bin/python
PROBGEN := $(VENV)/bin/probgen
INSTALLED := $(VENV)/.installed
# One stamp: as long as neither file is newer, nothing is installed again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "probgen needs Python 3.11 or newer; '$(PYTHON)' is: $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12" >&2; \
	  exit 2; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@
endif

# Several test processes with one thread each, and nets too small for two: more threads would only wait for one another.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.NOTPARALLEL: # typecheck and wheel share build/
.PHONY: help install demo test lint format typecheck wheel docs tutorials bad-input bench bench-mnist bench-numpyro bench-snr reproduce-estimators reproduce-sbn reproduce-resampled crashtest fuzz certify mutants reproduce-zoo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: VENV=$(VENV) PYTHON=$(PYTHON) WORKERS=$(WORKERS), and ARGS for the command's own options."

install: $(INSTALLED) ## make the virtual environment and install probgen into it, editable

demo: $(INSTALLED) ## train, evaluate and compare small models on the digits that come with scikit-learn
	$(ONE_THREAD) $(PROBGEN) compare --run-dir runs/demo --overwrite $(ARGS)

test: $(INSTALLED) ## run the tests, WORKERS at a time; ARGS='-k name' picks some
	$(ONE_THREAD) $(PY) -m pytest -n $(WORKERS) $(ARGS)

lint: $(INSTALLED) ## check style and layout with ruff
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(INSTALLED) ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

typecheck: $(INSTALLED) ## check the types of the package as it is installed
	rm -rf build
	$(PY) -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation --target build/typed .
	$(PY) -m mypy build/typed/probgen

# A stale build/ would put deleted modules into the wheel. The wheel is built from the source archive, which so is tried too.
wheel: $(INSTALLED) ## build the source archive and the wheel into dist/
	rm -rf build dist
	$(PY) -m build --no-isolation

# The first build runs the notebooks; ARGS='-D nb_execution_mode=off' leaves them without figures.
docs: $(INSTALLED) ## build the documentation into docs/_build/html
	$(PY) docs/assemble.py docs/_build/source
	$(ONE_THREAD) $(PY) -m sphinx -W --keep-going -q -c docs $(ARGS) docs/_build/source docs/_build/html

tutorials: $(INSTALLED) ## run the notebooks, each cell within a minute
	$(ONE_THREAD) $(PY) -m pytest -p no:cacheprovider --nbmake --nbmake-timeout=60 tutorials $(ARGS)

bad-input: $(INSTALLED) ## write docs/bad-input.md: what every way into the library makes of bad input
	$(ONE_THREAD) $(PY) tests/bad_input/write_page.py $(ARGS)

bench: $(INSTALLED) ## time a training step
	$(PY) benchmarks/step_time.py $(ARGS)

bench-numpyro: $(INSTALLED) ## time NumPyro's training step under our objectives and under its own
	$(PY) benchmarks/numpyro_objectives.py $(ARGS)

bench-mnist: $(INSTALLED) ## train the importance-weighted autoencoder on MNIST (needs PROBGEN_DATA)
	$(PY) benchmarks/mnist_iwae.py $(ARGS)

bench-snr: $(INSTALLED) ## signal-to-noise ratio of IWAE's gradients against the number of particles
	$(ONE_THREAD) $(PY) benchmarks/snr.py $(ARGS)

reproduce-estimators: $(INSTALLED) ## IWAE on MNIST by pathwise and DReG gradients (needs PROBGEN_DATA)
	$(ONE_THREAD) $(PY) benchmarks/estimators_mnist.py $(ARGS)

reproduce-sbn: $(INSTALLED) ## a sigmoid belief net on MNIST by five estimators (needs PROBGEN_DATA)
	$(ONE_THREAD) $(PY) benchmarks/sbn_mnist.py $(ARGS)

reproduce-resampled: $(INSTALLED) ## the resampled backward pass at equal seconds on MNIST (needs PROBGEN_DATA)
	$(ONE_THREAD) $(PY) benchmarks/resampled.py $(ARGS)

crashtest: $(INSTALLED) ## kill training 200 times, resume it, and compare the end bit for bit
	$(ONE_THREAD) $(PY) benchmarks/crashtest.py $(ARGS)

fuzz: $(INSTALLED) ## resume from 20,000 mutated checkpoints
	$(ONE_THREAD) $(PY) benchmarks/fuzz_checkpoints.py $(ARGS)

certify: $(INSTALLED) ## compare every gradient estimator with exact gradients; writes docs/certificates.md
	$(ONE_THREAD) $(PY) benchmarks/certify.py --workers $(WORKERS) $(ARGS)

mutants: $(INSTALLED) ## plant wrong gradients and see whether certification finds them; writes docs/mutants.md
	$(ONE_THREAD) $(PY) benchmarks/mutants.py --workers $(WORKERS) $(ARGS)

reproduce-zoo: $(INSTALLED) ## train and evaluate every registered model
	$(PY) benchmarks/zoo.py $(ARGS)

clean: ## remove what the other targets built; runs/ and the virtual environment stay
	rm -rf build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
