"""Real Azure SDKs through the gateway, both ways: twins, direct methods and cloud-to-device messages; and over an outage of the
hub in which the gateway is killed and started again.

Arguments: the folder of the binaries, the folder of a minted site (`sphere-gateway certs`), a scratch folder.
"""

import json
import sys
import unittest

from asking import wait_for
from devices import PythonDevice, Refusal, ways
from running import Gateway, Hub, Site, new_key, run_tests
from twoway import NodeClient, PythonClient

SITE = Site(*sys.argv[1:4])
ANSWERS = {"echo": {"status": 207}}
DESIRED, PATCHED = "$iothub/twin/PATCH/properties/desired/?$version=", "$iothub/twin/res/204/"


class Participant:
    """A client, and what came to it."""

    def __init__(self, hub, name, client):
        self.hub, self.name, self.client = hub, name, client
        self.messages = 0

    def topics(self, start):
        packets = [packet for packet in self.client.heard.of("wire") if packet["cmd"] == "publish"]
        return [packet for packet in packets if packet["topic"].startswith(start)]

    def told_desired(self):
        """The patches as they came, whatever the SDK makes of them."""
        return [json.loads(packet["body"][0]) for packet in self.topics(DESIRED)]

    def versions(self):
        """What its reported patches were answered with."""
        return [int(packet["topic"].partition("$version=")[2]) for packet in self.topics(PATCHED)]

    def persists(self, call):
        """As any application does when its connection breaks: once more."""

        def succeeds():
            try:
                return [call()]
            except Refusal as error:
                print(f"{self.name}: {error}, once more", file=sys.stderr)
                return None

        return wait_for(f"{self.name} gets through", succeeds, seconds=90)[0]

    def report(self, **patch):
        self.persists(lambda: self.client.report(patch))

    def twin(self):
        return self.persists(self.client.get_twin)

    def until_reported(self, **expected):
        self.hub.until_reported(self.name, **expected)

    def until_told(self, expected):
        is_it = lambda event: expected.items() <= event["patch"].items()
        assert self.client.heard.until("desired", is_it), f"{self.name} is not told {expected}, but {self.told_desired()}"

    def is_called(self, payload):
        """The answer of its method, as the caller has it; it is waited for."""
        return self.hub.call(self.name, "echo", payload=payload, connectTimeoutInSeconds=60)

    def gets_message(self):
        """A message from the cloud: sent, heard once, and settled."""
        self.messages += 1
        name = f"m-{self.messages}"
        properties = {"colour": "deep blue/ü&=", "empty": ""}
        system = {"correlationId": "c 1", "contentType": "application/json", "contentEncoding": "utf-8"}
        self.hub.send_c2d(self.name, messageId=name, body={"led": name}, ack="full", properties=properties, **system)
        wait_for(f"{name} is settled", lambda: self.hub.c2d(self.name)[-1].get("outcome") == "Success")
        # The SDK acknowledges before it tells its application.
        wait_for(f"{name} is heard", lambda: len(self.client.heard.of("message")) >= self.messages)
        heard = self.client.heard.of("message")
        assert len(heard) == self.messages, heard
        content, body = heard[-1]["content"], heard[-1]["body"]
        assert body == [f'{{"led":"{name}"}}', "utf-8"], body
        assert properties.items() <= content["properties"].items(), content
        # Each SDK has names of its own for these.
        assert {name, "c 1", "application/json", "utf-8"} <= {v for v in content.values() if isinstance(v, str)}, content


class BothWays(unittest.TestCase):
    def setUp(self):
        self.hub = Hub(SITE)
        self.addCleanup(self.hub.end)
        keys = {"py-key": new_key(), "node-key": new_key()}
        for name, key in keys.items():
            self.hub.put_child(name, primaryKey=key)
            self.hub.set_desired(name, led=True)
        self.gateway = Gateway(SITE, self.hub, ReportedPropertiesSyncFrequencySecs="1", MinTwinSyncPeriodSecs="1")
        self.addCleanup(self.gateway.end)
        way, _ = ways(SITE)
        python = PythonClient.made(lambda: PythonDevice.with_key(way, "py-key", keys["py-key"]))
        self.addCleanup(python.end)
        node = NodeClient.with_key(way, "node-key", keys["node-key"], retries=True)
        self.addCleanup(node.end)
        self.all = [Participant(self.hub, "py-key", python), Participant(self.hub, "node-key", node)]
        for each in self.all:
            each.client.connect()
            each.client.listen(ANSWERS)

    def of_each(self, what):
        for each in self.all:
            with self.subTest(each.name):
                what(each)

    def test_twins_methods_and_messages(self):
        def check(each):
            twin = each.twin()
            self.assertEqual(twin["desired"], {"led": True, "$version": 2})
            each.report(a={"b": 1, "c": [1, {"d": "ü"}]}, gone=1)
            each.report(gone=None)
            each.until_reported(a={"b": 1, "c": [1, {"d": "ü"}]})
            self.assertEqual(each.versions(), [2, 3])
            with self.assertRaises(Refusal):
                each.client.report({"a.b": 1})
            self.hub.set_desired(each.name, led=None, more={"x": [1]})
            each.until_told({"more": {"x": [1]}, "$version": 3})
            self.assertEqual(each.told_desired(), [{"led": None, "more": {"x": [1]}, "$version": 3}])
            self.assertEqual(each.is_called({"in": [1, "ü"]}), (200, {"status": 207, "payload": {"in": [1, "ü"]}}))
            each.gets_message()
            twin = each.twin()
            self.assertEqual(twin["desired"], {"more": {"x": [1]}, "$version": 3})
            self.assertEqual(twin["reported"], {"a": {"b": 1, "c": [1, {"d": "ü"}]}, "$version": 3})
            self.assertEqual(self.hub.call(each.name, "nobody", responseTimeoutInSeconds=1)[0], 504)

        self.of_each(check)

    def test_an_outage_of_the_hub_and_a_restart_of_the_gateway_within(self):
        def before(each):
            each.report(state="before", gone=1)
            each.until_reported(state="before")
            self.assertEqual(each.is_called(1)[0], 200)
            self.assertEqual(each.twin()["desired"], {"led": True, "$version": 2})

        def without_the_hub(each):
            each.report(state="away", gone=None, kept=1)
            each.report(kept=2)
            self.assertEqual(self.without_version(each.twin()["reported"]), {"state": "away", "kept": 2})
            self.hub.set_desired(each.name, led=False, more={"a": 1})
            self.hub.set_desired(each.name, more={"a": 2}, new="x")
            self.assertEqual(self.hub.call(each.name, "echo", payload=1)[0], 404)

        def after_the_restart(each):
            each.report(restarted=True)
            twin = each.twin()
            self.assertEqual(self.without_version(twin["reported"]), {"state": "away", "kept": 2, "restarted": True})
            self.assertEqual(twin["desired"], {"led": True, "$version": 2}, "the one that is kept")
            self.assertEqual(each.told_desired(), [])

        changed = {"led": False, "more": {"a": 2}, "new": "x", "$version": 4}

        def with_the_hub(each):
            each.until_told(changed)
            each.until_reported(state="away", kept=2, restarted=True)
            self.assertNotIn("gone", self.hub.twin(each.name)["properties"]["reported"])
            self.assertEqual(each.is_called("after"), (200, {"status": 207, "payload": "after"}))
            each.gets_message()
            each.report(state="after")
            each.until_reported(state="after")
            self.assertEqual(each.twin()["desired"], changed)
            self.assertEqual(each.told_desired(), [changed], "one patch, once")
            versions = each.versions()
            self.assertEqual(versions, sorted(set(versions)), "versions go up")

        self.of_each(before)
        self.hub.away()
        self.of_each(without_the_hub)
        self.gateway.kill()
        self.gateway.start()
        self.of_each(after_the_restart)
        self.hub.back()
        self.of_each(with_the_hub)

    @staticmethod
    def without_version(section):
        return {name: section[name] for name in section if name != "$version"}


if __name__ == "__main__":
    run_tests()
