# SPDX-License-Identifier: Apache-2.0
# Everything a developer does; `make` alone lists it. V=1 shows the commands.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory --no-builtin-rules

ifneq ($(V),1)
Q := @
QUIET := --quiet
SILENT := --silent
endif

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 60

BPF_SOURCES := $(wildcard bpf/*.c bpf/*.h bpf/Makefile)
# Not vmlinux.h: its order is the kernel's, and lining it up would hide that.
BPF_FORMATTED := $(filter-out bpf/vmlinux.h,$(wildcard bpf/*.c bpf/*.h))

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(STAMPS)/debian $(STAMPS)/python $(STAMPS)/bpf ## install what is missing: Debian packages, .venv, the BPF object
	@:

$(STAMPS)/debian: .ci/debian-packages
	$(Q).ci/debian-packages
	$(Q)mkdir -p $(@D) && touch $@

$(STAMPS)/python: pyproject.toml tracer/__init__.py | $(STAMPS)/debian
	$(Q)$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is too old: wirespan needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(Q)test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(Q)echo "Installing Python packages into $(VENV)" >&2
	$(Q)$(BIN)/python -m pip install $(QUIET) --disable-pip-version-check --editable '.[dev]'
	$(Q)mkdir -p $(@D) && touch $@

# Without a compiler the rest is still of use: replay, pcap, and all tests but the kernel's.
CAN_BUILD_BPF := command -v clang && command -v llvm-strip && test -e /usr/include/bpf/bpf_helpers.h

$(STAMPS)/bpf: $(BPF_SOURCES) | $(STAMPS)/debian
	$(Q)if { $(CAN_BUILD_BPF); } >/dev/null; then \
		$(MAKE) $(SILENT) -C bpf V=$(V) && mkdir -p $(@D) && touch $@; \
	else \
		echo "Without clang, llvm-strip and libbpf's headers the BPF object is not built, and nothing" \
			"can be captured. Replaying works, and so do all tests but the kernel's." >&2; \
	fi

.PHONY: bpf
bpf: ## compile the BPF object
	$(Q)$(MAKE) $(SILENT) -C bpf V=$(V)

.PHONY: demo
demo: setup ## trace a small site live; where eBPF is not possible, replay a recording
	$(Q)$(BIN)/python examples/demo.py

.PHONY: test
test: setup lint pytest ## check everything: lint, types, layers, all tests

.PHONY: pytest
pytest: setup
	$(Q)$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: test-tls
test-tls: setup ## TLS: each server with each client, over HTTP/1, HTTP/2 and gRPC
	$(Q)$(BIN)/python -m pytest -m tls_matrix tests/end_to_end $(PYTEST_ARGS)

.PHONY: test-load
test-load: setup ## under load: what is made is seen or counted, and no program is harmed
	$(Q)$(BIN)/python -m pytest -m load tests/end_to_end $(PYTEST_ARGS)

.PHONY: test-backends
test-backends: setup ## a real Jaeger, Collector and Prometheus (built or installed first), and an outage
	$(Q).ci/backends
	$(Q)$(BIN)/python -m pytest -m backends tests/end_to_end $(PYTEST_ARGS)

.PHONY: lint
lint: setup ## ruff, mypy, import-linter, clang-format
	$(Q)$(BIN)/ruff check $(QUIET)
	$(Q)$(BIN)/ruff format --check $(QUIET)
	$(Q)$(BIN)/mypy --no-error-summary
	$(Q)$(BIN)/lint-imports $(if $(Q),>$(STAMPS)/imports || { cat $(STAMPS)/imports; exit 1; })
	$(Q)$(BIN)/clang-format --dry-run -Werror $(BPF_FORMATTED)

.PHONY: fmt
fmt: setup ## format Python and C in place
	$(Q)$(BIN)/ruff check --fix $(QUIET)
	$(Q)$(BIN)/ruff format $(QUIET)
	$(Q)$(BIN)/clang-format -i $(BPF_FORMATTED)

.PHONY: bench
bench: setup ## measure: microseconds an exchange, nanoseconds a socket call, memory
	$(Q)$(BIN)/python tests/bench.py
	$(Q)$(BIN)/python tests/bench_export.py
	$(Q)$(BIN)/python tests/bench_tls.py
	$(Q)$(BIN)/python tests/parsers/bench_parsers.py

.PHONY: fuzz
fuzz: setup ## feed the parsers mutated conversations for FUZZ_SECONDS
	$(Q)$(BIN)/python tests/parsers/fuzz.py --seconds $(FUZZ_SECONDS)

.PHONY: wheel
wheel: setup bpf ## build dist/*.whl, with the BPF object inside
	$(Q)$(BIN)/python -m build --wheel --no-isolation $(if $(Q),>/dev/null)
	@ls dist/*.whl

.PHONY: clean
clean: ## remove what was built, and .venv
	$(Q)if [ -e bpf/Makefile ]; then $(MAKE) $(SILENT) -C bpf clean; fi
	$(Q)rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	$(Q)find . -name __pycache__ -type d -prune -exec rm -rf {} +
