"""Devices and modules that listen as well: twins, direct methods, messages, and every packet that comes to them.

Owns: how each SDK is asked for these, and what it hears, in one form for all SDKs ([Heard]). Must not know: hub and gateway
processes, what is expected.

A method is answered by a table: {name: {"status", "delay" in seconds, "payload" or else the request's}}; who is not in it is
not answered.
"""

import base64
import copy
import json
import queue
import struct
import threading
from contextlib import contextmanager
from unittest import mock

from azure.iot.device import MethodResponse
from azure.iot.device.common import mqtt_transport

from devices import NodeDevice, PythonDevice

ANSWER_SECONDS = 90
# The name that an SDK client is made by is one for all threads.
TAPPING, PLAIN = threading.Lock(), mqtt_transport.mqtt.Client


def body(content):
    """Bytes as (text, encoding), for JSON has none."""
    if isinstance(content, str):
        return [content, "utf-8"]
    try:
        return [content.decode(), "utf-8"]
    except UnicodeDecodeError:
        return [base64.b64encode(content).decode(), "base64"]


class Heard:
    """What came to one client, by kind: "wire" (packets), "desired", "method", "message", "state". In order. Each carries
    the `step` in which it came.
    """

    def __init__(self):
        self.step = None
        self._events, self._changed = {}, threading.Condition()

    def add(self, kind, event):
        with self._changed:
            self._events.setdefault(kind, []).append({"step": self.step, **event})
            self._changed.notify_all()

    def of(self, kind):
        with self._changed:
            return list(self._events.get(kind, []))

    def until(self, kind, wanted, seconds=60):
        """Waits until one of the kind is as `wanted`; whether one is."""
        with self._changed:
            return self._changed.wait_for(lambda: any(wanted(event) for event in self._events.get(kind, [])), seconds)


@contextmanager
def tapped(heard):
    """An SDK client that is made within tells its packets."""

    class Tapped(PLAIN):
        def _handle_connack(self):
            flags, code = struct.unpack("!BB", bytes(self._in_packet["packet"][:2]))
            heard.add("wire", {"cmd": "connack", "code": code, "present": bool(flags & 1)})
            return super()._handle_connack()

        def _handle_suback(self):
            heard.add("wire", {"cmd": "suback", "granted": list(self._in_packet["packet"][2:])})
            return super()._handle_suback()

        def _handle_on_message(self, message):
            packet = {"cmd": "publish", "topic": message.topic, "body": body(message.payload)}
            packet |= {"qos": message.qos, "dup": bool(message.dup), "retain": bool(message.retain)}
            heard.add("wire", packet)
            return super()._handle_on_message(message)

    with TAPPING, mock.patch.object(mqtt_transport.mqtt, "Client", Tapped):
        yield


class PythonClient(PythonDevice):
    # On each connection it asks for its twin by itself, once it listens.
    ASKS = True
    FIELDS = "message_id correlation_id user_id content_type content_encoding expiry_time_utc ack input_name".split()

    def __init__(self, client, heard):
        super().__init__(client)
        self.heard = heard

    @classmethod
    def made(cls, make):
        """`make`: a function without arguments that gives a `PythonDevice`."""
        heard = Heard()
        with tapped(heard):
            return cls(make().client, heard)

    def listen(self, answers):
        def on_desired(patch):
            self.heard.add("desired", {"patch": copy.deepcopy(patch)})

        def on_method(request):
            self.heard.add("method", {"name": request.name, "payload": request.payload})
            answer = answers.get(request.name)
            if answer:
                payload = answer.get("payload", request.payload)
                response = MethodResponse(request.request_id, answer["status"], payload)
                # In a thread of its own, so that calls are answered side by side.
                threading.Timer(answer.get("delay", 0), self.client.send_method_response, [response]).start()

        def on_message(message):
            content = {name: getattr(message, name) for name in self.FIELDS if getattr(message, name) is not None}
            content["properties"] = dict(message.custom_properties)
            self.heard.add("message", {"content": content, "body": body(message.data)})

        def on_state():
            self.heard.add("state", {"connected": self.client.connected})

        self.client.on_connection_state_change = on_state
        self.client.on_twin_desired_properties_patch_received = on_desired
        self.client.on_method_request_received = on_method
        self.client.on_message_received = on_message

    def get_twin(self):
        return self._call(self.client.get_twin)

    def report(self, patch):
        self._call(lambda: self.client.patch_twin_reported_properties(patch))

    def disconnect(self):
        self._call(self.client.disconnect)


class NodeClient(NodeDevice):
    """Hears while it is not asked, too: a thread reads what node/device.js tells."""

    ASKS = False

    def __init__(self, way, **how):
        self.heard, self.answers = Heard(), queue.Queue()
        super().__init__(way, tapped=True, **how)

    def _answer(self):
        if not hasattr(self, "reader"):
            self.reader = threading.Thread(target=self._read, daemon=True)
            self.reader.start()
        return self.answers.get(timeout=ANSWER_SECONDS)

    def _read(self):
        for line in self.process.stdout:
            told = json.loads(line)
            event = told.get("event")
            if event:
                self.heard.add(event.pop("kind"), event)
            else:
                self.answers.put(told)

    def send(self, content, properties=None, **system):
        text, encoding = body(content)
        encoding = {"utf-8": "utf8"}.get(encoding, encoding)
        self._ask(do="send", body=text, encoding=encoding, properties=properties or {}, system=system)

    def listen(self, answers):
        self._ask(do="listen", answers=answers)

    def get_twin(self):
        return self._ask(do="getTwin")

    def report(self, patch):
        self._ask(do="report", patch=patch)

    def disconnect(self):
        self._ask(do="disconnect")
