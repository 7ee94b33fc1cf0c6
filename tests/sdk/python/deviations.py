"""The table of deviations: where the gateway is meant to differ from IoT Hub, as transparency.py sees it, and why.

docs/transparency.md shows the same table; the test holds the two together. Must not know: how records are made.
"""

from comparison import AT_MOST, Deviation

PYTHON = ("python-key", "python-x509", "python-module", "python-edge-module")
NODE = ("node-key",)
ALL = PYTHON + NODE
DEVICES = ("python-key", "python-x509", "node-key")

# A path part of the record.
NULL_IN_A_LIST = "report null in a list"


def words_of_a_refused_patch(what, straight, through, why="the same"):
    """On the wire, and where an SDK shows them."""
    return Deviation(
        f"words of a refused patch: {what}",
        "device/*report */*",
        f'"{straight}"',
        f'"{through}"',
        ALL,
        why,
    )


TABLE = [
    Deviation(
        "message id",
        "cloud/messages/plain/systemProperties/message-id",
        "absent",
        '"[0-9a-z]{14,26}"',
        ALL,
        "a message without one gets one, so that a repetition after an outage can be told from a new message",
    ),
    Deviation(
        "address of telemetry",
        "cloud/messages/*/systemProperties/to",
        "absent",
        '"<own>"',
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
        "[0-9]+",
        AT_MOST,
        ALL,
        "patches are pushed at least `ReportedPropertiesSyncFrequencySecs` apart, those in between as one; the hub counts "
        "fewer, and so does the twin's version, which is the sum of its sections' and is compared without this one's",
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
    words_of_a_refused_patch(
        "a character in a name",
        r'the key \\"[^"]+\\" has a character that is not allowed',
        r"""the name \\"[^"]+\\" holds '[ .#$]'""",
        "the gateway judges patches itself, also while the hub is away; it names the property",
    ),
    words_of_a_refused_patch(
        "the length of a name", "a key is empty or longer than 1 KB", "a name is empty or longer than 1024 bytes"
    ),
    words_of_a_refused_patch(
        "the length of a text", "a text is longer than 4 KB", r'the text at \\"text\\" is longer than 4096 bytes'
    ),
    words_of_a_refused_patch(
        "an integer",
        "4503599627370496 has more than 53 bits",
        r'4503599627370496 at \\"int\\" is not within \(-4503599627370496, 4503599627370495\)',
    ),
    words_of_a_refused_patch("size", "40227 bytes; 32768 are allowed", "more than 32768 bytes of JSON"),
    words_of_a_refused_patch("depth", "nested deeper than 10", r'\\"d\\" is nested deeper than 10'),
    Deviation(
        "error code of a refused patch",
        "device/wire/twin answer at report */body/errorCode",
        "400001",
        "400000",
        ALL,
        "the status times 1000: the hub's own codes are not documented; SDKs look whether there is one",
    ),
    Deviation(
        "error code of a patch that is too large",
        "device/wire/twin answer at report too large/body/errorCode",
        "413001",
        "413000",
        ALL,
        "the same",
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
        "null within a list: the answer's status",
        f"device/wire/twin answer at {NULL_IN_A_LIST}/status",
        '"204"',
        '"400"',
        ALL,
        "refused as the reference does: IoT Hub's documents name no null there, and what is answered 204 must not be refused by the "
        "hub later",
    ),
    Deviation(
        "null within a list: the answer's version",
        f"device/wire/twin answer at {NULL_IN_A_LIST}/parameters/$version",
        '"[0-9]+"',
        "absent",
        ALL,
        "the same",
    ),
    Deviation(
        "null within a list: the answer's body",
        f"device/wire/twin answer at {NULL_IN_A_LIST}/body",
        r'\["","utf-8"\]',
        r'{"errorCode":400000,"message":"null within the array at \\"nulls\\""}',
        ALL,
        "the same",
    ),
    Deviation(
        "null within a list: the SDK's call",
        f"device/calls/{NULL_IN_A_LIST}/outcome",
        '"done"',
        '"refused"',
        ALL,
        "the same",
    ),
    Deviation(
        "null within a list: the SDK's error, Python",
        f"device/calls/{NULL_IN_A_LIST}/error",
        "absent",
        '"ClientError"',
        PYTHON,
        "the same",
    ),
    Deviation(
        "null within a list: the SDK's error, Node.js",
        f"device/calls/{NULL_IN_A_LIST}/error",
        "absent",
        '"Error"',
        NODE,
        "the same",
    ),
    Deviation(
        "null within a list: the words of it, Python",
        f"device/calls/{NULL_IN_A_LIST}/words",
        "absent",
        '"twin operation returned status 400"',
        PYTHON,
        "the same",
    ),
    Deviation(
        "null within a list: the words of it, Node.js",
        f"device/calls/{NULL_IN_A_LIST}/words",
        "absent",
        r'"null within the array at \\"nulls\\""',
        NODE,
        "the same",
    ),
    Deviation(
        "null within a list: the twin",
        "cloud/twin after its end/properties/reported/nulls",
        r'\[null\]',
        "absent",
        ALL,
        "the same",
    ),
    Deviation(
        "null within a list: the twin's metadata",
        "cloud/twin after its end/properties/reported/$metadata/nulls",
        r'{"\$lastUpdated":"<time>"}',
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
