"""Transparency: the same devices with the same real SDKs do the same things twice, once straight at the hub double and once
through the gateway. All that they see, and all that the cloud side sees of them, is the same, but for the table of deviations.

A difference that no row explains fails, a row that never applies fails, a row that would take another value fails, and so does a
table that is not the one of docs/transparency.md. The records stay in the scratch folder.

Arguments: the folder of the binaries, the folder of a minted site (`sphere-gateway certs`), a scratch folder.
"""

import copy
import json
import os
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor

from behaviour import Behaviour
from comparison import as_markdown, changed, differences, judge
from deviations import ALL, OPEN, TABLE
from devices import PythonDevice, ways
from running import EDGE, Gateway, Hub, Site, new_key, run_tests
from twoway import NodeClient, PythonClient

SITE = Site(*sys.argv[1:4])
DOCUMENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "docs", "transparency.md")
# What a hub must have for a client before it can call it; the same names for both ways.
METHODS, MESSAGES = "method requests", "cloud-to-device"

# Values that are nowhere meant where the two ways differ: nothing, another kind of value, another answer.
NOWHERE = ("absent", "null", "{}", "[]", "true", "-1", "0", "1", '""', '"another"')
# The same, where the gateway's is meant. (On the other side some of these are versions.)
NOWHERE_THROUGH = NOWHERE + ("400", "404000", '"200"', '"204"', '"403"', '"503"')


class Fleet:
    """A hub of its own with five clients; the same ones each time."""

    def __init__(self, through):
        self.hub = Hub(SITE, mqtt=True)
        self.gateway = None
        try:
            self.register()
            if through:
                self.gateway = Gateway(SITE, self.hub)
            self.way = ways(SITE)[0 if through else 1]
        except BaseException:
            self.end()
            raise

    def register(self):
        self.sphere, self.files = SITE.sphere()
        self.keys = {name: new_key() for name in ("python-key", "node-key", "meter", "sensor")}
        self.hub.put_child("python-key", primaryKey=self.keys["python-key"])
        self.hub.put_child(self.sphere, authType="certificateAuthority")
        self.hub.put_child("node-key", primaryKey=self.keys["node-key"])
        self.hub.put_child("host")
        self.hub.put("/devices/host/modules/meter", primaryKey=self.keys["meter"])
        self.hub.put(f"/devices/{EDGE}/modules/sensor", primaryKey=self.keys["sensor"])

    def clients(self):
        """By name: what makes a client (as often as it is called), its device, its module."""
        way, keys = self.way, self.keys
        # Who is told to leave stays away: else two of one identity would drive each other out for ever.
        once = {"connection_retry": False}
        key, meter, sensor = keys["python-key"], keys["meter"], keys["sensor"]
        with_key = lambda: PythonDevice.with_key(way, "python-key", key, **once)
        with_certificate = lambda: PythonDevice.with_certificate(way, self.sphere, self.files, **once)
        as_module = lambda: PythonDevice.with_connection_string(way, "host", meter, "meter", **once)
        as_edge_module = lambda: PythonDevice.with_connection_string(way, EDGE, sensor, "sensor", **once)
        return {
            "python-key": (lambda: PythonClient.made(with_key), "python-key", None),
            "python-x509": (lambda: PythonClient.made(with_certificate), self.sphere, None),
            "python-module": (lambda: PythonClient.made(as_module), "host", "meter"),
            "python-edge-module": (lambda: PythonClient.made(as_edge_module), EDGE, "sensor"),
            "node-key": (lambda: NodeClient.with_key(way, "node-key", keys["node-key"]), "node-key", None),
        }

    def records(self):
        """What each client did and what was seen of it; they act side by side."""

        def acts(make, device, module):
            links = {METHODS} if module else {METHODS, MESSAGES}
            return Behaviour(self.hub, make, device, module, links).run()

        clients = self.clients()
        with ThreadPoolExecutor(len(clients)) as pool:
            under_way = {name: pool.submit(acts, *how) for name, how in clients.items()}
            return {name: record.result() for name, record in under_way.items()}

    def end(self):
        try:
            if self.gateway:
                self.gateway.end()
        finally:
            self.hub.end()


def recorded(name, through):
    fleet = Fleet(through)
    try:
        records = fleet.records()
    finally:
        fleet.end()
    with open(SITE.in_scratch(f"{name}.json"), "w", encoding="utf-8") as f:
        json.dump(records, f, indent=1, sort_keys=True, ensure_ascii=False)
    return records


class Transparency(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.straight = recorded("straight", through=False)
        cls.through = recorded("through", through=True)

    def test_differences_are_those_of_the_table(self):
        for row in OPEN:
            print(f"known and not mended yet: {row.name}: {row.why}", file=sys.stderr)
        for client in ALL:
            with self.subTest(client):
                unexplained, idle = judge(client, self.straight[client], self.through[client], TABLE + OPEN)
                told = [f"{client}: {difference}" for difference in unexplained]
                told += [f"{client}: the row {row.name!r} never applies" for row in idle]
                self.assertEqual(told, [], "\n" + "\n".join(told))

    def test_a_difference_is_noticed(self):
        client = "python-key"
        through = copy.deepcopy(self.through[client])
        del through["cloud"]["messages"]["binary"]
        through["cloud"]["messages"]["odd values"]["properties"]["emoji"] = "?"
        through["device"]["told"]["desired 2"]["led"] = False
        through["device"]["wire"]["one more"] = {}
        through["device"]["order of messages"].reverse()
        through["cloud"]["methods"]["text"]["answer"]["status"] = 200
        through["cloud"]["twin after last report"]["properties"]["reported"]["$version"] = 99
        through["cloud"]["twin after last report"]["version without the reported section's"] += 1
        unexplained, idle = judge(client, self.straight[client], through, TABLE + OPEN)
        self.assertEqual(
            [difference.path for difference in unexplained],
            [
                "cloud/messages/binary",
                "cloud/messages/odd values/properties/emoji",
                "cloud/methods/text/answer/status",
                "cloud/twin after last report/properties/reported/$version",
                "cloud/twin after last report/version without the reported section's",
                "device/order of messages",
                "device/told/desired 2/led",
                "device/wire/one more",
            ],
        )
        self.assertEqual(idle, [])
        _, idle = judge(client, self.straight[client], self.straight[client], TABLE + OPEN)
        self.assertEqual(idle, [row for row in TABLE + OPEN if client in row.clients])

    def test_no_row_takes_another_value(self):
        for client in ALL:
            for difference in differences(self.straight[client], self.through[client]):
                for other in changed(difference, NOWHERE, NOWHERE_THROUGH):
                    rows = [row.name for row in TABLE + OPEN if row.explains(client, other)]
                    self.assertEqual(rows, [], f"{client}: {other}")

    def test_the_table_is_the_documents(self):
        with open(DOCUMENT, encoding="utf-8") as f:
            document = [line for line in f.read().splitlines() if line.startswith("|")]
        self.assertEqual(document, as_markdown(TABLE))


if __name__ == "__main__":
    run_tests()
