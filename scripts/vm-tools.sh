#!/usr/bin/env bash
# Builds the layer of tools that the tests' virtual machine has over the tenant image (tests/vm/Containerfile) and
# prints its directory.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

runtime=${IMAGE%:*}-runtime:${IMAGE##*:}
tools=${IMAGE%:*}-vm-tools:${IMAGE##*:}
podman image exists "$runtime" || die "there is no image $runtime: run scripts/image.sh first"
lock vm-tools
id=$(podman image inspect --format '{{.Id}}' "$runtime")-$(sha256sum "$REPO/tests/vm/Containerfile" | cut -c1-12)
if ! podman image exists "$tools" || [[ $(podman image inspect --format '{{index .Labels "runtime"}}' "$tools") != "$id" ]]; then
    step "installing the virtual machine's tools" podman build --isolation=chroot --network=host --format=docker \
        --build-arg "RUNTIME=$runtime" --label "runtime=$id" --tag "$tools" -f "$REPO/tests/vm/Containerfile" "$REPO/tests/vm"
fi
podman image inspect --format '{{.GraphDriver.Data.UpperDir}}' "$tools"
