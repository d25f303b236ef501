#!/usr/bin/env bash
# Formatting, clippy, shellcheck. The release profile, so that what clippy compiles is what the binary needs anyway.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

cd "$REPO"
cargo fmt --check || die "the code is not formatted: run 'cargo fmt'"
cargo clippy --release --locked --all-targets --quiet -- -D warnings || die "clippy found something, see above"
need_packages shellcheck
shellcheck -x scripts/*.sh entrypoint .ci/run tests/vm/init.sh || die "shellcheck found something, see above"
say "formatting, clippy and shellcheck are clean"
