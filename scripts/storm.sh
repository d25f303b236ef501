#!/usr/bin/env bash
# Random faults over a tenant while a writer works, for MINUTES minutes: what was acknowledged must be stored. Needs root and the
# release binary; for `--where container`, `vm` and `notes` the image, which is made from it. Options go to tests/storm, `--help` lists them.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

need_packages fuse3
venv=$("$REPO/scripts/test-venv.sh")
RCLONE=$("$REPO/scripts/fetch-rclone.sh")
SQLD=$("$REPO/scripts/fetch-sqld.sh")
TENANT_INIT_BIN=${TENANT_INIT_BIN:-$REPO/target/release/tenant-init}
export RCLONE SQLD TENANT_INIT_BIN
[[ -x $TENANT_INIT_BIN ]] || die "there is no $TENANT_INIT_BIN: build it first with 'make build'"
case " $* " in *" container "* | *" vm "* | *" notes "*) "$REPO/scripts/image.sh" >/dev/null ;; esac
cd "$REPO/tests"
exec "$venv/bin/python" -m storm "$@"
