#!/usr/bin/env bash
# From `podman run` until basic-memory answers, under tenant-init and bare, in turns. Needs the image (`make image`).
# Options go to tests/bench/start.py, `--help` lists them.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

need_packages podman runc openssl fuse3
RCLONE=$("$REPO/scripts/fetch-rclone.sh")
SQLD=$("$REPO/scripts/fetch-sqld.sh")
venv=$("$REPO/scripts/test-venv.sh")
export RCLONE SQLD
exec "$venv/bin/python" "$REPO/tests/bench/start.py" "$@"
