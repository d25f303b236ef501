#!/usr/bin/env bash
# `make bench`: tenant-init as an init against tini and dumb-init in one interleaved run, where the comparison tool is
# beside the repository; then what a tenant costs on this machine, against plain rclone in the same run.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

compare=$REPO/../shared/tools/initbench.py
if [[ -e $compare ]]; then
    need_packages tini dumb-init gcc libc6-dev
    "$REPO/scripts/bench-init.sh" "$@"
else
    say "no comparison of inits: $compare is not there"
fi
RCLONE=$("$REPO/scripts/fetch-rclone.sh")
need_packages fuse3
venv=$("$REPO/scripts/test-venv.sh")
export RCLONE
exec "$venv/bin/python" "$REPO/tests/bench/budgets.py"
