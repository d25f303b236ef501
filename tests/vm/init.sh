#!/bin/bash
# First process of the tests' virtual machine. What Fly's init or Docker does before an image's entrypoint: mount the
# kernel's file systems, bring up the loopback interface. Then the script of vm-run.sh, or the entrypoint as PID 1.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/vm/tests NO_COLOR=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o size=2g,mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
mount -t ext4 /dev/ubda /var/lib/tenant-init || echo "vm: no disk"
rmdir /var/lib/tenant-init/lost+found 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
ip link set lo up
for module in nfsv3 fuse sch_netem veth; do
    modprobe "$module" || echo "vm: this kernel has no module $module"
done
# Docker and Fly write these two at every start.
hostname tenant-vm
printf '127.0.0.1 localhost tenant-vm\n::1 localhost\n' >/etc/hosts
: >/etc/resolv.conf
vm_pid1='' vm_script=()
# shellcheck disable=SC1091  # written by vm-run.sh: the environment, vm_pid1, vm_script
. /vm/out/command

finish() {
    echo "$1" >/vm/out/exit-code
    # Not everything: a dead NFS mount that a test left behind would be waited for.
    sync -f /vm/out
    sync -f /var/lib/tenant-init
    echo o >/proc/sysrq-trigger
    sleep 10
}

if [[ -z $vm_pid1 ]]; then
    python3 -u "${vm_script[@]}"
    finish $?
fi
# Beside the entrypoint, and a child of it after the exec. When PID 1 ends the kernel stops at once, so only a script
# that failed comes to `finish`.
(
    python3 -u "${vm_script[@]}"
    finish $?
) &
# The script first prepares what the tenant needs (its S3 server), then says so: vm.guestlib.start_pid1().
for ((i = 0; i < 1200; i++)); do
    [[ ! -e /run/start-pid1 ]] || exec /usr/local/bin/entrypoint
    sleep 0.05
done
echo "vm: the script never called start_pid1()"
finish 125
