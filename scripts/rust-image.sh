#!/usr/bin/env bash
# Makes docker.io/library/rust:1.95-trixie in podman's store from the trixie base and this machine's own toolchain, for
# `scripts/image.sh --source` where no container registry is reached.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

name=docker.io/library/rust:1.95-trixie
if podman image exists "$name"; then exit 0; fi
"$REPO/scripts/base-image.sh"
lock rust-image
toolchain=$(rustc --print sysroot)
[[ $(rustc --version) == "rustc 1.95."* ]] || say "note: $name will hold $(rustc --version)"
# The documentation is most of a toolchain and needs no copying.
context=$(mktemp -d "$CACHE/tmp.XXXXXX")
trap 'rm -rf "$context"' EXIT
step "copying the Rust toolchain" bash -c "tar -C '$toolchain' --exclude=./share -cf - . | tar -C '$context' --one-top-level=rust -xf -"
cat >"$context/Dockerfile" <<'DOCKERFILE'
FROM docker.io/library/debian:trixie-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY rust /usr/local
ENV CARGO_HOME=/usr/local/cargo
DOCKERFILE
step "building $name" podman build --isolation=chroot --network=host --format=docker --tag "$name" "$context"
