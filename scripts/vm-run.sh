#!/usr/bin/env bash
# Boots a virtual machine from the tenant image and runs one Python script in it.
#
#   scripts/vm-run.sh [OPTIONS] SCRIPT [ARGS…]      e.g. scripts/vm-run.sh tests/vm/guest/truncation.py
#
#   --pid1              PID 1 of the machine is the image's entrypoint (tenant-init); SCRIPT runs beside it, begins
#                       with vm.guestlib.start_pid1() and ends with stop_pid1(): the kernel stops with its PID 1.
#                       Without it PID 1 is a small init as on Fly, and SCRIPT starts what it wants.
#   --env NAME=VALUE    environment of SCRIPT, and of the entrypoint with --pid1 (repeatable)
#   --timeout SECONDS   the whole machine is killed then (default 300)
#   --out DIR           where results.jsonl and console.log go (default: a new directory, printed)
#   --disk FILE         the machine's disk, an ext4 image mounted on /var/lib/tenant-init; made when missing, kept over
#                       boots (default: a new, empty one that is thrown away)
#   --mem MIB           memory of the machine (default 3072)
#
# TENANT_INIT_BIN replaces the image's tenant-init by that file, with no new image build (default: this repository's
# target/release/tenant-init, when there is one).
# Exit code: SCRIPT's; 124 after a timeout; 125 when the machine could not run.
# With --pid1, the exit code of PID 1 is written to DIR/pid1-exit-code.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

pid1='' timeout=300 out='' disk='' mem=3072 environment=()
while (($#)); do
    case $1 in
    --pid1) pid1=1 ;;
    --env) environment+=("$2"); shift ;;
    --timeout) timeout=$2; shift ;;
    --out) out=$2; shift ;;
    --disk) disk=$(realpath -m "$2"); shift ;;
    --mem) mem=$2; shift ;;
    -*) die "unknown option $1; the first lines of this script say how it is used" ;;
    *) break ;;
    esac
    shift
done
(($#)) || die "which script? usage: scripts/vm-run.sh [OPTIONS] SCRIPT [ARGS…]"
script=$(realpath "$1")
shift
[[ $script == "$REPO"/tests/* ]] || die "$script is not below tests/, the only folder that the machine sees"
[[ $(id -u) == 0 ]] || die "the virtual machine needs root (mounts in a namespace of its own)"

need_packages podman buildah runc e2fsprogs
podman image exists "$IMAGE" || "$REPO/scripts/image.sh" >/dev/null
kernel=$("$REPO/scripts/vm-kernel.sh")
room=$("$REPO/scripts/trixie-root.sh")
tools=$("$REPO/scripts/vm-tools.sh")
sqld=$("$REPO/scripts/fetch-sqld.sh")
# Unmounted when the last user is gone (podman counts); the layers are only read.
image=$(podman image mount "$IMAGE")
trap 'podman image unmount "$IMAGE" >/dev/null 2>&1 || true' EXIT

if [[ -z $out ]]; then
    out=$(mktemp -d "${TMPDIR:-/tmp}/tenant-init-vm.XXXXXX")
    say "results go to $out"
fi
mkdir -p "$out"
out=$(realpath "$out")
# Bigger than any test fills it; only what is written takes room.
if [[ -n $disk && ! -e $disk ]]; then
    truncate -s 4G "$disk"
    /sbin/mkfs.ext4 -q -m 0 "$disk"
fi
rm -f "$out"/{results.jsonl,exit-code,pid1-exit-code,console.log}
{
    printf 'export %q\n' "${environment[@]}"
    printf 'vm_pid1=%q\n' "$pid1"
    printf 'vm_script=(%q' "/vm/tests/${script#"$REPO"/tests/}"
    printf ' %q' "$@"
    printf ')\n'
} | sed '/^export $/d; /^export '"''"'$/d' >"$out/command"

if [[ -z ${TENANT_INIT_BIN:-} && -x $REPO/target/release/tenant-init ]]; then TENANT_INIT_BIN=$REPO/target/release/tenant-init; fi
export TENANT_INIT_BIN=${TENANT_INIT_BIN:-}
export VM_KERNEL=$kernel VM_ROOM=$room VM_TOOLS=$tools VM_IMAGE=$image VM_SQLD=$sqld VM_OUT=$out VM_DISK=$disk VM_MEM=$mem
# A PID namespace of its own: when its first process ends, the kernel ends every process of the machine.
status=0
timeout --kill-after=5 --signal=KILL "$timeout" \
    unshare --mount --pid --fork --kill-child "$REPO/scripts/vm-boot.sh" </dev/null 2>&1 | tee "$out/console.log" >&2 || status=${PIPESTATUS[0]}

rmdir "$out/.machine" 2>/dev/null || true

if code=$(sed -n 's/.*Attempted to kill init! exitcode=0x\([0-9a-f]*\).*/\1/p' "$out/console.log" | head -n 1) && [[ -n $code ]]; then
    # A wait status: the exit code in the second byte, a signal in the first.
    wait_status=$((16#$code))
    echo $(((wait_status & 127) ? 128 + (wait_status & 127) : wait_status >> 8)) >"$out/pid1-exit-code"
fi
case $status in 124 | 137) say "error: the machine was killed after $timeout s"; exit 124 ;; esac
[[ -s $out/exit-code ]] || { say "error: the machine ended and its script left no exit code; see $out/console.log"; exit 125; }
exit "$(<"$out/exit-code")"
