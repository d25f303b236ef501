#!/bin/sh
# Compares `tenant-init exec` with tini and dumb-init in one run: size, memory, start, signals, reaping, behaviour. Needs root
# (namespaces), python3, cc, tini and dumb-init. Arguments are passed on: `--quick`, `--only start,rss`, `--json FILE`.
set -eu
repo=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
tool=${INITBENCH:-$repo/../shared/tools/initbench.py}
program=${TENANT_INIT_BIN:-$repo/target/release/tenant-init}

fail() {
    echo "bench-init: $1" >&2
    exit 1
}
[ -f "$tool" ] || fail "there is no $tool; set INITBENCH to the path of initbench.py"
[ -x "$program" ] || fail "there is no $program; run 'cargo build --release', or set TENANT_INIT_BIN"
for other in tini dumb-init; do
    command -v "$other" >/dev/null || fail "$other is missing; 'apt-get install tini dumb-init'"
done
exec python3 "$tool" --init 'tini=tini -- {cmd}' --init 'dumb-init=dumb-init -- {cmd}' \
    --init "tenant-init=$program exec -- {cmd}" "$@"
