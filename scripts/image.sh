#!/usr/bin/env bash
# Builds the tenant image with podman, without a container registry, and prints its name.
#
#   scripts/image.sh            takes the binary target/release/tenant-init (or $TENANT_INIT_BIN) as it is
#   scripts/image.sh --source   compiles it inside the image, as `docker build .` does
#   scripts/image.sh --runtime  only the stage with everything but our own files: needs no binary
#   … --semantic                with the libraries and the model for semantic search, as NAME-semantic:TAG
#
# TENANT_INIT_IMAGE names the result (default tenant-init:local). The stage with everything but our own files is
# kept as NAME-runtime:TAG: the tests' virtual machine adds its tools to that.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

[[ $(uname -s) == Linux && $(id -u) == 0 ]] || die "building with podman as here needs root on Linux; elsewhere: docker build ."
binary=prebuilt
search=keyword
for option; do
    case $option in
    --source) binary=source ;;
    --runtime) binary=none ;;
    --semantic) search=semantic ;;
    *) die "no option $option: --source, --runtime or --semantic" ;;
    esac
done
[[ $search == keyword ]] || IMAGE=${IMAGE%:*}-$search:${IMAGE##*:}

"$REPO/scripts/base-image.sh"
[[ $binary != source ]] || "$REPO/scripts/rust-image.sh"
lock "image-${IMAGE//[^a-zA-Z0-9]/-}"

# A context of its own with only what the Dockerfile copies: walking target/ would take longer than the build.
context=$(mktemp -d "$CACHE/tmp.XXXXXX")
trap 'rm -rf "$context"' EXIT
cd "$REPO"
cp -a --parents Dockerfile entrypoint scripts/locks scripts/model.py "$context"
[[ ! -d adapter ]] || cp -a adapter "$context"
if [[ $binary == source ]]; then
    cp -a --parents Cargo.toml Cargo.lock build.rs src "$context"
elif [[ $binary == prebuilt ]]; then
    bin=${TENANT_INIT_BIN:-$REPO/target/release/tenant-init}
    [[ -x $bin ]] || die "there is no $bin: build it first with 'make build'"
    mkdir -p "$context/target/release"
    cp "$bin" "$context/target/release/tenant-init"
fi
find "$context" -name __pycache__ -prune -exec rm -rf {} +

args=(--isolation=chroot --network=host --format=docker --layers --build-arg "BINARY=$binary" --build-arg "SEARCH=$search")
# A machine whose way to the package registries has a certificate authority of its own says so in these variables.
ca=${PIP_CERT:-${SSL_CERT_FILE:-}}
if [[ -n $ca && -f $ca ]]; then
    args+=(--secret "id=ca,src=$ca" --build-arg SSL_CERT_FILE=/run/secrets/ca --build-arg PIP_CERT=/run/secrets/ca --build-arg CARGO_HTTP_CAINFO=/run/secrets/ca)
else
    args+=(--secret "id=ca,src=/dev/null")
fi

log=$CACHE/image-build.log
start=$SECONDS
# Of podman's output the commands that take time, each once.
show() { sed -nu 's/^.*STEP [0-9/]*: RUN \(--mount[^ ]* *\)*/  /p' | awk '!seen[$0]++ { print substr($0, 1, 120); fflush() }'; }
# build TAG INPUTS ARGS…: unless the image is there and was made from the same inputs. podman's own cache would find
# that out too, but reads every file again for it.
build() {
    local tag=$1 inputs=$2 record
    shift 2
    record=$CACHE/image-${tag//[^a-zA-Z0-9]/-}.inputs
    [[ ! -e $record || $(<"$record") != "$inputs $(image_id "$tag")" ]] || return 0
    say "building the image $tag"
    podman build "${args[@]}" --tag "$tag" "$@" "$context" 2>&1 | tee "$log" | show >&2 ||
        { tail -n 40 "$log" >&2; die "the image build failed; its last lines are above, all of them in $log"; }
    echo "$inputs $(image_id "$tag")" >"$record"
}
image_id() { podman image inspect --format '{{.Id}}' "$1" 2>/dev/null || true; }
runtime=${IMAGE%:*}-runtime:${IMAGE##*:}
podman image exists "$runtime" || say "the first time takes some minutes (Debian's packages, then basic-memory's)"
digest() { (cd "$context" && find "$@" -type f -print0 | sort -z | xargs -0 sha256sum && image_id debian:trixie-slim) | sha256sum | cut -c1-32; }
build "$runtime" "$(digest Dockerfile scripts)" --target runtime
[[ $binary != none ]] || { printf '%s\n' "$runtime"; exit 0; }
build "$IMAGE" "$(digest .)"
say "image $IMAGE is ready after $((SECONDS - start)) s"
printf '%s\n' "$IMAGE"
