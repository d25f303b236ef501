#!/usr/bin/env bash
# Prints the path of promtool, which checks ops/alerts.yml and what /metrics answers; only tests use it. It is taken out of
# Debian's package `prometheus`, which is not installed: that would start a Prometheus on this machine.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

bin=$CACHE/promtool/promtool

# The lists of packages may be missing, or name a version that is gone: read them again once.
download() {
    apt-get -o APT::Sandbox::User=root download prometheus ||
        { apt-get update && apt-get -o APT::Sandbox::User=root download prometheus; }
}

if [[ ! -x $bin ]]; then
    lock promtool
    if [[ ! -x $bin ]]; then
        command -v apt-get >/dev/null || die "promtool comes from Debian's package prometheus, and this is no Debian"
        work=$(mktemp -d "$CACHE/tmp.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        cd "$work"
        # One apt at a time, as in need_packages.
        exec 8>"$CACHE/.lock-apt"
        flock 8
        step "fetching promtool from Debian" download
        dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
        usr/bin/promtool --version >/dev/null || die "the promtool that was fetched does not start on this machine"
        mkdir -p "$(dirname "$bin")"
        mv usr/bin/promtool "$bin"
    fi
fi
printf '%s\n' "$bin"
