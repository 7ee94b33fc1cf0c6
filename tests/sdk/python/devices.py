"""Devices as the tests see them, whatever SDK they are made with: connect, send, disconnect; an error is a `Refusal`.

Owns: how each SDK is called, and what its error is called. Must not know: hub and gateway processes.
"""

import base64
import hashlib
import hmac
import json
import logging
import os
import subprocess
import time
import urllib.parse
from unittest import mock

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, Message, X509, exceptions

from running import GATEWAY, HUB

# It logs each refusal with a trace; the tests judge them.
logging.getLogger("azure.iot.device").setLevel(logging.CRITICAL)

NODE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "node", "device.js")


class Refusal(Exception):
    """An SDK's error: its class, and what it says about the reason."""

    def __init__(self, kind, says):
        super().__init__(f"{kind}: {says}")
        self.kind, self.says = kind, says

    def __eq__(self, other):
        return (self.kind, self.says) == (other.kind, other.says)


def token(host, device, key, expiry):
    """A SAS token as IoT Hub documents it."""
    audience = urllib.parse.quote(f"{host}/devices/{device}", safe="")
    digest = hmac.new(base64.b64decode(key), f"{audience}\n{expiry}".encode(), hashlib.sha256).digest()
    signature = urllib.parse.quote(base64.b64encode(digest), safe="")
    return f"SharedAccessSignature sr={audience}&sig={signature}&se={expiry}"


class Way:
    """Where a device goes: through the gateway, or straight to the hub. And whom it trusts there."""

    def __init__(self, gateway, roots):
        self.gateway, self.roots = gateway, roots
        self.host = gateway or HUB

    def connection_string(self, device, key, module=None):
        parts = [f"HostName={HUB}", f"DeviceId={device}"]
        parts += [f"ModuleId={module}"] if module else []
        parts += [f"SharedAccessKey={key}"]
        parts += [f"GatewayHostName={self.gateway}"] if self.gateway else []
        return ";".join(parts)

    def options(self):
        with open(self.roots, encoding="utf-8") as f:
            options = {"server_verification_cert": f.read(), "connection_retry_interval": 1}
        return {**options, "gateway_hostname": self.gateway} if self.gateway else options


def ways(site):
    """Through the gateway, and straight to the hub."""
    return Way(GATEWAY, site.path("edge-root.pem")), Way(None, site.path("hub-ca.pem"))


class PythonDevice:
    def __init__(self, client):
        self.client = client

    @classmethod
    def with_key(cls, way, device, key, **options):
        return cls(
            IoTHubDeviceClient.create_from_symmetric_key(key, HUB, device, **way.options(), **options)
        )

    @classmethod
    def with_connection_string(cls, way, device, key, module=None, **more):
        kind = IoTHubModuleClient if module else IoTHubDeviceClient
        options = way.options()
        options.pop("gateway_hostname", None)  # the connection string has it
        return cls(kind.create_from_connection_string(way.connection_string(device, key, module), **options, **more))

    @classmethod
    def with_expired_token(cls, way, device, key):
        expiry = int(time.time()) - 3600
        # The SDK does not start with a token that its own clock calls expired: this device's clock is two hours behind.
        with mock.patch("time.time", return_value=float(expiry - 3600)):
            return cls(IoTHubDeviceClient.create_from_sastoken(token(HUB, device, key, expiry), **way.options()))

    @classmethod
    def with_certificate(cls, way, device, files, **options):
        x509 = X509(cert_file=files[0], key_file=files[1])
        return cls(IoTHubDeviceClient.create_from_x509_certificate(x509, HUB, device, **way.options(), **options))

    def connect(self):
        self._call(self.client.connect)

    def send(self, body, properties=None, **system):
        message = Message(body)
        for field, value in system.items():
            setattr(message, field, value)
        message.custom_properties.update(properties or {})
        self._call(lambda: self.client.send_message(message))

    @staticmethod
    def _call(call):
        try:
            return call()
        except (exceptions.ClientError, exceptions.OperationTimeout, exceptions.OperationCancelled) as e:
            raise Refusal(type(e).__name__, str(e.__cause__)) from e

    def end(self):
        self.client.shutdown()


class NodeDevice:
    """node/device.js: a line of JSON asks, a line of JSON answers."""

    def __init__(self, way, **how):
        self.process = subprocess.Popen(
            ["node", NODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._ask(do="create", ca=way.roots, **how)

    @classmethod
    def with_key(cls, way, device, key, **how):
        return cls(way, connectionString=way.connection_string(device, key), **how)

    @classmethod
    def with_expired_token(cls, way, device, key):
        # With a token this SDK has no gateway's name: it is given a token of the host that it is to call.
        return cls(way, sharedAccessSignature=token(way.host, device, key, int(time.time()) - 3600))

    def connect(self):
        self._ask(do="connect")

    def send(self, body, properties=None, **system):
        self._ask(do="send", body=body, properties=properties or {}, system=system)

    def _ask(self, **asked):
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        if answer["error"]:
            raise Refusal(answer["error"]["name"], answer["error"]["message"])
        return answer.get("value")

    def _answer(self):
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        assert code == 0, f"node ended with {code}"
