"""Devices with symmetric keys, whose SDKs renew their tokens, while the hub is away and the gateway is killed and started
again: they come back by themselves with what the gateway keeps on disk, and what was acknowledged reaches the hub.

Arguments: the folder of the binaries, the folder of a minted site (`sphere-gateway certs`), a scratch folder.
"""

import sys
import unittest

from asking import wait_for
from devices import NodeDevice, PythonDevice, Refusal, ways
from running import Gateway, Hub, Site, new_key, run_tests

SITE = Site(*sys.argv[1:4])
MESSAGES = 10


class Sender:
    """Numbers its messages; each is sent until the SDK says that it was taken."""

    def __init__(self, name, device):
        self.name, self.device, self.acknowledged = name, device, []

    def send_some(self):
        for _ in range(MESSAGES):
            number = len(self.acknowledged)
            wait_for(f"{self.name} sends {number}", lambda: self.sends(number))
            self.acknowledged.append(f"m-{number}")

    def sends(self, number):
        try:
            self.device.send(f"{self.name} {number}", message_id=f"m-{number}")
        except Refusal as error:  # the connection broke before the PUBACK: as any application does
            print(f"{self.name} {number}: {error}, once more", file=sys.stderr)
            return False
        return True


class RestartOfTheGateway(unittest.TestCase):
    def setUp(self):
        self.hub = Hub(SITE)
        self.addCleanup(self.hub.end)
        keys = {"py-key": new_key(), "node-key": new_key()}
        for name, key in keys.items():
            self.hub.put_child(name, primaryKey=key)
        self.gateway = Gateway(SITE, self.hub, auditSettings__enabled="true")
        self.addCleanup(self.gateway.end)
        way, _ = ways(SITE)
        # Both have a new token, and so a new connection, every three seconds. (The margin of the Python SDK is 120 s.)
        python = PythonDevice.with_key(way, "py-key", keys["py-key"], sastoken_ttl=123)
        self.addCleanup(python.end)
        node = NodeDevice.with_key(way, "node-key", keys["node-key"], renewal=[10, 7], retries=True)
        self.addCleanup(node.end)
        self.senders = [Sender("py-key", python), Sender("node-key", node)]

    def all_send(self):
        for sender in self.senders:
            sender.send_some()

    def come_back(self, times):
        """Each is let in so often from now on."""
        for sender in self.senders:
            now = self.gateway.admissions(sender.name)
            wait_for(
                f"{sender.name} renews its token",
                lambda: self.gateway.admissions(sender.name) >= now + times,
            )

    def test_what_was_acknowledged_arrives(self):
        for sender in self.senders:
            sender.device.connect()
        self.all_send()
        self.come_back(times=1)
        self.all_send()
        self.hub.away()
        self.all_send()
        self.gateway.kill()
        self.gateway.start()
        # The hub is still away: keys and scope are those on disk.
        self.all_send()
        self.come_back(times=1)
        self.all_send()
        self.hub.back()
        for sender in self.senders:
            with self.subTest(sender.name):
                expected = set(sender.acknowledged)
                self.assertEqual(len(expected), 5 * MESSAGES)

                def identified():
                    found = {m["systemProperties"]["message-id"]: m["body"] for m in self.hub.messages(sender.name)}
                    return found if expected <= found.keys() else None

                found = wait_for("all acknowledged messages are at the hub", identified)
                self.assertEqual(found, {f"m-{n}": f"{sender.name} {n}" for n in range(5 * MESSAGES)})
        self.assertEqual(self.gateway.refusals("py-key") + self.gateway.refusals("node-key"), [])


if __name__ == "__main__":
    run_tests()
