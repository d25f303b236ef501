#!/usr/bin/env bash
# `make sbom`: prints the path of a bill of materials (CycloneDX 1.5, JSON): the crates of the program from Cargo.lock, and what
# the image gets beside it from scripts/locks. Debian's packages in the image are not pinned, and so not in it.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

version=0.5.9
tool=$CACHE/cargo-cyclonedx-$version
out=$REPO/target/sbom/tenant-init.cdx.json

if [[ ! -x $tool/bin/cargo-cyclonedx ]]; then
    lock cargo-cyclonedx
    [[ -x $tool/bin/cargo-cyclonedx ]] ||
        step "building cargo-cyclonedx $version (once, some minutes)" cargo install --locked --root "$tool" cargo-cyclonedx --version "$version"
fi
mkdir -p "$(dirname "$out")"
# It can write only beside Cargo.toml.
crates=$REPO/tenant-init.crates.json
trap 'rm -f "$crates"' EXIT
step "listing the crates" "$tool/bin/cargo-cyclonedx" cyclonedx --quiet --manifest-path "$REPO/Cargo.toml" --format json --spec-version 1.5 \
    --target x86_64-unknown-linux-gnu --override-filename tenant-init.crates
python3 "$REPO/scripts/sbom.py" "$REPO" <"$crates" >"$out"
printf '%s\n' "$out"
