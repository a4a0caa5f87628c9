# Two commands need nothing but Python 3.11+ and make: `make run` and `make test`.

SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8080
# Package managers may ask for confirmation or print upgrade notes; neither belongs here.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

TINY := fixtures/tiny-model/checkpoint
TINY_FLAGS := --served-model-name tiny --max-model-len 4096 --enforce-eager --dtype bfloat16 \
	--enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3 --seed 0

.PHONY: run test lint extras bench mutants lock clean

ifdef VLLM
MODEL := tiny
else
MODEL := dragoman-demo
endif
URL := http://$(HOST):$(PORT)/v1

define TRY

Dragoman will listen on $(URL). Try, from another terminal:

curl $(URL)/responses -H 'content-type: application/json' -d '{"model": "$(MODEL)", "input": "Hello!"}'
$(BIN)/python -c 'import httpx; print(httpx.post("$(URL)/responses", json={"model": "$(MODEL)", "input": "Where is Oslo?"}).json()["output"][-1]["content"][0]["text"])'
curl -N $(URL)/chat/completions -H 'content-type: application/json' -d '{"model": "$(MODEL)", "stream": true, "messages": [{"role": "user", "content": "Count to ten."}]}'

endef
export TRY

run: $(VENV)/.run ## set up and start the proxy: on the embedded demo, or with VLLM=1 on a real vLLM
	@echo "$$TRY"
ifdef VLLM
	@python=$$($(BIN)/python -m tests.extras.vllm_env) && VLLM_CPU_KVCACHE_SPACE=$${VLLM_CPU_KVCACHE_SPACE:-1} \
		exec $(BIN)/dragoman serve --host $(HOST) --port $(PORT) --vllm $(TINY) --vllm-python "$$python" -- $(TINY_FLAGS)
else
	@exec $(BIN)/dragoman serve --host $(HOST) --port $(PORT)
endif

test: $(VENV)/.dev lint extras ## set up and run every test, the real vLLM and third-party clients included
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

extras: $(VENV)/.dev ## install the real vLLM and the third-party clients into the user's cache
	$(BIN)/python -m tests.extras

bench: $(VENV)/.dev ## measure against nginx, LiteLLM, vLLM and the goals; QUICK=1 for a minute's worth
	$(BIN)/python -m benchmarks.counts
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

mutants: $(VENV)/.dev ## change the translators here and there: do the tests notice? SAMPLE=0 for all changes
	$(BIN)/python -m tests.mutants --sample $(or $(SAMPLE),1500)

lock: ## compile the lock files anew (needs uv)
	uv pip compile pyproject.toml --extra build --universal --python-version 3.11 --generate-hashes --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --extra build --extra test --extra lint --universal --python-version 3.11 --generate-hashes --no-header -q -o requirements-dev.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/pyvenv.cfg requirements.lock pyproject.toml
	$(BIN)/python -m pip install -q --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/pyvenv.cfg requirements-dev.lock pyproject.toml
	$(BIN)/python -m pip install -q --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run
