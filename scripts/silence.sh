#!/usr/bin/env bash
# What a silent bucket costs operations that don't need it: two tenants in turns, one of them without its bucket, on this machine's driver
# (fuse where the kernel has no NFS client) or, with `vm MINUTES`, on nfs in the virtual machine. Options go to tests/faults/silence.py.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

if [[ ${1:-} == vm ]]; then
    minutes=${2:-3}
    exec "$REPO/scripts/vm-run.sh" --timeout "$(awk "BEGIN { print int($minutes * 60 + 300) }")" "$REPO/tests/vm/guest/silent_bucket.py" "$minutes" blackhole
fi
need_packages fuse3 iproute2
venv=$("$REPO/scripts/test-venv.sh")
RCLONE=$("$REPO/scripts/fetch-rclone.sh")
TENANT_INIT_BIN=${TENANT_INIT_BIN:-$REPO/target/release/tenant-init}
export RCLONE TENANT_INIT_BIN
cd "$REPO/tests"
exec "$venv/bin/python" -m faults.silence "$@"
