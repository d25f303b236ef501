#!/usr/bin/env bash
# `make run`: a whole tenant on this machine, with no cloud account. The image runs `tenant-init dev`: an S3 server over a
# plain folder, a libSQL server, the mount, basic-memory. Ctrl-C ends it when everything is stored.
#
# TENANT_INIT_DEV_DIR is where its bucket, database and cache stay (default .cache/dev in the repository).
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

dir=${TENANT_INIT_DEV_DIR:-$REPO/.cache/dev}
mkdir -p "$dir"
dir=$(realpath "$dir")
sqld=$("$REPO/scripts/fetch-sqld.sh") || sqld=
[[ -n $sqld ]] || say "no libSQL server for this machine: the index will be a local file"

# The folder has the same path inside, so that what tenant-init prints is where it is.
# /run on a tmpfs: the storage key that rclone reads is never on a disk.
args=(--rm --name tenant-init-dev --tmpfs /run --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined
    --volume "$dir:$dir" --env "TENANT_INIT_DEV__DIR=$dir" --env "TENANT_INIT_LOG__FORMAT=${TENANT_INIT_LOG__FORMAT:-text}")
[[ -z $sqld ]] || args+=(--volume "$sqld:/usr/local/bin/sqld:ro")
# Settings given to `make run` reach the tenant: TENANT_INIT_APP__PORT=8001 make run
while IFS='=' read -r name _; do
    case $name in TENANT_INIT_CACHE | TENANT_INIT_IMAGE | TENANT_INIT_BIN | TENANT_INIT_DEV_DIR | TENANT_INIT_DEV__DIR | TENANT_INIT_LOG__FORMAT) ;;
    TENANT_INIT_*) args+=(--env "$name") ;;
    esac
done < <(env)

# No terminal is given to the container: Ctrl-C must arrive as one SIGINT to tenant-init, which the client forwards, and
# not a second time from the kernel.
if docker info >/dev/null 2>&1; then
    if [[ $(uname -s) == Linux ]]; then
        args+=(--network=host)
    else
        args+=(--publish 127.0.0.1:8000:8000 --publish 127.0.0.1:9180:9180 --env TENANT_INIT_APP__HOST=0.0.0.0)
    fi
    docker build --tag "$IMAGE" "$REPO" >&2
    say "starting the tenant with docker; Ctrl-C drains and stops it"
    exec docker run "${args[@]}" "$IMAGE" dev
fi

"$REPO/scripts/build.sh"
"$REPO/scripts/image.sh" >/dev/null
[[ -c /dev/fuse ]] || modprobe fuse 2>/dev/null || die "this machine has no /dev/fuse; the tenant's mount needs it"
if podman container exists tenant-init-dev; then
    die "a tenant started by 'make run' is running already (container tenant-init-dev)"
fi
say "starting the tenant with podman; Ctrl-C drains and stops it"
# runc: crun refuses machines with hybrid cgroups. The limits are ones that need no further capability.
exec podman --runtime "$(command -v runc || echo /usr/sbin/runc)" --cgroup-manager=cgroupfs run "${args[@]}" --network=host --no-healthcheck \
    --ulimit nofile=1024:4096 --ulimit nproc=1024:1024 "$IMAGE" dev
