# shellcheck shell=bash
# Sourced by every script in this folder: messages, the cache directory, locks, Debian packages.
#
# Results (a path) go to stdout, everything meant for people to stderr, so that scripts can call each other.

set -euo pipefail
shopt -s inherit_errexit

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${TENANT_INIT_CACHE:-$HOME/.cache/tenant-init}
IMAGE=${TENANT_INIT_IMAGE:-tenant-init:local}
mkdir -p "$CACHE"
export REPO CACHE IMAGE

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
die() { say "error: $*"; exit 1; }

# One run at a time per product: `make test` starts suites side by side that need the same parts.
lock() {
    exec 9>"$CACHE/.lock-$1"
    if ! flock -n 9; then
        say "waiting for another run that is preparing $1"
        flock 9
    fi
}

# The lock ends with the script, or here. A program started later must not inherit it.
unlock() { exec 9>&-; }

# Runs a long command: one line before, one after; its output only when it fails.
step() {
    local what=$1 log start
    shift
    log=$(mktemp)
    start=$SECONDS
    say "$what ..."
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        die "$what failed; its last lines are above"
    fi
    rm -f "$log"
    say "$what: done in $((SECONDS - start)) s"
}

# need_packages NAME…: Debian packages on this machine, installed only if missing.
need_packages() {
    local missing=() p
    for p in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
    done
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || die "these are needed and this is no Debian: ${missing[*]}"
    [[ $(id -u) == 0 ]] || die "install these first (or run as root): apt-get install ${missing[*]}"
    exec 8>"$CACHE/.lock-apt"
    flock 8
    if [[ -z $(apt-cache madison "${missing[0]}" 2>/dev/null) ]]; then
        step "reading the list of Debian packages" apt-get update
    fi
    if ! DEBIAN_FRONTEND=noninteractive step "installing ${missing[*]}" apt_install "${missing[@]}"; then
        exit 1
    fi
    exec 8>&-
}

# The lists of a machine that was kept for a while name versions that are gone: read them again once.
apt_install() {
    apt-get install -y --no-install-recommends "$@" || { apt-get update && apt-get install -y --no-install-recommends "$@"; }
}

# The Debian mirror this machine is set up for; nothing here names one.
debian_mirror() {
    local uri
    # shellcheck disable=SC2016  # apt's own placeholders
    uri=$(apt-get indextargets --format '$(ORIGIN)|$(COMPONENT)|$(REPO_URI)' 2>/dev/null |
        sed -n 's/^Debian|main|//p' | grep -v security | sort | head -n 1 || true)
    if [[ -z $uri ]]; then
        apt-get update >/dev/null 2>&1 || true
        # shellcheck disable=SC2016
        uri=$(apt-get indextargets --format '$(ORIGIN)|$(COMPONENT)|$(REPO_URI)' |
            sed -n 's/^Debian|main|//p' | grep -v security | sort | head -n 1 || true)
    fi
    [[ -n $uri ]] || die "apt on this machine has no Debian mirror (looked with: apt-get indextargets)"
    printf '%s\n' "${uri%/}"
}
