"""What the tests run against: the hub double and the gateway, as processes of their own.

Owns: their starts, ends and administration. Must not know: the SDKs. Runs inside tests/sdk/in-namespace, where the names
`gateway.example` (127.0.0.1) and `hub.example` (127.0.0.2) and all ports are free.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import unittest

from asking import ask, request, wait_for

GATEWAY = "gateway.example"
HUB = "hub.example"
HUB_ADDRESS = "127.0.0.2"
EDGE = "edge1"


def new_key():
    return base64.b64encode(os.urandom(32)).decode()


def run_tests(seconds_max=200):
    """As a program. An SDK that hangs ends in an error, so that what was started is ended in order."""

    def over(*_):
        raise TimeoutError(f"not done within {seconds_max} s")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds_max)
    unittest.main(argv=sys.argv[:1], verbosity=2)


class Site:
    """The certificates of `sphere-gateway certs`, and an empty folder to work in."""

    def __init__(self, binaries, folder, scratch):
        self.binaries, self.folder, self.scratch = binaries, folder, scratch
        shutil.rmtree(scratch, ignore_errors=True)
        os.makedirs(scratch)

    def path(self, name):
        return os.path.join(self.folder, name)

    def text(self, name):
        with open(self.path(name), encoding="utf-8") as f:
            return f.read()

    def in_scratch(self, name):
        return os.path.join(self.scratch, name)

    def sphere(self):
        """The device that has a certificate, with an id of 128 characters as Azure Sphere's: its id, and the files of its chain
        and of its key.
        """
        files = (self.path("devices/device-1.chain.pem"), self.path("devices/device-1.key.pem"))
        return self.text("devices/ids.txt").split()[0], files


class Hub:
    """The hub double, with one edge device. With `mqtt` devices also connect to it directly, at its own 8883.

    Who is meant is a path: `device`, or `device/modules/module`.
    """

    def __init__(self, site, mqtt=False):
        self.edge_key = new_key()
        fronts = ["--mqtt-port", "8883", "--device-cas", site.path("tenant-ca.pem")] if mqtt else []
        self.process = subprocess.Popen(
            [f"{site.binaries}/hub-double", "--hub-name", HUB, "--edge-id", EDGE, "--bind", HUB_ADDRESS]
            + ["--tls-cert", site.path("hub-server.chain.pem"), "--tls-key", site.path("hub-server.key.pem")]
            + ["--amqp-port", "5671", "--https-port", "443", "--admin-port", "0", "--exit-with-stdin"]
            + fronts,
            env={"PATH": os.environ["PATH"], "HUB_DOUBLE_EDGE_KEY": self.edge_key, "RUST_LOG": "warn"},
            # Whoever ends this program, how ever: the double ends with it.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.admin = f"http://{HUB_ADDRESS}:{json.loads(self.process.stdout.readline())['admin']}"

    def get(self, path):
        return request("GET", self.admin + path)

    def put(self, path, **spec):
        request("PUT", self.admin + path, spec)

    def put_child(self, device, **spec):
        self.put(f"/devices/{device}", parent=EDGE, **spec)

    def away(self):
        request("POST", self.admin + "/away")

    def back(self):
        request("POST", self.admin + "/back")

    def twin(self, who):
        return self.get(f"/twins/{who}")

    def patch_twin(self, who, **twin):
        return request("PATCH", f"{self.admin}/twins/{who}", twin)

    def put_twin(self, who, **twin):
        return request("PUT", f"{self.admin}/twins/{who}", twin)

    def until_reported(self, who, **expected):
        def seen():
            reported = self.twin(who)["properties"]["reported"]
            return expected.items() <= reported.items()

        wait_for(f"the hub knows {expected} of {who}", seen)

    def set_desired(self, who, **desired):
        """Merges; gives the new version."""
        return self.patch_twin(who, properties={"desired": desired})["properties"]["desired"]["$version"]

    def call(self, who, name, **how):
        """Status and body of the answer that the caller of a method has."""
        return ask("POST", f"{self.admin}/twins/{who}/methods", {"methodName": name, **how})

    def send_c2d(self, device, **message):
        return request("POST", f"{self.admin}/devices/{device}/c2d", message)["messageId"]

    def c2d(self, device):
        return self.get(f"/devices/{device}/c2d")["messages"]

    def feedback(self):
        told = self.get("/feedback")
        return [record for batch in told["batches"] for record in batch["records"]] + told["open"]

    def links(self, identity):
        """What the hub has links or subscriptions for; `identity`: `device` or `device/module`."""
        told = [link.split(" ", 1) for connection in self.get("/connections") for link in connection["links"]]
        return {purpose for name, purpose in told if name == identity}

    def messages(self, device, module=None):
        found = self.get(f"/messages?device={device}&limit=1000")["messages"]
        return [message for message in found if message["moduleId"] == module]

    def end(self):
        self.process.terminate()
        self.process.wait(timeout=20)
        self.process.stdin.close()
        self.process.stdout.close()


class Gateway:
    """The gateway under test, with an empty store. It can be started again, with what it has stored."""

    ADMIN = "http://127.0.0.1:9600"

    def __init__(self, site, hub, **settings):
        self.site = site
        self.log = open(site.in_scratch("gateway.log"), "a", encoding="utf-8")
        self.storage = site.in_scratch("storage")
        shutil.rmtree(self.storage, ignore_errors=True)
        os.makedirs(self.storage)
        self.environment = {
            "PATH": os.environ["PATH"],
            "IotHubConnectionString": f"HostName={HUB};DeviceId={EDGE};ModuleId=$edgeHub;SharedAccessKey={hub.edge_key}",
            "EdgeDeviceHostName": GATEWAY,
            "EdgeHubDevServerCertificateFile": site.path("server.chain.pem"),
            "EdgeHubDevServerPrivateKeyFile": site.path("server.key.pem"),
            "EdgeHubDevTrustBundleFile": site.path("tenant-ca.pem"),
            "upstreamSettings__trustBundleFile": site.path("hub-ca.pem"),
            "StorageFolder": self.storage,
            # The hub's address has an 8883 of its own (stub.py).
            "mqttSettings__host": "127.0.0.1",
            **settings,
        }
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [f"{self.site.binaries}/sphere-gateway", "run"], env=self.environment, stdout=self.log, stderr=self.log
        )
        try:
            wait_for("devices can be let in", lambda: ask("GET", f"{self.ADMIN}/readyz")[0] == 200)
        except BaseException:
            self.kill()
            raise

    def kill(self):
        self.process.kill()
        self.process.wait(timeout=20)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=30)
        self.log.close()
        assert code == 0, f"the gateway must end cleanly on SIGTERM, ended with {code}"

    def refusals(self, claim):
        """What `sphere-gateway refusals --json` tells about `claim`."""
        told = subprocess.run(
            [f"{self.site.binaries}/sphere-gateway", "refusals", "--json"],
            env=self.environment,
            stdout=subprocess.PIPE,
            check=True,
        )
        return [refusal for refusal in json.loads(told.stdout)["refusals"] if refusal["claim"] == claim]

    def admissions(self, identity):
        """How often the audit log says that `identity` was let in."""
        with open(os.path.join(self.storage, "edgeHub", "audit.jsonl"), encoding="utf-8") as f:
            lines = [json.loads(line) for line in f if line.endswith("\n")]
        return sum(line["outcome"] == "admitted" and line["identity"] == identity for line in lines)
