"""A client that connects, subscribes and asks exactly as the official Azure Sphere sample does (it is made with paho-mqtt, for
the C SDK is not at hand), before, during and after an outage of the hub, and over a connection that breaks.

Its way: X.509 with an id of 128 hex characters, user name with the gateway's host and a model id, no password, clean session 0,
keep-alive 240 s; ONE SUBSCRIBE with three filters; requests about the twin and answers of methods at QoS 0 with small numbers
as request ids and an empty body; telemetry at QoS 1, lower-case hex in the bag. A twin of more than 512 bytes ends its program.

Arguments: the folder of the binaries, the folder of a minted site (`sphere-gateway certs`), a scratch folder.
"""

import json
import socket
import ssl
import sys
import threading
import unittest
import urllib.parse

import paho.mqtt.client as mqtt

from asking import wait_for
from running import GATEWAY, Gateway, Hub, Site, run_tests

SITE = Site(*sys.argv[1:4])
PORT, KEEP_ALIVE_SECS, TWIN_BYTES_MAX = 8883, 240, 512
USER = (
    "{host}/{device}/?api-version=2020-09-30&DeviceClientType=iothubclient%2f1.14.0%20(native%3b%20Linux%3b%20arm)"
    "&model-id=dtmi%3acom%3aexample%3aazuresphere%3athermometer%3b1"
)


class SphereDevice:
    """One connection."""

    def __init__(self, device):
        self.device = device
        self.publications, self.granted, self.acknowledged = [], [], set()
        self.changed = threading.Condition()
        self.connack = None
        self.client = mqtt.Client(client_id=device, clean_session=False, protocol=mqtt.MQTTv311)
        self.client.username_pw_set(USER.format(host=GATEWAY, device=device))
        context = ssl.create_default_context(cafile=SITE.path("edge-root.pem"))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(*SITE.sphere()[1])
        self.client.tls_set_context(context)
        self.client.on_connect = lambda client, data, flags, code: self.note(connack=(code, flags["session present"]))
        self.client.on_subscribe = lambda client, data, mid, granted: self.note(granted=granted)
        self.client.on_publish = lambda client, data, mid: self.note(acknowledged=mid)
        self.client.on_message = lambda client, data, message: self.note(publication=message)
        self.client.connect(GATEWAY, PORT, KEEP_ALIVE_SECS)
        self.client.loop_start()
        self.until("CONNACK", lambda: self.connack)

    def note(self, connack=None, granted=None, acknowledged=None, publication=None):
        with self.changed:
            if connack:
                self.connack = connack
            if granted is not None:
                self.granted.append(list(granted))
            if acknowledged is not None:
                self.acknowledged.add(acknowledged)
            if publication:
                self.publications.append(publication)
            self.changed.notify_all()

    def until(self, what, look, seconds=60):
        with self.changed:
            found = self.changed.wait_for(look, seconds)
        if not found:
            raise AssertionError(f"no {what} within {seconds} s; came: {[p.topic for p in self.publications]}")
        return found

    def subscribe(self, *filters):
        """One SUBSCRIBE; what its SUBACK grants."""
        number = len(self.granted)
        self.client.subscribe(list(filters))
        return self.until("SUBACK", lambda: self.granted[number:])[0]

    def subscribe_first(self):
        return self.subscribe(
            (f"devices/{self.device}/messages/devicebound/#", 1), ("$iothub/twin/res/#", 0), ("$iothub/methods/POST/#", 0)
        )

    def next(self, start):
        """Takes the first publication whose topic starts like this."""

        def look():
            found = next((p for p in self.publications if p.topic.startswith(start)), None)
            if found:
                self.publications.remove(found)
            return found

        return self.until(start, look)

    def ask_twin(self, path, rid, body=None):
        """Status, parameters and body of the answer."""
        self.client.publish(f"$iothub/twin/{path}/?$rid={rid}", body, qos=0)
        answer = self.next("$iothub/twin/res/")
        status, _, parameters = answer.topic.removeprefix("$iothub/twin/res/").partition("/?")
        pairs = dict(pair.split("=", 1) for pair in parameters.split("&"))
        assert pairs.pop("$rid") == str(rid), answer.topic
        assert answer.qos == 0 and len(answer.payload) < TWIN_BYTES_MAX, f"{len(answer.payload)} bytes"
        return int(status), pairs, json.loads(answer.payload or "null")

    def get_twin(self, rid):
        status, _, twin = self.ask_twin("GET", rid)
        assert status == 200, f"{status} {twin}"
        assert set(twin) == {"desired", "reported"} and "$metadata" not in twin["desired"] | twin["reported"], twin
        return twin

    def report(self, rid, patch):
        status, parameters, body = self.ask_twin("PATCH/properties/reported", rid, json.dumps(patch))
        assert (status, body) == (204, None), f"{status} {body}"
        return int(parameters["$version"])

    def send(self, body, **properties):
        """Waits for the PUBACK."""
        bag = "&".join(f"{name}={quoted(value)}" for name, value in properties.items())
        topic = f"devices/{self.device}/messages/events/{bag}&%24.ct=application%2fjson&%24.ce=utf-8"
        number = self.client.publish(topic, json.dumps(body), qos=1).mid
        self.until("PUBACK", lambda: number in self.acknowledged)

    def told_desired(self):
        change = self.next("$iothub/twin/PATCH/properties/desired/?$version=")
        patch = json.loads(change.payload)
        assert change.topic.endswith(f"={patch['$version']}") and len(change.payload) < TWIN_BYTES_MAX
        return patch

    def answer_method(self, status, body):
        """Name and payload of the call."""
        call = self.next("$iothub/methods/POST/")
        name, _, rid = call.topic.removeprefix("$iothub/methods/POST/").partition("/?$rid=")
        self.client.publish(f"$iothub/methods/res/{status}/?$rid={rid}", json.dumps(body), qos=0)
        return name, json.loads(call.payload)

    def message(self):
        """Body, properties and quality of service of a message from the cloud."""
        message = self.next(f"devices/{self.device}/messages/devicebound/")
        bag = message.topic.partition("/devicebound/")[2]
        pairs = [pair.partition("=") for pair in bag.split("&")]
        properties = {urllib.parse.unquote(name): urllib.parse.unquote(value) for name, _, value in pairs}
        return message.payload.decode(), properties, message.qos

    def vanish(self):
        """Without a DISCONNECT."""
        # The loop sees the end of the socket, and must not connect again.
        self.client.reconnect_delay_set(3600, 3600)
        self.client.socket().shutdown(socket.SHUT_RDWR)

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()


def quoted(value):
    """As the C SDK encodes: hex in lower case."""
    return "".join(c if c.isalnum() or c in "-._~" else "".join(f"%{b:02x}" for b in c.encode()) for c in value)


class AzureSphere(unittest.TestCase):
    def setUp(self):
        self.hub = Hub(SITE)
        self.addCleanup(self.hub.end)
        self.id, _ = SITE.sphere()
        self.hub.put_child(self.id, authType="certificateAuthority")
        self.hub.set_desired(self.id, StatusLED=True)
        self.gateway = Gateway(SITE, self.hub, ReportedPropertiesSyncFrequencySecs="1", MinTwinSyncPeriodSecs="1")
        self.addCleanup(self.gateway.end)
        self.device = self.connected(present=False)
        self.assertEqual(self.device.subscribe_first(), [1, 0, 0])

    def connected(self, present):
        device = SphereDevice(self.id)
        self.addCleanup(device.end)
        self.assertEqual(device.connack, (0, present))
        return device

    def calls(self, payload):
        """The cloud side calls a method, the device answers it."""
        answer = {}

        def call():
            answer["got"] = self.hub.call(self.id, "setTelemetryInterval", payload=payload, connectTimeoutInSeconds=60)

        caller = threading.Thread(target=call)
        caller.start()
        self.assertEqual(self.device.answer_method(200, {"ok": payload}), ("setTelemetryInterval", payload))
        caller.join()
        self.assertEqual(answer["got"], (200, {"status": 200, "payload": {"ok": payload}}))

    def sends_down(self, name):
        self.hub.send_c2d(self.id, messageId=name, body=name, ack="full", properties={"colour": "deep blue/ü"})
        self.takes(name)

    def takes(self, name):
        body, properties, qos = self.device.message()
        self.assertEqual((body, properties["$.mid"], properties["colour"], qos), (name, name, "deep blue/ü", 1))

    def until_settled(self, number):
        wait_for("they are settled", lambda: [m.get("outcome") for m in self.hub.c2d(self.id)] == ["Success"] * number)

    def arrived(self):
        return [json.loads(message["body"])["n"] for message in self.hub.messages(self.id)]

    def test_before_during_and_after_an_outage_of_the_hub(self):
        device, hub = self.device, self.hub
        twin = device.get_twin(4)
        self.assertEqual(twin["desired"]["StatusLED"], True)
        self.assertEqual(device.subscribe(("$iothub/twin/PATCH/properties/desired/#", 0)), [0])
        created = "2026-01-01T00:00:00Z"
        device.send({"n": 1}, **{"alert level": "high&low", "iothub-creation-time-utc": created})
        version = device.report(5, {"StatusLED": {"value": True, "ac": 200, "av": twin["desired"]["$version"]}})
        self.assertEqual(version, twin["reported"]["$version"] + 1)
        hub.until_reported(self.id, StatusLED={"value": True, "ac": 200, "av": 2})
        wait_for("the message is at the hub", lambda: self.arrived() == [1])
        [message] = hub.messages(self.id)
        self.assertEqual(message["properties"], {"alert level": "high&low"})
        self.assertEqual(message["annotations"]["dt-dataschema"], "dtmi:com:example:azuresphere:thermometer;1")
        self.assertTrue(message["systemProperties"]["iothub-creation-time-utc"].startswith("2026-01-01T00:00:00"))
        self.calls({"interval": 1})
        self.sends_down("m-1")
        hub.set_desired(self.id, StatusLED=False)
        self.assertEqual(device.told_desired(), {"StatusLED": False, "$version": 3})

        hub.away()
        device.send({"n": 2})
        self.assertEqual(device.report(6, {"offline": 1}), version + 1)
        self.assertEqual(device.report(7, {"offline": 2, "StatusLED": None}), version + 2)
        twin = device.get_twin(8)
        self.assertEqual(twin["reported"], {"offline": 2, "$version": version + 2})
        self.assertEqual(twin["desired"], {"StatusLED": False, "$version": 3})
        hub.set_desired(self.id, StatusLED=True, more={"a": 1})
        hub.set_desired(self.id, more={"a": 2})
        self.assertEqual(hub.call(self.id, "x")[0], 404)
        hub.send_c2d(self.id, messageId="m-away", body="m-away", ack="full", properties={"colour": "deep blue/ü"})
        self.assertEqual([p.topic for p in device.publications], [])

        hub.back()
        self.assertEqual(device.told_desired(), {"StatusLED": True, "more": {"a": 2}, "$version": 5})
        self.takes("m-away")
        hub.until_reported(self.id, offline=2)
        self.assertNotIn("StatusLED", hub.twin(self.id)["properties"]["reported"])
        wait_for("the message of the outage is at the hub", lambda: self.arrived() == [1, 2])
        self.calls({"interval": 2})
        self.sends_down("m-2")
        device.send({"n": 3})
        self.assertEqual(device.report(9, {"back": True}), version + 3)
        hub.until_reported(self.id, back=True)
        twin = device.get_twin(10)
        self.assertEqual(twin["desired"], {"StatusLED": True, "more": {"a": 2}, "$version": 5})
        self.assertEqual(twin["reported"], {"offline": 2, "back": True, "$version": version + 3})
        wait_for("the last message is at the hub", lambda: self.arrived() == [1, 2, 3])
        wait_for("feedback", lambda: [r["statusCode"] for r in hub.feedback()] == ["Success"] * 3)
        self.assertEqual([p.topic for p in device.publications], [], "nothing else came")

    def test_a_session_that_is_kept_needs_no_new_subscriptions(self):
        self.sends_down("m-1")
        self.until_settled(1)
        self.device.vanish()
        wait_for("the hub cannot reach it", lambda: "cloud-to-device" not in self.hub.links(self.id))
        self.hub.send_c2d(self.id, messageId="m-2", body="m-2", ack="full", properties={"colour": "deep blue/ü"})
        self.device = self.connected(present=True)
        self.takes("m-2")
        self.calls({"after": "it came back"})
        self.assertEqual(self.device.get_twin(4)["desired"], {"StatusLED": True, "$version": 2})
        self.until_settled(2)


if __name__ == "__main__":
    run_tests()
