#!/usr/bin/env bash
# Runs one suite of tests/: host, container or vm. Further arguments go to pytest.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

suite=${1:?which suite: host, container or vm}
shift
cd "$REPO"
case $suite in
host)
    need_packages fuse3 iproute2 tini dumb-init openssl
    paths=(tests --ignore=tests/container --ignore=tests/image --ignore=tests/vm)
    ;;
container)
    need_packages openssl
    paths=(tests/image tests/container)
    ;;
vm) paths=(tests/vm) ;;
*) die "no suite $suite: host, container or vm" ;;
esac
venv=$("$REPO/scripts/test-venv.sh")
RCLONE=$("$REPO/scripts/fetch-rclone.sh")
SQLD=$("$REPO/scripts/fetch-sqld.sh")
export RCLONE SQLD
exec "$venv/bin/python" -m pytest -c tests/pytest.ini "${paths[@]}" "$@"
