# An engine of one's own, started by hand and gone at the end. To be sourced from the top of the checkout; sets `work` and
# DOCKER_HOST. Needs root; installs Debian's docker.io when there is no engine.
target=${CARGO_TARGET_DIR:-$PWD/target}
work=$target/container
[ "$(id -u)" = 0 ] || { echo "this starts a container engine of its own: run it as root" >&2; exit 1; }

install() { # Debian package
    [ -n "${updated:-}" ] || { apt-get -qq update; updated=1; }
    apt-get -qq install -y --no-install-recommends "$1" >/dev/null
}

need() { # command, Debian package
    command -v "$1" >/dev/null 2>&1 || install "$2"
}

# The client that belongs to the engine of the package: another one may come first in PATH.
PATH=/usr/bin:/usr/sbin:$PATH
need dockerd docker.io
need readelf binutils
need python3 python3
need iptables iptables
need ip iproute2

# One at a time on a machine: they share a bridge, its addresses and the rules that are put back.
mkdir -p /run/lock
exec 8>/run/lock/sphere-gateway-engine
flock --nonblock 8 || { echo "another test has its engine running: waiting for it" >&2; flock 8; }

mkdir -p "$work"
engine=$(mktemp -d "$work/engine.XXXXXX")
rules=$engine/rules
bridge=sphere-test0

cleanup() {
    # What runs in it ends first: the engine would leave it running.
    docker ps -aq 2>/dev/null | xargs -r docker rm -f >/dev/null 2>&1 || true
    docker network prune -f >/dev/null 2>&1 || true
    if [ -e "$engine/pid" ]; then kill "$(cat "$engine/pid")" 2>/dev/null || true; fi
    for _ in $(seq 100); do [ -e "$engine/pid" ] || break; sleep 0.1; done
    ip link delete "$bridge" 2>/dev/null || true
    # The engine's own chains would stay.
    if [ -s "$rules" ]; then iptables-restore <"$rules" 2>/dev/null || true; fi
    rm -rf "$engine"
}
trap cleanup EXIT
iptables-save >"$rules" 2>/dev/null || true
ip link delete "$bridge" 2>/dev/null || true
ip link add "$bridge" type bridge
ip addr add 10.232.77.1/24 dev "$bridge"
export DOCKER_HOST=unix://$engine/socket
dockerd --data-root "$engine/data" --exec-root "$engine/exec" --pidfile "$engine/pid" --host "$DOCKER_HOST" \
    --exec-opt native.cgroupdriver=cgroupfs --bridge "$bridge" 8>&- >"$work/dockerd.log" 2>&1 &
for _ in $(seq 300); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
docker version >/dev/null || { tail -n 20 "$work/dockerd.log" >&2; exit 1; }
