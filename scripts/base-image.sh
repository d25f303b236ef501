#!/usr/bin/env bash
# Makes docker.io/library/debian:trixie-slim in podman's store from a debootstrap root, for machines that reach Debian's
# packages but no container registry. Where a registry is reached, nothing needs this.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

name=docker.io/library/debian:trixie-slim
need_packages podman buildah runc
if podman image exists "$name"; then exit 0; fi
root=$("$REPO/scripts/trixie-root.sh")
lock base-image
if podman image exists "$name"; then exit 0; fi
import() { tar -C "$root" --numeric-owner --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* -cf - . | podman import --change 'CMD ["bash"]' - "$name"; }
step "importing it as $name" import
