# Everything that a developer or operator does here, one word each. `make help` explains them.
SHELL := /bin/bash
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3.11
PIP_ARGS ?=
CONSTRAINTS ?= constraints.txt
EXTRAS ?= dev

VENV := .venv
PY := $(VENV)/bin/python
# Made last: a set-up that was cut off is taken up again, a whole one is never repeated.
READY := $(VENV)/.ready

fail = { echo "error: $(1)" >&2; exit 2; }
GET_PYTHON := Install it (Debian, Ubuntu: apt install python3.11 python3.11-venv), or name another: make setup PYTHON=/path/to/python3.11
# The packages are named in one place only. The project itself is not installed: a copy of segserve in .venv would
# hide it from the tests if the .mar came without one. onnxruntime-gpu takes the place of onnxruntime: both write the
# same folder, and the one that pip happens to install last would decide what is in it.
LIST_REQUIREMENTS := import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*(r for r in p["dependencies"] if r != "onnxruntime" or "gpu" not in sys.argv), \
	*(r for e in sys.argv[1:] for r in p["optional-dependencies"][e]), sep="\n")

DEMO := model_store/demo/rooms.safetensors
MAR := model_store/rooms.mar
DEMO_PHOTO := out/room.jpg
DEMO_DATA := runs/demo-data
# What can change the packaged demo model, so what makes it be exported, compared and packaged again.
MAR_SOURCES := $(DEMO) $(wildcard segserve/*.py segserve/engines/*.py export/*.py handlers/* \
	$(addprefix training/,pspnet.py backbones.py layout.py meta.py checkpoint.py decision.py torch_engine.py metrics.py \
		rooms*.py label_sets.py prepare_options.py points.py spread.py))
# Which engine it was packaged with: another one is another package, though no source is newer.
MAR_ENGINE := build/rooms.engine

CHECKPOINT ?= $(DEMO)
OUT ?= build/export
PHOTO ?= $(DEMO_PHOTO)
RENDERED := $(filter $(DEMO_PHOTO),$(PHOTO))
PORT ?= 8080
# A run folder comes back with what it served last, rollouts included, so one that has other models keeps them.
OTHER_MODELS := run/ last served other models than the demo: $(PY) -m deploy.server start brings them back. For the demo \
	model add --models rooms=rooms.mar (and theirs) to it, or remove run/ if they are not needed
METRICS_PORT ?= 8082
URL ?= http://127.0.0.1:$(PORT)
AUTH ?= none
TOKEN_FILE := $(if $(filter token,$(AUTH)),run/key_file.json)
DETACH ?=
ARGS ?=
NPROC ?= 1
USERS ?= 4
DURATION ?= 20s
TARGET ?= cpu
# Of the demo model's package: onnx is faster on CPUs, torchscript is what runs on a GPU.
ENGINE ?= $(if $(filter cuda,$(TARGET)),torchscript,onnx)

PEERS_VENV := .venv-peers
PEERS_READY := $(PEERS_VENV)/.ready
PEERS_MAR ?= $(MAR)
PEERS_BUILD ?= build/rooms

.PHONY: help setup serve stop segment client check test train demo-model export package load bench-regress bench-peers gpu-check image clean

help: ## This list
	@echo "usage: make TARGET [NAME=value ...]"
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  %-13s %s\n", $$1, $$2}'

setup: $(READY) ## Make .venv with every pinned package, Java included (PIP_ARGS='--extra-index-url …' for another torch)

$(READY): pyproject.toml $(CONSTRAINTS)
	@command -v $(PYTHON) >/dev/null || $(call fail,$(PYTHON) is not on the PATH. $(GET_PYTHON))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || $(call fail,$(PYTHON) is not Python 3.11. $(GET_PYTHON))
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(call fail,$(PYTHON) has no venv module. $(GET_PYTHON))
	@echo "Setting up $(VENV), once. With a CUDA build of torch this downloads several GB, with a CPU build about 500 MB."
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -c '$(LIST_REQUIREMENTS)' $(EXTRAS) > $(VENV)/requirements.txt
	$(PY) -m pip install --disable-pip-version-check $(PIP_ARGS) -c $(CONSTRAINTS) -r $(VENV)/requirements.txt
	@touch $@

serve: package $(RENDERED) ## Serve the demo model on 127.0.0.1:8080 and segment a photo (DETACH=1, AUTH=token, PORT=8080, METRICS_PORT=8082, PHOTO=x.jpg; ENGINE=… as given to package, or it is exported anew)
	@test ! -s run/models.json || grep -qE '"rooms"|^\{\}' run/models.json || $(call fail,$(OTHER_MODELS))
	$(PY) -m deploy.server start --detach --port $(PORT) --metrics-port $(METRICS_PORT) --auth $(AUTH)
	@$(PY) -m deploy.segment "$(PHOTO)" --out out --url $(URL) $(if $(TOKEN_FILE),--token-file $(TOKEN_FILE)) \
		|| { code=$$?; $(PY) -m deploy.server stop; exit $$code; }
	@$(if $(DETACH),echo "The server keeps running; end it with: make stop",exec $(PY) -m deploy.server attach)

stop: $(READY) ## End the server that `make serve DETACH=1` left running
	$(PY) -m deploy.server stop

segment: $(READY) $(RENDERED) ## Segment a photo with the running server (PHOTO=x.jpg, AUTH=token, PORT=8080); see out/
	$(PY) -m deploy.segment "$(PHOTO)" --out out --url $(URL) $(if $(TOKEN_FILE),--token-file $(TOKEN_FILE))

client: $(READY) ## A wheel of the Python client for applications, in out/; it needs httpx alone
	$(PY) -m deploy.client_wheel --out out

check: $(READY) ## Formatting, lint, types
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

# Every test means two files at a time, as most of them wait for a server, in the order of the folders: the long ones
# of e2e first, so that none of them is left over at the end. A process of tests that dies ends the run: the others
# would wait for it. With ARGS it is plain pytest.
test: package ## Every test, against the real server where it matters (ARGS='-k name tests/unit')
	$(PY) -m pytest $(if $(ARGS),$(ARGS),--numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0)

train: $(READY) ## Train on your data (ARGS='…', see docs/training.md; NPROC=2 for two processes or GPUs)
	$(PY) -m $(if $(filter 1,$(NPROC)),training.train,torch.distributed.run --nproc-per-node $(NPROC) -m training.train) $(ARGS)

demo-model: $(READY) ## Train the demo model on rendered rooms (at most 40 minutes on two cores)
	test -e $(DEMO_DATA)/dataset.toml || $(PY) -m training.rooms --out $(DEMO_DATA) --train 1500 --val 100 --seed 1
	$(PY) -m training.train --data $(DEMO_DATA)/dataset.toml --out runs/demo --preset pspnet_lite0 --pretrained \
		--crop-height 192 --crop-width 256 --input-height 240 --input-width 320 --batch-size 8 --epochs 2 --seed 1 \
		$(if $(wildcard runs/demo/last.safetensors),--resume)
	cp runs/demo/model.safetensors $(DEMO)
	cp runs/demo/model.json $(DEMO:.safetensors=.json)

export: $(READY) ## Checkpoint to artefacts, proof of parity and .mar (CHECKPOINT=x.safetensors, OUT=build/export, ARGS='--name …')
	$(PY) -m export.build "$(CHECKPOINT)" --out "$(OUT)" $(ARGS)

package: $(MAR) ## The demo model as model_store/rooms.mar, exported and compared again only when something changed (ENGINE=torchscript, to be given to serve too)

$(MAR): $(READY) $(MAR_SOURCES) $(MAR_ENGINE)
	$(PY) -m export.build $(DEMO) --out build/rooms --name rooms --engine $(ENGINE)
	cp build/rooms/rooms.mar $@

.PHONY: FORCE
$(MAR_ENGINE): $(if $(filter $(ENGINE),$(shell cat $(MAR_ENGINE) 2>/dev/null)),,FORCE)
	@mkdir -p $(@D)
	@echo $(ENGINE) > $@

$(DEMO_PHOTO): benchmarks/photos.py | $(READY)
	$(PY) -m benchmarks.photos $@ --height 960 --width 1280

load: $(READY) ## Locust against the running server, judging every answer (USERS=4, DURATION=20s, PORT=8080, AUTH=token)
	$(if $(TOKEN_FILE),TOKEN_FILE=$(TOKEN_FILE)) $(PY) -m locust -f benchmarks/locustfile.py --headless --only-summary \
		--host $(URL) --users $(USERS) --spawn-rate $(USERS) --run-time $(DURATION)

bench-regress: package ## Is serving as close to its engine as benchmarks/ratios.toml says? 2 minutes (ARGS=--update writes it anew)
	$(PY) -m benchmarks.regress $(MAR) $(ARGS)

bench-peers: package $(PEERS_READY) ## Our server beside TorchServe as usual, LitServe, Ray Serve and BentoML (PEERS_MAR, PEERS_BUILD, ARGS)
	$(PY) -m benchmarks.peers $(PEERS_MAR) --build $(PEERS_BUILD) $(ARGS)

$(PEERS_READY): benchmarks/peers/requirements.txt
	@$(PEERS_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) -r $<
	@touch $@

gpu-check: $(READY) ## Every GPU engine on every GPU: builds, answers like the CPU, speed (ARGS='--json gpu.json'); skipped without a GPU
	$(PY) -m benchmarks.gpu_check $(ARGS)

image: ## Docker image (TARGET=cpu or cuda)
	docker build --target $(TARGET) --build-arg ENGINE=$(ENGINE) --build-arg PIP_ARGS="$(PIP_ARGS)" --tag segserve:$(TARGET) .

# Of the folders in the model store only those that rollouts of run/ unpacked (deploy/incoming.py: NAME-VERSION-NUMBER),
# which nobody serves without run/: other run folders may share the store, and people keep models there.
HEX4 := [0-9a-f][0-9a-f][0-9a-f][0-9a-f]
clean: ## Remove build/, out/, run/ and the demo's package; .venv, your runs/ and what else is in model_store/ stay
	@test ! -e run/front/front.json || $(PY) -m deploy.front stop
	@test ! -e run/server.json || $(PY) -m deploy.server stop
	find model_store -mindepth 1 -maxdepth 1 -type d \( -name '.*.partial' -o -name '*-$(HEX4)$(HEX4)' \
		-exec test -e {}/segmentation_handler.py \; \
		-exec sh -c 'grep -qsF "\"$${0##*/}\"" run/models.json' {} \; \) -exec rm -rf {} +
	rm -rf build out run $(MAR) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
