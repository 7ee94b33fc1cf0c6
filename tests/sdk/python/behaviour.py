"""What one device does, from its first CONNECT to its end, and what is seen of it: one script for every SDK and every way.

Owns: the order of the steps, and the record: plain JSON of everything that the device sees ("device") and that the cloud side
sees ("cloud"). Must not know: what is sent (cases.py), whether there is a gateway, what is expected.

What cannot be the same twice is not in the record: the value of a time (`<time>`; that it is one is looked at), request ids
(`<rid>`), and positions in the hub's own log, its numbers of connections and of batches. What one value says of another is
looked at, too: an address that is the sender's own is `<own>`, and a twin's version is told without what it counts of the
reported section.
"""

import json
import re
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

from asking import wait_for
from cases import ANSWERS, DESIRED, LAST_PATCHES, MESSAGES, METHODS, OUTPUTS, OWN_DAYS, PATCHES, TELEMETRY, TOGETHER
from devices import Refusal

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def steady(value):
    """`value` without what cannot be the same twice."""
    if isinstance(value, dict):
        return {name: steady(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [steady(inner) for inner in value]
    if isinstance(value, str) and TIME.fullmatch(value) and not value.startswith(OWN_DAYS):
        return "<time>"
    return value


def parsed(text):
    try:
        return steady(json.loads(text))
    except ValueError:
        return text


class Behaviour:
    """A device (or, with `module`, a module) and what is recorded of it. `make` gives a client of it."""

    def __init__(self, hub, make, device, module=None, links=()):
        self.hub, self.make, self.client = hub, make, make()
        self.heard = self.client.heard
        self.device, self.module = device, module
        self.identity = f"{device}/{module}" if module else device
        self.path = f"{device}/modules/{module}" if module else device
        self.links = set(links)
        self.calls, self.cloud = {}, {}

    def run(self):
        try:
            self.acts()
        finally:
            self.client.end()
        return {"device": self.seen_by_the_device(), "cloud": self.cloud}

    def acts(self):
        self.step("connect", self.client.connect)
        self.sends_telemetry()
        self.step("listen", lambda: self.client.listen(ANSWERS))
        self.until_reachable()
        self.step("first twin", self.client.get_twin)
        self.reports(PATCHES, "last")
        self.is_told_desired_properties()
        self.answers_methods()
        if not self.module:
            self.gets_messages()
        self.is_away()
        self.is_driven_out()
        self.comes_back("come back again")
        self.reports(LAST_PATCHES, "end")
        self.step("report null in a list", lambda: self.client.report({"nulls": [None]}))
        self.step("disconnect", self.client.disconnect)
        self.until_gone()
        self.looks("after its end")

    def step(self, name, call):
        """Does it, and records what comes of it."""
        self.heard.step = name
        try:
            value = call()
            self.calls[name] = {"outcome": "done"} | ({} if value is None else {"value": steady(value)})
        except Refusal as refusal:
            self.calls[name] = {"outcome": "refused", "error": refusal.kind, "words": refusal.says}

    def until_reachable(self):
        wait_for("the hub can reach it", lambda: self.links <= self.hub.links(self.identity))

    def comes_back(self, step):
        self.step(step, self.client.connect)
        self.until_reachable()
        if self.client.ASKS:
            is_twin = lambda event: event["step"] == step and event.get("topic", "").startswith("$iothub/twin/res/200/")
            assert self.heard.until("wire", is_twin), f"{self.identity}: no twin"

    def until_gone(self):
        wait_for("the hub cannot reach it", lambda: not self.links & self.hub.links(self.identity))

    def sends_telemetry(self):
        cases = TELEMETRY | OUTPUTS if self.module else TELEMETRY
        for name, (content, properties, system) in cases.items():
            self.step(f"send {name}", lambda: self.client.send(content, properties, **system))
        # Whatever was not refused arrives.
        sent = [name for name in cases if self.calls[f"send {name}"]["outcome"] == "done"]
        found = wait_for(
            "telemetry is at the hub",
            lambda: (got := self.hub.messages(self.device, self.module)) and len(got) >= len(sent) and got,
        )
        self.cloud["messages"] = {"number": len(found)}
        for name, message in zip(sent, found):
            for position in ("seq", "connection", "batch"):
                message.pop(position)
            self.cloud["messages"][name] = steady(message | {"systemProperties": self.system_properties(message)})

    def system_properties(self, message):
        system = message["systemProperties"]
        is_own = system.get("to") == f"/devices/{self.path}/messages/events"
        return system | {"to": "<own>"} if is_own else system

    def looks(self, when):
        """The twin as the service side has it."""
        twin = steady(self.hub.twin(self.path))
        version = twin.pop("version") - twin["properties"]["reported"]["$version"]
        self.cloud[f"twin {when}"] = twin | {"version without the reported section's": version}

    def reports(self, patches, last):
        for name, patch in patches.items():
            self.step(f"report {name}", lambda: self.client.report(patch))
        # Pushed in order: with the last of them all are there.
        wait_for(
            "what the device has reported is at the hub",
            lambda: self.hub.twin(self.path)["properties"]["reported"].get(last),
        )
        self.step(f"twin with {last} report", self.client.get_twin)
        self.looks(f"after {last} report")

    def is_told(self, version, seconds):
        return self.heard.until("desired", lambda event: event["patch"].get("$version") == version, seconds)

    def is_told_desired_properties(self):
        for patch in DESIRED.values():
            # Not each may be told; the one at the end is.
            self.is_told(self.hub.set_desired(self.path, **patch), seconds=2)
        twin = self.hub.put_twin(self.path, tags={"room": "r1"}, properties={"desired": {"fresh": 1, "t": 1.5}})
        self.is_told(twin["properties"]["desired"]["$version"], seconds=2)
        self.hub.patch_twin(self.path, tags={"floor": 3})
        last = self.hub.set_desired(self.path, last=True)
        assert self.is_told(last, seconds=60), f"not told of version {last}"
        self.looks("after desired changes")
        self.step("twin with desired changes", self.client.get_twin)

    def call(self, name, how):
        status, answer = self.hub.call(self.path, name, **how)
        if isinstance(answer, dict) and "Message" in answer:
            answer["Message"] = parsed(answer["Message"])
        return steady({"status": status, "answer": answer})

    def answers_methods(self):
        results = self.cloud["methods"] = {name: self.call(name, how) for name, (how, _) in METHODS.items()}
        with ThreadPoolExecutor(len(TOGETHER)) as pool:
            calls = {name: pool.submit(self.call, name, how) for name, (how, _) in TOGETHER.items()}
            results |= {name: call.result() for name, call in calls.items()}

    def until_settled(self):
        wait_for(
            "all messages to the device are settled",
            lambda: all("outcome" in record for record in self.hub.c2d(self.device)),
        )

    def gets_messages(self):
        for message in MESSAGES:
            self.hub.send_c2d(self.device, **message)
            if not message["messageId"].startswith("burst"):
                self.until_settled()
        self.until_settled()

    def is_away(self):
        """A clean-session-0 client leaves: what waits for it, and what does not."""
        self.step("leave", self.client.disconnect)
        self.until_gone()
        self.cloud["methods"]["while away"] = self.call("object", {"payload": 1})
        self.hub.set_desired(self.path, away=True)
        if not self.module:
            self.hub.send_c2d(self.device, messageId="expires", body="x", ack="full", expiresInSeconds=1)
            wait_for("it expires", lambda: self.hub.c2d(self.device)[-1]["state"] == "DeadLettered")
            for name in ("waits-1", "waits-2"):
                self.hub.send_c2d(self.device, messageId=name, body=name, ack="full", properties={"was": "away"})
        self.comes_back("come back")
        if not self.module:
            self.until_settled()
        self.step("twin after coming back", self.client.get_twin)
        self.cloud["methods"]["after coming back"] = self.call("object", {"payload": 2})
        last = self.hub.set_desired(self.path, back=True)
        assert self.is_told(last, seconds=60), f"not told of version {last}"
        self.step("send after coming back", lambda: self.client.send("back", message_id="back"))
        found = wait_for(
            "telemetry is at the hub",
            lambda: [m for m in self.hub.messages(self.device, self.module) if m["body"] == "back"],
        )
        self.cloud["messages"]["after coming back"] = steady({"systemProperties": self.system_properties(found[0])})
        if not self.module:
            self.cloud["cloud-to-device"] = {record["messageId"]: record for record in self.hub.c2d(self.device)}
            self.cloud["feedback"] = {
                record["originalMessageId"]: steady(record)
                for record in self.hub.feedback()
                if record["deviceId"] == self.device
            }
        counts = self.hub.get("/counts")["perDevice"][self.identity]
        self.cloud["counts"] = {name: counts[name] for name in ("received", "duplicates", "reordered")}

    def is_driven_out(self):
        """Another client of the same identity connects: the newcomer wins."""
        newcomer = self.make()
        newcomer.heard.step = "newcomer"
        try:
            self.step("newcomer connects", newcomer.connect)
            is_end = lambda event: event["step"] == "newcomer connects" and not event["connected"]
            assert self.heard.until("state", is_end), f"{self.identity}: two at a time, {self.heard.of('state')}"
            self.step("newcomer's twin", newcomer.get_twin)
            self.step("newcomer sends", lambda: newcomer.send("newcomer", message_id="newcomer"))
            wait_for(
                "telemetry is at the hub",
                lambda: [m for m in self.hub.messages(self.device, self.module) if m["body"] == "newcomer"],
            )
            self.newcomer = Behaviour.packets(newcomer.heard)
        finally:
            newcomer.end()

    def seen_by_the_device(self):
        seen = {"calls": self.calls, "wire": self.packets(self.heard), "newcomer": self.newcomer, "told": {}}
        seen["states"] = [event["connected"] for event in self.heard.of("state")]
        for event in self.heard.of("desired"):
            put(seen["told"], f"desired {event['patch'].get('$version')}", event["patch"])
        for event in self.heard.of("method"):
            put(seen["told"], f"method {event['name']}", {"payload": event["payload"]})
        for event in self.heard.of("message"):
            name = event["content"].get("message_id") or event["content"].get("messageId")
            put(seen["told"], f"message {name}", {"content": event["content"], "body": event["body"]})
        messages = [event["content"] for event in self.heard.of("message")]
        seen["order of messages"] = [c.get("message_id") or c.get("messageId") for c in messages]
        return seen

    @staticmethod
    def packets(heard):
        """Answers by the step in which they came, requests and messages by their names, SUBACKs and twins in order (SDKs also
        ask by themselves).
        """
        packets = {}
        for packet in heard.of("wire"):
            kind, step = packet["cmd"], packet["step"]
            content = {name: packet[name] for name in packet if name not in ("cmd", "step")}
            if kind == "publish":
                kind, content = described(content)
            is_answer = kind in ("connack", "twin answer")
            put(packets, f"{kind} at {step}" if is_answer else kind, content)
        return packets


def put(into, name, value):
    """Under a name of its own, if there is one of that name already."""
    number = 1
    unique = name
    while unique in into:
        number += 1
        unique = f"{name} #{number}"
    into[unique] = value


def described(packet):
    """What a publication is, and the rest of it; the topic is taken apart, as far as its form says nothing."""
    topic = packet.pop("topic")
    path, _, query = topic.partition("/?")
    if not path.startswith("$iothub/"):
        path, _, bag = topic.partition("/devicebound/")
        pairs = [pair.partition("=") for pair in bag.split("&")]
        packet["path"], packet["slashes"] = path, bag.count("/")
        packet["bag"] = {urllib.parse.unquote(n): urllib.parse.unquote(v) if eq else None for n, eq, v in pairs}
        return f"message {packet['bag'].get('$.mid')}", packet
    pairs = [pair.split("=", 1) for pair in query.split("&")]
    packet["parameters"] = {name: "<rid>" if name == "$rid" else value for name, value in pairs}
    content, encoding = packet["body"]
    if encoding == "utf-8" and content:
        packet["body"] = parsed(content)
    path = path.removeprefix("$iothub/")
    if path.startswith("twin/res/"):
        packet["status"] = path.removeprefix("twin/res/")
        return "twin" if packet["status"] == "200" else "twin answer", packet
    if path.startswith("methods/POST/"):
        return f"method {path.removeprefix('methods/POST/')}", packet
    return f"{path} {packet['parameters'].get('$version')}", packet
