"""The real Azure SDK for Python sends telemetry through the gateway; the hub double must show exactly what was sent.

Runs inside tests/sdk/in-namespace (the SDK dials 8883 and nothing else). Arguments: the folder of the binaries, the
folder of a minted site (`sphere-gateway certs`), the gateway's name, and a scratch folder.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import unittest
import urllib.request

from azure.iot.device import IoTHubDeviceClient, Message, X509

BIN, SITE, GATEWAY, SCRATCH = sys.argv[1:5]
HUB = "localhost"
EDGE = "edge1"
EDGE_KEY = base64.b64encode(os.urandom(32)).decode()
MESSAGES = 20


def site(name):
    with open(os.path.join(SITE, name), encoding="utf-8") as f:
        return f.read()


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)


def put(port, path, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=json.dumps(body).encode(),
        method="PUT",
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status


def wait_for(what, probe, seconds=60):
    deadline = time.monotonic() + seconds
    last = None
    while time.monotonic() < deadline:
        try:
            got = probe()
            if got:
                return got
            last = got
        except OSError as e:
            last = e
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} s, last seen: {last}")


class TelemetryThroughTheGateway(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.running = []
        hub = subprocess.Popen(
            [f"{BIN}/hub-double", "--hub-name", HUB, "--edge-id", EDGE, "--edge-key", EDGE_KEY]
            + ["--tls-cert", f"{SITE}/hub-server.chain.pem", "--tls-key", f"{SITE}/hub-server.key.pem"]
            + ["--amqp-port", "5671", "--https-port", "443", "--admin-port", "0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        cls.running.append(hub)
        cls.admin = json.loads(hub.stdout.readline())["admin"]
        cls.device = site("devices/ids.txt").split()[0]
        put(
            cls.admin,
            f"/devices/{cls.device}",
            {"authType": "certificateAuthority", "parent": EDGE},
        )
        storage = os.path.join(SCRATCH, "storage")
        os.makedirs(storage)
        cls.log = open(os.path.join(SCRATCH, "gateway.log"), "w", encoding="utf-8")
        environment = {
            "PATH": os.environ["PATH"],
            "IotHubConnectionString": f"HostName={HUB};DeviceId={EDGE};ModuleId=$edgeHub;SharedAccessKey={EDGE_KEY}",
            "EdgeDeviceHostName": GATEWAY,
            "EdgeHubDevServerCertificateFile": f"{SITE}/server.chain.pem",
            "EdgeHubDevServerPrivateKeyFile": f"{SITE}/server.key.pem",
            "EdgeHubDevTrustBundleFile": f"{SITE}/tenant-ca.pem",
            "upstreamSettings__trustBundleFile": f"{SITE}/hub-ca.pem",
            "StorageFolder": storage,
        }
        cls.running.append(
            subprocess.Popen([f"{BIN}/sphere-gateway", "run"], env=environment, stdout=cls.log, stderr=cls.log)
        )
        wait_for("gateway is healthy", lambda: get(9600, "/healthz"))

    @classmethod
    def tearDownClass(cls):
        for process in reversed(cls.running):
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=20) for process in reversed(cls.running)]
        cls.running[0].stdout.close()
        cls.log.close()
        assert codes[0] == 0, f"the gateway must end cleanly on SIGTERM, ended with {codes[0]}"

    def connect(self):
        # The key file's path is all that the SDK takes; it never leaves this machine.
        x509 = X509(
            cert_file=f"{SITE}/devices/device-1.chain.pem",
            key_file=f"{SITE}/devices/device-1.key.pem",
        )
        client = IoTHubDeviceClient.create_from_x509_certificate(
            x509=x509,
            hostname="hub.example",
            device_id=self.device,
            gateway_hostname=GATEWAY,
            server_verification_cert=site("edge-root.pem"),
        )
        # The first scope refresh may still be under way: the SDK's own retry policy covers CONNACK 3.
        wait_for("connected", lambda: self.connected(client))
        return client

    @staticmethod
    def connected(client):
        try:
            client.connect()
        except Exception as e:  # the SDK's errors have no common base that tells 'try again'
            print(f"connect: {e!r}", file=sys.stderr)
        return client.connected

    def test_the_hub_shows_exactly_what_the_sdk_sent(self):
        client = self.connect()
        sent = []
        for number in range(MESSAGES):
            message = Message(json.dumps({"number": number, "text": "Größe ✓"}))
            message.message_id = f"py-{number}"
            message.correlation_id = "cor 1/2"
            message.user_id = "user+1"
            message.content_type = "application/json"
            message.content_encoding = "utf-8"
            message.custom_properties["alert level"] = "high&low=é"
            message.custom_properties["empty"] = ""
            message.custom_properties["number"] = str(number)
            client.send_message(message)
            sent.append(message)
        client.disconnect()
        client.shutdown()

        def arrived():
            found = get(self.admin, f"/messages?device={self.device}&limit=1000")["messages"]
            return found if len(found) >= MESSAGES else None

        got = wait_for("all messages are at the hub", arrived)
        self.assertEqual(len(got), MESSAGES)
        for message, seen in zip(sent, got):
            self.assertEqual(seen["deviceId"], self.device)
            self.assertIsNone(seen["moduleId"])
            self.assertEqual(seen["annotations"]["iothub-connection-device-id"], self.device)
            system = seen["systemProperties"]
            self.assertEqual(system["message-id"], message.message_id)
            self.assertEqual(system["correlation-id"], message.correlation_id)
            self.assertEqual(system["user-id"], message.user_id)
            self.assertEqual(system["content-type"], message.content_type)
            self.assertEqual(system["content-encoding"], message.content_encoding)
            self.assertEqual(seen["properties"], dict(message.custom_properties))
            self.assertEqual(seen["body"], message.data)

        counts = get(self.admin, "/counts")
        self.assertEqual((counts["duplicates"], counts["reordered"]), (0, 0))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
