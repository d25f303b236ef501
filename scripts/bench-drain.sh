#!/usr/bin/env bash
# What a stop takes over the bare upload of the same files, in turns in one run, over several links. Options go to
# tests/bench/drain.py, `--help` lists them.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

need_packages fuse3 iproute2
RCLONE=$("$REPO/scripts/fetch-rclone.sh")
venv=$("$REPO/scripts/test-venv.sh")
export RCLONE
exec "$venv/bin/python" "$REPO/tests/bench/drain.py" "$@"
