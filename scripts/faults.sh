#!/usr/bin/env bash
# The table of faults: each is done to an app under tenant-init and, at the same time, to one under the usual shell entry point.
# Needs root and the release binary; for the rows on nfs the image. Options go to tests/faults, `--help` lists them.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

need_packages fuse3 iproute2 tini
venv=$("$REPO/scripts/test-venv.sh")
RCLONE=$("$REPO/scripts/fetch-rclone.sh")
TENANT_INIT_BIN=${TENANT_INIT_BIN:-$REPO/target/release/tenant-init}
export RCLONE TENANT_INIT_BIN
[[ -x $TENANT_INIT_BIN ]] || die "there is no $TENANT_INIT_BIN: build it first with 'make build'"
cd "$REPO/tests"
exec "$venv/bin/python" -m faults "$@"
