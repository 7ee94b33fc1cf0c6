#!/bin/sh
# The real Azure SDK for Node sends telemetry over AMQP straight to the hub double; the double must show exactly that.
# Then it reads, reports and follows twins, answers direct methods and takes cloud-to-device messages.
#
# The SDK always dials port 5671 of the hub's name. So everything runs in a network namespace of its own (needs root),
# with a hosts file that puts the name on loopback: nothing outside is reached, and no port clashes.
#
# HUB_DOUBLE: the binary to check (default: built here with cargo). Exit status 0 only when all is as sent.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
hub=hub-double.example
device=node-dev1

inside() {
    work=$1
    ip link set lo up
    printf '127.0.0.1 localhost %s\n' "$hub" >"$work/hosts"
    mount --bind "$work/hosts" /etc/hosts

    mkfifo "$work/ports" "$work/hold"
    # The double ends when its standard input is closed: however this script ends, nothing stays behind.
    HUB_DOUBLE_EDGE_KEY=$(openssl rand -base64 32) "$HUB_DOUBLE" --hub-name "$hub" --edge-id edge1 \
        --tls-cert "$work/chain.pem" --tls-key "$work/server.key" --amqp-port 5671 \
        --devices "$work/devices.json" --exit-with-stdin <"$work/hold" >"$work/ports" &
    double=$!
    exec 3>"$work/hold"
    read -r ports <"$work/ports"
    admin=$(printf '%s' "$ports" | sed 's/.*"admin":\([0-9]*\).*/\1/')

    status=0
    CA_FILE="$work/root.pem" DEVICE_KEY=$(cat "$work/device.key") \
        timeout 120 node "$here/telemetry.js" &&
        timeout 60 node "$here/check.js" "$admin" &&
        CA_FILE="$work/root.pem" DEVICE_KEY=$(cat "$work/device.key") \
            timeout 120 node "$here/twin.js" "$admin" &&
        CA_FILE="$work/root.pem" DEVICE_KEY=$(cat "$work/device.key") \
            timeout 60 node "$here/c2d.js" "$admin" || status=1
    exec 3>&-
    wait "$double" || status=1
    return $status
}

certificates() {
    curve='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
    # shellcheck disable=SC2086
    openssl req -x509 $curve -keyout root.key -out root.pem -days 2 -subj '/CN=hub double root' \
        -addext 'basicConstraints=critical,CA:TRUE' 2>/dev/null
    # shellcheck disable=SC2086
    openssl req $curve -keyout server.key -out server.csr -subj "/CN=$hub" 2>/dev/null
    printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth\n' "$hub" >server.ext
    openssl x509 -req -in server.csr -CA root.pem -CAkey root.key -CAcreateserial -days 2 \
        -extfile server.ext -out server.pem 2>/dev/null
    cat server.pem root.pem >chain.pem
}

if [ "${1:-}" = --inside ]; then
    inside "$2"
    exit $?
fi

if [ -z "${HUB_DOUBLE:-}" ]; then
    root=$(cd "$here/../../.." && pwd)
    (cd "$root" && cargo build --quiet -p hub-double)
    HUB_DOUBLE=${CARGO_TARGET_DIR:-$root/target}/debug/hub-double
fi
export HUB_DOUBLE

"$here/install"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(
    cd "$work"
    umask 077
    certificates
    openssl rand -base64 32 >device.key
    key=$(cat device.key)
    cat >devices.json <<JSON
{"devices":[{"deviceId":"$device","primaryKey":"$key"}],
 "modules":[{"deviceId":"$device","moduleId":"node-mod1","secondaryKey":"$key"}]}
JSON
)
unshare -n -m sh "$0" --inside "$work"
