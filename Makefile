# `make` or `make help` lists what there is. Every target installs what it needs and is quick when it is there already.
# Parts that are fetched are kept in $TENANT_INIT_CACHE (default ~/.cache/tenant-init).

SHELL := /bin/bash
.DEFAULT_GOAL := help
BINARY := target/release/tenant-init

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## a whole tenant on this machine: S3 and libSQL servers, the mount, basic-memory; Ctrl-C drains and stops
	@scripts/run.sh

test: ## everything: check, unit tests, then the real binary on this machine, in containers, in a virtual machine
	@scripts/test.sh

check: ## formatting, clippy, shellcheck
	@scripts/check.sh

build: ## the binary, target/release/tenant-init
	@scripts/build.sh

image: build ## the tenant image with podman; no container registry needed
	@scripts/image.sh

image-source: ## the same image, compiled inside it as `docker build .` does
	@scripts/image.sh --source

image-semantic: build ## the image with semantic search, NAME-semantic:TAG; the container tests use it when it is there
	@scripts/image.sh --semantic

unit: ## unit tests only
	cargo test --release --locked

host-test: build ## tests of the binary on this machine
	@scripts/pytest.sh host

adapter-test: ## tests of the recording adapter, with every Python this machine has for it
	@scripts/pytest.sh adapter

container-test: image ## tests of the image in containers
	@scripts/pytest.sh container

vm-test: image ## tests of the image in a virtual machine with an NFS client
	@scripts/pytest.sh vm

bench: build ## the spec's measurements
	@scripts/bench.sh

bench-index: image ## what the index costs: local SQLite, ours, a naive remote database, at several round trip times
	@scripts/bench-index.sh

bench-start: image ## from the container's start until basic-memory answers, against basic-memory bare in the same image
	@scripts/bench-start.sh

bench-drain: build ## what a stop costs over the bare upload of the same files, over several links
	@scripts/bench-drain.sh

storm: build ## random faults over a tenant, for MINUTES (10) minutes; SEED repeats one; STORM_WHERE=container, vm, notes (basic-memory and its index)
	@scripts/storm.sh --minutes "$(or $(MINUTES),10)" --where "$(or $(STORM_WHERE),host)" --steps "$(or $(STORM_STEPS),6)" $(if $(SEED),--seed "$(SEED)")

faults: image ## the table of docs/FAULTS.md: faults under tenant-init and under the usual shell entry point; FAULTS="--seconds 600"
	@scripts/faults.sh $(FAULTS)

silence: build ## what a silent bucket costs operations that do not need it, on this machine; `scripts/silence.sh vm` on nfs
	@scripts/silence.sh

deny: ## licences, sources and duplicate versions of the dependencies (builds cargo-deny once, some minutes)
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --offline check bans licenses sources

sbom: ## a bill of materials, target/sbom/tenant-init.cdx.json (builds cargo-cyclonedx once, some minutes)
	@scripts/sbom.sh

man: build ## the man page, target/man/tenant-init.1
	@mkdir -p target/man
	@$(BINARY) man > target/man/tenant-init.1
	@echo target/man/tenant-init.1

lock: ## resolve basic-memory's dependencies anew
	@scripts/lock-python.sh

.PHONY: help run test check build image image-source image-semantic unit host-test adapter-test container-test vm-test bench bench-index bench-start bench-drain storm faults silence deny sbom man lock
