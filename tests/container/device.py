"""Devices of the container test, with Python's own modules only: MQTT 3.1.1 over TLS with a client certificate.

    device.py publish ADDRESS:PORT SITE INDEX COUNT WINDOW
                                        publishes COUNT messages at QoS 1, WINDOW under way, ends when each has its PUBACK
    device.py hold ADDRESS:PORT SITE COUNT
                                        connects COUNT devices, says so, holds them until its input ends

SITE is a folder that `sphere-gateway certs` made. Prints what it did; exit status 0 if all of it worked.
"""

import socket
import ssl
import struct
import sys
import time

GATEWAY = "gateway.example"
HUB = "hub.example"


def packet(kind, body):
    length, head = len(body), bytes([kind])
    while True:
        length, digit = divmod(length, 128)
        head += bytes([digit | (0x80 if length else 0)])
        if not length:
            return head + body


def text(value):
    data = value.encode()
    return struct.pack(">H", len(data)) + data


class Device:
    def __init__(self, address, site, index):
        # 3: the gateway does not know its devices yet, "try again" [MQTT-3.2.2.3].
        for _ in range(120):
            code = self.connect(address, site, index)
            if code == 0:
                return
            if code != 3:
                break
            self.stream.close()
            time.sleep(0.5)
        raise SystemExit(f"{self.id}: not let in: CONNACK {code}")

    def connect(self, address, site, index):
        host, port = address.rsplit(":", 1)
        with open(f"{site}/devices/ids.txt", encoding="utf-8") as ids:
            self.id = ids.read().split()[index]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(f"{site}/edge-root.pem")
        files = f"{site}/devices/device-{index + 1}"
        context.load_cert_chain(f"{files}.chain.pem", f"{files}.key.pem")
        raw = socket.create_connection((host, int(port)), timeout=60)
        self.stream = context.wrap_socket(raw, server_hostname=GATEWAY)
        self.read = b""
        user = f"{HUB}/{self.id}/?api-version=2020-09-30&DeviceClientType=container-test"
        body = text("MQTT") + bytes([4, 0x82]) + struct.pack(">H", 0) + text(self.id) + text(user)
        self.stream.sendall(packet(0x10, body))
        kind, answer = self.packet()
        if kind != 0x20:
            raise SystemExit(f"{self.id}: {kind:#x} {answer!r} where CONNACK was expected")
        return answer[1]

    def packet(self):
        """The next packet: its first byte and its body. The answers of this test are shorter than 128 bytes."""
        while len(self.read) < 2 or len(self.read) < 2 + self.read[1]:
            data = self.stream.recv(65536)
            if not data:
                raise SystemExit(f"{self.id}: the gateway closed the connection")
            self.read += data
        end = 2 + self.read[1]
        got, self.read = (self.read[0], self.read[2:end]), self.read[end:]
        return got

    def publish(self, count, window):
        sent = acked = 0
        topic = text(f"devices/{self.id}/messages/events/$.ct=application%2Fjson&$.ce=utf-8")
        while acked < count:
            # Half a window at a time: many messages go in one TLS record.
            if sent < count and sent - acked <= window // 2:
                waiting = []
                while sent < count and sent - acked < window:
                    number = struct.pack(">H", sent % 65535 + 1)
                    waiting.append(packet(0x32, topic + number + b'{"n":%d}' % sent))
                    sent += 1
                self.stream.sendall(b"".join(waiting))
            kind, answer = self.packet()
            expected = struct.pack(">H", acked % 65535 + 1)
            if kind != 0x40 or answer != expected:
                raise SystemExit(f"{self.id}: {kind:#x} {answer!r} where PUBACK {expected!r} was expected")
            acked += 1


def main():
    action, address, site = sys.argv[1:4]
    if action == "publish":
        index, count, window = (int(word) for word in sys.argv[4:7])
        device = Device(address, site, index)
        device.publish(count, window)
        print(f"{count} messages have their PUBACK")
    elif action == "hold":
        held = [Device(address, site, index) for index in range(int(sys.argv[4]))]
        print(f"{len(held)} devices are connected", flush=True)
        sys.stdin.read()
    else:
        raise SystemExit(__doc__)


main()
