#!/usr/bin/env bash
# Prints the path of a Python virtual environment that has the test suite's packages (tests/requirements.lock), made with
# $PYTHON (default python3).
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

lockfile=$REPO/tests/requirements.lock
python=$(command -v "${PYTHON:-python3}") || die "${PYTHON:-python3} is needed to run the tests"
id=$( (cat "$lockfile" && echo "$python" && "$python" -V) | sha256sum | cut -c1-12)
venv=$CACHE/test-venv-$id

if [[ ! -e $venv/.complete ]]; then
    lock test-venv
    if [[ ! -e $venv/.complete ]]; then
        "$python" -c 'import ensurepip' 2>/dev/null || need_packages python3-venv
        rm -rf "$venv"
        step "making the tests' Python environment" "$python" -m venv "$venv"
        step "installing the tests' packages" "$venv/bin/python" -m pip install --require-hashes --only-binary=:all: -r "$lockfile"
        touch "$venv/.complete"
    fi
fi
printf '%s\n' "$venv"
