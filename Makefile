SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# One seed for everything random in a run; name it to run the same again.
ifndef BITDEX_TEST_SEED
BITDEX_TEST_SEED := $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')
endif
export BITDEX_TEST_SEED
# Where .ci/run puts tools that the machine lacks.
export PATH := $(CURDIR)/target/tools:$(PATH)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## both programs, as they go into images (target/dist)
	cargo build --profile dist -p bitdex-query -p bitdex-sync

.PHONY: test
test: lint ## every kind of test at reduced counts; prints the seed and the counts
	@echo "BITDEX_TEST_SEED=$(BITDEX_TEST_SEED)"
	@mkdir -p target
	@status=0; cargo test --release --workspace --no-fail-fast 2>&1 | tee target/test.log || status=$$?; \
	.ci/summary target/test.log; exit $$status

.PHONY: test-long
test-long: lint ## the same at full counts
	@echo "BITDEX_TEST_SEED=$(BITDEX_TEST_SEED)"
	@mkdir -p target
	@status=0; BITDEX_TEST_LONG=1 BITDEX_TEST_SCALE=40 cargo test --release --workspace --no-fail-fast 2>&1 | tee target/test.log || status=$$?; \
	.ci/summary target/test.log; exit $$status

.PHONY: e2e
e2e: ## the chart on a real Kubernetes: KUBECONFIG, or ../shared/cluster
	e2e/cluster/run

.PHONY: demo
demo: ## sample data, the pair beside it, live changes; IMAGES=200000, ONCE=1 to end by itself
	cargo build --release --workspace --bins
	$(or $(CARGO_TARGET_DIR),target)/release/e2e demo

.PHONY: bench
bench: ## measurements beside Postgres and tantivy, into target/bench; ONLY=search,throughput,load,visible,ingest,store,roll,engine for a part, SIZES=1,2,10 (millions)
	cargo build --profile dist --workspace --bins --features e2e/bench
	$(or $(CARGO_TARGET_DIR),target)/dist/e2e bench

.PHONY: fmt
fmt: ## format the code
	cargo fmt --all

.PHONY: lint
lint: ## format, clippy, dependencies' reasons, the chart (where helm is found)
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	.ci/check-dependencies
	@if command -v helm >/dev/null; then charts/test; else echo "chart: not tested, because there is no helm on the PATH"; fi
