#!/usr/bin/env bash
# Prints the path of User-mode Linux as Debian forky packages it: a kernel that runs as an ordinary process and has
# an NFS client (this machine's kernel may have none). Fetched by apt with Debian's signatures, unpacked into the cache.
# Debian 12's and 13's own packages of it crash on processors with AVX-512 or AMX state.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

tested=7.2
dir=$CACHE/uml
if [[ ! -e $dir/.complete ]]; then
    lock uml
    if [[ ! -e $dir/.complete ]]; then
        need_packages debian-archive-keyring
        mirror=$(debian_mirror)
        work=$(mktemp -d "$CACHE/tmp.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        mkdir -p "$work"/{lists/partial,archives/partial,etc}
        touch "$work/status"
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror forky main" >"$work/etc/sources.list"
        # An apt of its own: forky must not become visible to the machine's.
        apt_forky() {
            (cd "$work" && apt-get -q -o Dir::Etc::SourceList="$work/etc/sources.list" -o Dir::Etc::SourceParts=/dev/null \
                -o Dir::Etc::Parts=/dev/null -o Dir::State::Lists="$work/lists" -o Dir::State::Status="$work/status" \
                -o Dir::Cache="$work" -o Dir::Cache::Archives="$work/archives" -o APT::Sandbox::User=root \
                -o APT::Architecture=amd64 "$@")
        }
        step "reading forky's list of packages" apt_forky update
        step "fetching user-mode-linux" apt_forky download user-mode-linux
        deb=$(echo "$work"/user-mode-linux_*.deb)
        version=$(dpkg-deb -f "$deb" Version)
        [[ $version == "$tested"* ]] || say "note: this is user-mode-linux $version, the tests were written with $tested"
        rm -rf "$dir"
        mkdir -p "$dir"
        dpkg-deb -x "$deb" "$dir"
        [[ -x $dir/usr/bin/linux.uml ]] || die "the package user-mode-linux $version has no /usr/bin/linux.uml"
        echo "$version" >"$dir/version"
        touch "$dir/.complete"
    fi
fi
printf '%s\n' "$dir"
