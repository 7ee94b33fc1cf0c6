"""What real Azure SDKs report when the gateway refuses them: the error that IoT Hub would give. And that they get in once the
reason is gone, with the gateway as it runs.

IoT Hub answers a CONNECT with bad, expired or foreign credentials, and one of a disabled device, by CONNACK 5 (not authorised).
What an SDK makes of that:

- Python (`common/mqtt_transport.py`, `paho_connack_rc_to_error`): 4 and 5 become `UnauthorizedError`, which `handle_result`
  (`iothub/sync_clients.py`) turns into `CredentialError`: wrong for good, the SDK does not try again by itself. 3 becomes
  `ConnectionFailedError`, which it takes for transient.
- Node (`azure-iot-device-mqtt/dist/mqtt.js`, `azure-iot-mqtt-base/dist/mqtt_translate_error.js`): on the first connection the
  text of the CONNACK decides: 4 and 5 become `UnauthorizedError`, which its retry policy does not try again; 3 becomes
  `ServiceUnavailableError`, which it does. But so becomes a refused TCP connection `UnauthorizedError` there, so the text is
  looked at as well.

The reading is not trusted: each SDK also goes straight to the hub's name, where a stub answers that code, and the two errors
must be the same in class and text. Where the gateway's code differed, that could not be.

Arguments: the folder of the binaries, the folder of a minted site (`sphere-gateway certs`), a scratch folder.
"""

import sys
import unittest

from asking import wait_for
from certificates import Authority
from devices import NodeDevice, PythonDevice, Refusal, ways
from running import Gateway, Hub, Site, new_key, run_tests
from stub import RefusingHub

SITE = Site(*sys.argv[1:4])

NOT_AUTHORISED = {
    "py": Refusal("CredentialError", "Connection Refused: not authorised."),
    "node": Refusal(
        "UnauthorizedError",
        "mqtt.js returned Failure on first connection (Not authorized): Connection refused: Not authorized error",
    ),
}
UNAVAILABLE = {"py": "ConnectionFailedError", "node": "ServiceUnavailableError"}

# What is wrong, of which device, and the reason that the administrator is told.
CASES = {
    # First: their asks of the hub are few, so that each is answered at once.
    "disabled": [
        ("py-key-disabled", "disabled"),
        ("py-x509-disabled", "disabled"),
        ("node-key-disabled", "disabled"),
    ],
    "expired": [
        ("py-key-expired", "sas_expired"),
        ("py-x509-expired", "expired"),
        ("node-key-expired", "sas_expired"),
    ],
    "wrong": [
        ("py-key-wrong", "sas_signature"),
        ("py-x509-foreign", "unknown_ca"),
        ("py-x509-other", "common_name"),
        ("node-key-wrong", "sas_signature"),
    ],
}


class RefusedAsByTheHub(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hub = Hub(SITE)
        cls.addClassCleanup(cls.hub.end)
        cls.stub = RefusingHub(SITE)
        cls.addClassCleanup(cls.stub.end)
        tenant = Authority(SITE.in_scratch("tenant"), SITE.path("tenant-ca.pem"), SITE.path("tenant-ca.key.pem"))
        foreign = Authority.foreign(SITE.in_scratch("foreign"), "Foreign CA")
        cls.keys, cls.right, cls.wrong = {}, {}, {}
        for device in [device for cases in CASES.values() for device, _ in cases]:
            status = "disabled" if device.endswith("-disabled") else "enabled"
            if "-x509-" in device:
                cls.hub.put_child(device, authType="certificateAuthority", status=status)
                cls.right[device] = tenant.issue(f"{device}-right", device)
            else:
                cls.keys[device] = new_key()
                cls.hub.put_child(device, primaryKey=cls.keys[device], status=status)
        past = ("20200101000000Z", "20200102000000Z")
        cls.wrong["py-x509-expired"] = tenant.issue("expired", "py-x509-expired", past)
        cls.wrong["py-x509-foreign"] = foreign.issue("foreign", "py-x509-foreign")
        cls.wrong["py-x509-other"] = tenant.issue("other", "py-x509-disabled")
        cls.gateway = Gateway(SITE, cls.hub, DeviceScopeCacheRefreshDelaySecs="0")
        cls.addClassCleanup(cls.gateway.end)
        cls.through, cls.straight = ways(SITE)

    def device(self, way, name):
        """With the right credentials."""
        if name in self.right:
            return PythonDevice.with_certificate(way, name, self.right[name])
        kind = PythonDevice if name.startswith("py-") else NodeDevice
        return kind.with_key(way, name, self.keys[name])

    def bad_device(self, way, name):
        if name in self.wrong:
            return PythonDevice.with_certificate(way, name, self.wrong[name])
        kind = PythonDevice if name.startswith("py-") else NodeDevice
        if name.endswith("-expired"):
            return kind.with_expired_token(way, name, self.keys[name])
        if name.endswith("-wrong"):
            return kind.with_key(way, name, new_key())
        return self.device(way, name)

    def refusal(self, device):
        with self.assertRaises(Refusal) as caught:
            device.connect()
        return caught.exception

    def by_the_hub(self, name, code):
        self.stub.code = code
        device = self.bad_device(self.straight, name)
        try:
            return self.refusal(device)
        finally:
            device.end()

    def is_refused(self, device, name, reason):
        error = self.refusal(device)
        self.assertEqual(error, NOT_AUTHORISED[name.split("-")[0]])
        self.assertEqual(error, self.by_the_hub(name, 5))
        told = [(refusal["stage"], refusal["reason"]) for refusal in self.gateway.refusals(name)]
        self.assertEqual(told, [("connect", reason)])

    def gets_in(self, device, name):
        device.connect()
        device.send(f"from {name}")
        wait_for("the message is at the hub", lambda: self.hub.messages(name))

    def test_disabled(self):
        for name, reason in CASES["disabled"]:
            with self.subTest(name):
                device = self.bad_device(self.through, name)
                try:
                    self.is_refused(device, name, reason)
                    spec = {"primaryKey": self.keys[name]} if name in self.keys else {"authType": "certificateAuthority"}
                    self.hub.put_child(name, status="enabled", **spec)
                    asked = self.hub.get("/counts")["scopeSingles"]
                    # The same object, at its first try: the gateway asks the hub about this one.
                    self.gets_in(device, name)
                    self.assertEqual(self.hub.get("/counts")["scopeSingles"], asked + 1)
                finally:
                    device.end()

    def test_expired(self):
        self.is_refused_until_it_has_the_right_credentials("expired")

    def test_wrong(self):
        self.is_refused_until_it_has_the_right_credentials("wrong")

    def is_refused_until_it_has_the_right_credentials(self, kind):
        for name, reason in CASES[kind]:
            with self.subTest(name):
                device = self.bad_device(self.through, name)
                try:
                    self.is_refused(device, name, reason)
                finally:
                    device.end()
                device = self.device(self.through, name)
                try:
                    self.gets_in(device, name)
                finally:
                    device.end()

    def test_the_comparison_tells_codes_apart(self):
        for name in ["py-key-wrong", "py-x509-other", "node-key-wrong"]:
            with self.subTest(name):
                sdk = name.split("-")[0]
                self.assertEqual(self.by_the_hub(name, 3).kind, UNAVAILABLE[sdk])
                self.assertEqual(self.by_the_hub(name, 4).kind, NOT_AUTHORISED[sdk].kind)
                self.assertNotEqual(self.by_the_hub(name, 4), NOT_AUTHORISED[sdk])


if __name__ == "__main__":
    run_tests()
