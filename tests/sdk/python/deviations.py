"""The table of deviations: where the gateway is meant to differ from IoT Hub, as transparency.py sees it, and why.

docs/transparency.md shows the same table; the test holds the two together. Must not know: how records are made.
"""

from comparison import AT_MOST, Deviation

PYTHON = ("python-key", "python-x509", "python-module", "python-edge-module")
NODE = ("node-key",)
ALL = PYTHON + NODE
DEVICES = ("python-key", "python-x509", "node-key")

ANY = ".*"
NUMBER = "[0-9]+"

TABLE = [
    Deviation(
        "message id",
        "cloud/messages/*/systemProperties/message-id",
        "absent",
        '"[0-9a-z]+"',
        ALL,
        "a message without one gets one, so that a repetition after an outage can be told from a new message",
    ),
    Deviation(
        "address of telemetry",
        "cloud/messages/*/systemProperties/to",
        "absent",
        '"/devices/[^"]+/messages/events"',
        ALL,
        "messages go upstream over AMQP, which names the endpoint",
    ),
    Deviation(
        "expiry that is no time",
        "cloud/messages/expiry that is no time/systemProperties/absolute-expiry-time",
        '"soon"',
        "absent",
        ALL,
        "AMQP carries a time there, and nothing else; the message itself is kept",
    ),
    Deviation(
        "reported patches are merged",
        "cloud/twin*/properties/reported/$version",
        NUMBER,
        AT_MOST,
        ALL,
        "patches are pushed at least `ReportedPropertiesSyncFrequencySecs` apart, those in between as one; the hub counts "
        "fewer",
    ),
    Deviation(
        "reported patches are merged: the twin's version",
        "cloud/twin*/version",
        NUMBER,
        AT_MOST,
        ALL,
        "it is the sum of the sections' versions",
    ),
    Deviation(
        "connection state",
        "cloud/twin after its end/connectionState",
        '"Disconnected"',
        '"Connected"',
        ALL,
        "the link for telemetry stays for a minute, for what may be queued; the links for twins, methods and messages end with "
        "the connection",
    ),
    Deviation(
        "words of a refused patch",
        "device/wire/twin answer at report */body/message",
        '".+"',
        '".+"',
        ALL,
        "the gateway judges patches itself, also while the hub is away; it names the property",
    ),
    Deviation(
        "words of a refused patch, in the SDK's error",
        "device/calls/report */words",
        '".+"',
        '".+"',
        NODE,
        "the same: this SDK shows them",
    ),
    Deviation(
        "error code of a refused patch",
        "device/wire/twin answer at report */body/errorCode",
        "4[0-9]{2}001",
        "4[0-9]{2}000",
        ALL,
        "the status times 1000: the hub's own codes are not documented; SDKs look whether there is one",
    ),
    Deviation(
        "time of a refusal",
        "device/wire/twin answer at report */body/timestampUtc",
        '"<time>"',
        "absent",
        ALL,
        "bodies are kept small; no SDK reads it",
    ),
    Deviation(
        "null within a list: the answer",
        "device/wire/twin answer at report null in a list/*",
        ANY,
        ANY,
        ALL,
        "refused with 400 as the reference does: IoT Hub's documents name no null there, and what is answered 204 must not be "
        "refused by the hub later",
    ),
    Deviation(
        "null within a list: the SDK's call",
        "device/calls/report null in a list/*",
        ANY,
        ANY,
        ALL,
        "the same",
    ),
    Deviation(
        "null within a list: the twin",
        "cloud/twin after its end/properties/reported/*nulls",
        ANY,
        "absent",
        ALL,
        "the same",
    ),
    Deviation(
        "quality of service of a method's request",
        "device/wire/method */qos",
        "0",
        "1",
        PYTHON,
        "as the subscription asks, as the reference does; the hub sends it at 0. Who subscribes at 0 gets 0",
    ),
    Deviation(
        "expiry of a message to the device",
        "device/*/message */*",
        '"2999-01-01T00:00:00.000Z"',
        '"2999-01-01T00:00:00Z"',
        DEVICES,
        "the same time, without the milliseconds that are none",
    ),
    Deviation(
        "creation time of a message to the device",
        "device/*/message hubs/*$.ctime",
        "absent",
        '"2026-01-01T00:00:00Z"',
        DEVICES,
        "a system property, written as the reference writes it",
    ),
    Deviation(
        "creation time of a message to the device, as sent",
        "device/*/message hubs/*iothub-creation-time-utc",
        '"2026-01-01T00:00:00Z"',
        "absent",
        DEVICES,
        "the same",
    ),
]

# Defects that are known and not mended yet, each with the row that hides it. A row goes with its defect: it fails as soon as it
# does not apply any more.
OPEN = []
