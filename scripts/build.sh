#!/usr/bin/env bash
# Builds target/release/tenant-init.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

command -v cargo >/dev/null || die "cargo is missing: install Rust 1.94.1 or newer, see https://rustup.rs"
command -v cc >/dev/null || need_packages gcc libc6-dev
cd "$REPO"
[[ -e target/release/tenant-init ]] || say "compiling tenant-init and its libraries; the first time takes about five minutes on two cores"
# --quiet only where nobody watches: compiling is the longest step, and cargo's progress bar is for people.
if [[ -t 2 ]]; then cargo build --release --locked; else cargo build --release --locked --quiet; fi
