#!/usr/bin/env bash
# Prints the path of a minimal Debian trixie root (directory), made once with debootstrap into the cache.
# It becomes the base image where no container registry is reached, and the room linux.uml runs in.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

root=$CACHE/trixie/root
if [[ ! -e $root.complete ]]; then
    lock trixie
    if [[ ! -e $root.complete ]]; then
        [[ $(id -u) == 0 ]] || die "debootstrap needs root"
        need_packages debootstrap debian-archive-keyring
        mirror=$(debian_mirror)
        rm -rf "$root"
        mkdir -p "$root"
        chmod 755 "$root"
        step "making a Debian trixie root with debootstrap" \
            debootstrap --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg trixie "$root" "$mirror"
        # What the slim image leaves out too; /tmp must be there and empty.
        rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/* "$root"/tmp/*
        touch "$root.complete"
    fi
fi
printf '%s\n' "$root"
