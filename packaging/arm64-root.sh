# A root folder with Debian's Rust and its cross compiler for aarch64 (glibc 2.36: runs on Debian 12 and later), so that
# this machine's packages stay as they are. To be sourced, before anything else, by a script that sets `self` to its own
# path; the script then starts again in a mount namespace of its own, where all mounts live and with which they go.
# Sets `target`, `work`, `root`, `triple` and `inside`. Needs root; the first time takes some minutes and 1.6 GB.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "this makes a root folder of its own: run it as root" >&2; exit 1; }
if [ -z "${SPHERE_OWN_MOUNTS:-}" ]; then
    SPHERE_OWN_MOUNTS=1 exec unshare --mount --propagation private "$self" "$@"
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
work=$target/arm64
root=$work/root
triple=aarch64-unknown-linux-gnu

need() { # command, Debian package
    command -v "$1" >/dev/null 2>&1 && return
    [ -n "${updated:-}" ] || { apt-get -qq update; updated=1; }
    apt-get -qq install -y --no-install-recommends "$2" >/dev/null
}
need mmdebstrap mmdebstrap
need qemu-aarch64-static qemu-user-static
need readelf binutils

# What builds, then what the integration tests run: `kill`, and volumes of their own.
packages=ca-certificates,rustc-web,cargo-web,libstd-rust-web-dev,libstd-rust-web-dev:arm64,gcc,libc6-dev
packages=$packages,gcc-aarch64-linux-gnu,libc6-dev:arm64,libgcc-s1:arm64,binutils-aarch64-linux-gnu
packages=$packages,procps,mount,e2fsprogs
mkdir -p "$work"
exec 9>"$work/lock"
flock --nonblock 9 || { echo "another one works in $root: waiting for it" >&2; flock 9; }
if [ "$(cat "$root/ready" 2>/dev/null)" != "$packages" ]; then
    # Only files: whoever mounted something there did so in a namespace that is gone.
    if grep -q " $root/" /proc/self/mountinfo; then echo "something is mounted below $root" >&2; exit 1; fi
    rm -rf "$root"
    # Where this machine's own packages come from, in either form of apt's lists.
    mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true; } \
        | sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' | sed -n 1p)
    mirror=${mirror%/}
    printf 'deb %s bookworm main\ndeb %s-security bookworm-security main\n' "$mirror" "$mirror" >"$work/sources"
    mmdebstrap --quiet --architectures=amd64,arm64 --variant=apt --include="$packages" bookworm "$root" "$work/sources"
    rm -rf "$root"/var/cache/apt/*.bin "$root"/var/lib/apt/lists/*
    mkdir -p "$root/cargo/registry" "$root/src" "$root/target"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
    echo "$packages" >"$root/ready"
fi

# The crates come from this machine's own cache: nothing is asked of a network inside.
cargo fetch --quiet --locked
# A mount itself, so that it can be the root of one.
mount --bind "$root" "$root"
mount --bind "${CARGO_HOME:-$HOME/.cargo}/registry" "$root/cargo/registry"
mount --bind "$PWD" "$root/src"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
inside() {
    # Not chroot: whoever enters a mount namespace gets that one's root, and some tests do.
    unshare --mount --propagation private sh -c 'cd "$0" && pivot_root . . && umount -l . && cd / && exec "$@"' "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root CARGO_HOME=/cargo CARGO_NET_OFFLINE=true \
        CARGO_TARGET_DIR=/target CARGO_TERM_COLOR=never CARGO_TERM_PROGRESS_WHEN=never \
        ${CARGO_BUILD_JOBS:+CARGO_BUILD_JOBS="$CARGO_BUILD_JOBS"} \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
        RUSTFLAGS="${RUSTFLAGS:-}" "$@"
}
# Whether flags for the compiler take for granted what a Raspberry Pi 4 lacks.
assumes_aes() {
    inside rustc --print cfg --target $triple "$@" | grep -qE 'target_feature="(aes|sha2)"'
}
if assumes_aes ${RUSTFLAGS:-}; then
    echo "these flags take for granted what a Raspberry Pi 4 lacks: build for the generic target" >&2
    exit 1
fi
