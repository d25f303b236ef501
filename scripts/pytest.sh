#!/usr/bin/env bash
# Runs one suite of tests/: host, adapter, container or vm. Further arguments go to pytest.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

suite=${1:?which suite: host, adapter, container or vm}
shift
cd "$REPO"
case $suite in
host)
    need_packages fuse3 iproute2 tini dumb-init openssl curl groff-base
    paths=(tests --ignore=tests/adapter --ignore=tests/container --ignore=tests/image --ignore=tests/vm)
    ;;
adapter)
    # With every Python that basic-memory runs on and this machine has.
    pythons=()
    for version in 3.12 3.13; do
        for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
            if "$candidate" -c '' 2>/dev/null; then
                pythons+=("$candidate")
                break
            fi
        done
    done
    ((${#pythons[@]})) || pythons=(python3)
    status=0
    for python in "${pythons[@]}"; do
        say "the adapter with $("$python" -V)"
        venv=$(PYTHON=$python "$REPO/scripts/test-venv.sh")
        "$venv/bin/python" -m pytest -c tests/pytest.ini tests/adapter "$@" || status=$?
    done
    exit "$status"
    ;;
container)
    need_packages openssl
    paths=(tests/image tests/container)
    ;;
vm) paths=(tests/vm) ;;
*) die "no suite $suite: host, adapter, container or vm" ;;
esac
venv=$("$REPO/scripts/test-venv.sh")
RCLONE=$("$REPO/scripts/fetch-rclone.sh")
SQLD=$("$REPO/scripts/fetch-sqld.sh")
export RCLONE SQLD
if [[ $suite == host ]]; then
    PROMTOOL=$("$REPO/scripts/fetch-promtool.sh")
    export PROMTOOL
fi
exec "$venv/bin/python" -m pytest -c tests/pytest.ini "${paths[@]}" "$@"
