"""Real Azure SDKs send telemetry through the gateway; the hub double must show exactly what was sent, under its sender's name.

Arguments: the folder of the binaries, the folder of a minted site (`sphere-gateway certs`), a scratch folder.
"""

import json
import sys
import unittest

from asking import wait_for
from devices import NodeDevice, PythonDevice, ways
from running import EDGE, Gateway, Hub, Site, new_key, run_tests

SITE = Site(*sys.argv[1:4])
MESSAGES = 20


class TelemetryThroughTheGateway(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hub = Hub(SITE)
        cls.addClassCleanup(cls.hub.end)
        cls.sphere, cls.files = SITE.sphere()
        cls.keys = {name: new_key() for name in ("py-key", "node-key", "edge-module", "leaf-module")}
        cls.hub.put_child(cls.sphere, authType="certificateAuthority")
        cls.hub.put_child("py-key", primaryKey=cls.keys["py-key"])
        # The secondary key does as well.
        cls.hub.put_child("node-key", primaryKey=new_key(), secondaryKey=cls.keys["node-key"])
        cls.hub.put(f"/devices/{EDGE}/modules/sensor", primaryKey=cls.keys["edge-module"])
        cls.hub.put("/devices/py-key/modules/meter", primaryKey=cls.keys["leaf-module"])
        cls.gateway = Gateway(SITE, cls.hub)
        cls.addClassCleanup(cls.gateway.end)
        cls.way, _ = ways(SITE)

    def sends(self, client, device, module=None):
        sent = []
        try:
            client.connect()
            for number in range(MESSAGES):
                system = {
                    "message_id": f"m-{number}",
                    "correlation_id": "cor 1/2",
                    "user_id": "user+1",
                    "content_type": "application/json",
                    "content_encoding": "utf-8",
                }
                properties = {"alert level": "high&low=é", "empty": "", "number": str(number)}
                body = json.dumps({"number": number, "text": "Größe ✓", "from": device})
                client.send(body, properties, **system)
                sent.append((body, properties, system))
        finally:
            client.end()

        def arrived():
            found = self.hub.messages(device, module)
            return found if len(found) >= MESSAGES else None

        got = wait_for("all messages are at the hub", arrived)
        self.assertEqual(len(got), MESSAGES)
        for (body, properties, system), seen in zip(sent, got):
            self.assertEqual((seen["deviceId"], seen["moduleId"]), (device, module))
            self.assertEqual(seen["annotations"]["iothub-connection-device-id"], device)
            self.assertEqual(seen["annotations"].get("iothub-connection-module-id"), module)
            for field, value in system.items():
                self.assertEqual(seen["systemProperties"][field.replace("_", "-")], value, field)
            self.assertEqual(seen["properties"], properties)
            self.assertEqual(seen["body"], body)
        counts = self.hub.get("/counts")
        self.assertEqual((counts["duplicates"], counts["reordered"]), (0, 0))

    def test_python_with_a_certificate(self):
        self.sends(PythonDevice.with_certificate(self.way, self.sphere, self.files), self.sphere)

    def test_python_with_a_symmetric_key(self):
        self.sends(PythonDevice.with_key(self.way, "py-key", self.keys["py-key"]), "py-key")

    def test_python_as_a_module_of_the_edge_device(self):
        key = self.keys["edge-module"]
        self.sends(PythonDevice.with_connection_string(self.way, EDGE, key, "sensor"), EDGE, "sensor")

    def test_python_as_a_module_of_a_leaf_device(self):
        key = self.keys["leaf-module"]
        self.sends(PythonDevice.with_connection_string(self.way, "py-key", key, "meter"), "py-key", "meter")

    def test_node_with_a_symmetric_key(self):
        self.sends(NodeDevice.with_key(self.way, "node-key", self.keys["node-key"]), "node-key")


if __name__ == "__main__":
    run_tests()
