#!/usr/bin/env bash
# The inner half of vm-run.sh: lays out the machine's root and starts its kernel. Runs in mount and PID namespaces of
# its own, so that everything mounted here is gone when it ends, however it ends.
set -euo pipefail
: "${VM_KERNEL:?}" "${VM_ROOM:?}" "${VM_TOOLS:?}" "${VM_IMAGE:?}" "${VM_OUT:?}" "${VM_MEM:?}"
repo=$(cd "$(dirname "$0")/.." && pwd)

mount --make-rprivate /
work=$VM_OUT/.machine
mkdir -p "$work"
mount -t tmpfs -o size=12g tenant-init-vm "$work"
mkdir -p "$work"/{room,room.upper,room.work,guest.upper,guest.work}

# linux.uml needs a newer libc than this machine may have: it runs chrooted in the trixie root.
mount -t overlay overlay -o "lowerdir=$VM_KERNEL:$VM_ROOM,upperdir=$work/room.upper,workdir=$work/room.work" "$work/room"
mount -t proc proc "$work/room/proc"
mount -t sysfs sysfs "$work/room/sys"
mount --rbind /dev "$work/room/dev"
mount -t tmpfs -o size="$((VM_MEM + 256))m" tmpfs "$work/room/tmp"

# The guest's root: the image as it is, the tools' layer over it, and what is written goes to memory.
guest=$work/room/guest
mkdir -p "$guest"
mount -t overlay overlay -o "lowerdir=$VM_TOOLS:$VM_IMAGE,upperdir=$work/guest.upper,workdir=$work/guest.work" "$guest"
mkdir -p "$guest"/vm/{tests,out,parts} "$guest"/{proc,sys,dev,tmp,run}
for modules in "$VM_KERNEL"/usr/lib/uml/modules/*; do
    mkdir -p "$guest/usr/lib/modules/${modules##*/}"
    mount --bind "$modules" "$guest/usr/lib/modules/${modules##*/}"
done
mount --bind "$repo/tests" "$guest/vm/tests"
mount --bind "$VM_OUT" "$guest/vm/out"
# A disk of its own: on hostfs every new file belongs to root, whoever made it.
touch "$work/room/disk"
if [[ -n ${VM_DISK:-} ]]; then
    mount --bind "$VM_DISK" "$work/room/disk"
else
    truncate -s 4G "$work/room/disk"
    /sbin/mkfs.ext4 -q -m 0 "$work/room/disk"
fi
[[ -z ${VM_SQLD:-} ]] || install -m 755 "$VM_SQLD" "$guest/vm/parts/sqld"
[[ -z ${TENANT_INIT_BIN:-} ]] || install -m 755 "$TENANT_INIT_BIN" "$guest/usr/local/bin/tenant-init"
install -m 755 "$repo/tests/vm/init.sh" "$guest/vm/init"

ulimit -c 0
# The machine's memory is a file in this folder, and only the chroot's own are there.
export TMPDIR=/tmp
# Not exec: the first process of a PID namespace survives its own abort(), which is how this kernel ends a panic.
chroot "$work/room" /usr/bin/linux.uml mem="${VM_MEM}M" seccomp=on ubd0=/disk root=/dev/root rootfstype=hostfs rootflags=/guest rw \
    init=/vm/init panic=-1 con=null con0=fd:0,fd:1 quiet
