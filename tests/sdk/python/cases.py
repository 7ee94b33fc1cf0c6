"""What a device of the transparency test sends, and is sent: telemetry, patches, calls, messages. With all that is odd.

Must not know: who sends it, what becomes of it.
"""

# Days of the times in what is sent; every other time is the hub's own.
OWN_DAYS = ("2026-01-01", "2031-01-01", "2999-01-01")

ODD_VALUES = {
    "alert level": "high&low=é",
    "slash": "a/b//c/messages/events/d",
    "plus": "1+1=2",
    "percent": "100%41",
    "filter": "#+$",
    "quotes": "\"'<>\\",
    "blanks": "  x ",
    "control": "a\nb\x01",
    "emoji": "🛰",
    "question": "?a=b",
    "empty": "",
    "long": "v" * 1000,
}
ODD_NAMES = {"a/b": "1", "a=b": "2", "a&b": "3", "ü": "4", "%41": "5", "Case": "6", "case": "7", "a b": "8", "$own": "9"}
SYSTEM = {
    "message_id": "-:.+%_#*?!(),=@;$'9",
    "correlation_id": "cor 1/2&é",
    "user_id": "user+1",
    "content_type": "application/json;charset=utf-8",
    "content_encoding": "utf-8",
}

# name -> body, properties, system properties. Sent one after the other.
TELEMETRY = {
    "plain": ("plain", {}, {}),
    "system properties": ('{"n":1}', {"n": "1"}, SYSTEM),
    "odd values": ("odd values", ODD_VALUES, {"message_id": "odd-values"}),
    "odd names": ("odd names", ODD_NAMES, {"message_id": "odd-names"}),
    "expiry": ("expiry", {}, {"message_id": "expiry", "expiry_time_utc": "2031-01-01T00:00:00Z"}),
    "expiry that is no time": ("soon", {}, {"message_id": "soon", "expiry_time_utc": "soon"}),
    "names of the hub's": (
        "hub's",
        {"iothub-creation-time-utc": "2026-01-01T00:00:00Z", "iothub-ack": "full", "iothub-operation": "o"}
        | {"iothub-app-x": "y", "mqtt-retain": "yes", "iothub-connection-device-id": "somebody"},
        {"message_id": "hubs"},
    ),
    "creation time with a zone": (
        "zone", {"iothub-creation-time-utc": "2026-01-01T02:00:00.5+02:00"}, {"message_id": "zone"}
    ),
    "creation time that is none": ("none", {"iothub-creation-time-utc": "yesterday"}, {"message_id": "none"}),
    "claims": ("claims", {"$.cdid": "somebody", "$.cmid": "else", "$.xyz": "own"}, {"message_id": "claims"}),
    "component": ("component", {"$.sub": "thermostat1", "$.schema": "s"}, {"message_id": "component"}),
    "binary": (bytes(range(256)), {}, {"message_id": "binary"}),
    "empty": ("", {"seq": "1"}, {"message_id": "empty"}),
    "large": ("x" * 200_000, {}, {"message_id": "large"}),
    "same id again": ("again", {}, {"message_id": "empty"}),
}
OUTPUTS = {"through an output": ("output", {"a": "b"}, {"message_id": "output", "output_name": "out 1"})}


def deep(levels):
    return {"d": deep(levels - 1)} if levels > 1 else {"d": 1}


PATCHES = {
    "all kinds": {"t": 21.5, "on": True, "text": "Größe ✓/&", "list": [1, {"a": [2]}], "big": 1e300}
    | {"in": {"a": {"b": 1, "c": 2}}},
    "null deletes": {"text": None, "in": {"a": {"b": None}}},
    "null of what is not there": {"never": None, "new": {"x": None}},
    "object becomes value": {"in": 5},
    "value becomes object": {"t": {"x": 1}},
    "nothing": {},
    "ten deep": {"d": deep(9)},
    "twelve deep": {"d": deep(11)},
    "dot in a name": {"a.b": 1},
    "hash in a name": {"a#b": 1},
    "blank in a name": {"a b": 1},
    "empty name": {"": 1},
    "name with letters of all kinds": {"grün-ß_1!": 1},
    "longest name": {"n" * 1024: 1},
    "name too long": {"n" * 1025: 1},
    "that name goes": {"n" * 1024: None},
    "longest text": {"text": "t" * 4096},
    "text too long": {"text": "t" * 4097},
    "largest integer": {"int": 4503599627370495},
    "integer too large": {"int": 4503599627370496},
    "too large": {f"k{n}": "t" * 4000 for n in range(9)},
    "version in the body": {"$version": 99, "v": 1},
    "a list": [1, 2],
    "a text": "text",
    "a number": 7,
    "last": {"last": True},
}
# Near the end, for what is taken by one and not by the other shows in all that follows.
LAST_PATCHES = {
    "eleven deep": {"e": deep(10)},
    "dollar in a name": {"$a": 1},
    "end": {"end": True},
}

DESIRED = {
    "all kinds": {"led": True, "in": {"a": 1, "b": [1, {"x": "ü"}]}, "text": "/&✓", "t": 1.5},
    "null deletes": {"led": None, "in": {"a": None}},
    "null of what is not there": {"never": None},
    "nothing": {},
    "object becomes value": {"in": 5},
    "large": {f"k{n}": "d" * 4000 for n in range(7)},
}

# Seconds: an answer that is late, a caller who waits in vain, and one who perhaps does.
LATE, UNANSWERED, PERHAPS = 3, 1, 10
# name -> what is asked, and what the device answers. Called one after the other.
METHODS = {
    "object": ({"payload": {"a": [1, "ü"], "n": None}}, {"status": 200}),
    "nothing": ({}, {"status": 204}),
    "null": ({"payload": None}, {"status": 200, "payload": None}),
    "text": ({"payload": "text ✓"}, {"status": 201}),
    "number": ({"payload": -1.5}, {"status": 200}),
    "list": ({"payload": [1, [2]]}, {"status": 200}),
    "empty-object": ({"payload": {}}, {"status": 200}),
    "large": ({"payload": "p" * 100_000}, {"status": 200}),
    "status-404": ({}, {"status": 404, "payload": {"why": "no such thing"}}),
    "status-500": ({}, {"status": 500, "payload": "broken"}),
    "status-minus": ({}, {"status": -7, "payload": 1}),
    "status-largest": ({}, {"status": 2147483647, "payload": 1}),
    "odd.name-1_~*": ({"payload": 1}, {"status": 200}),
}
# Called at the same time: five are answered the other way round, the rest takes its time.
TOGETHER = {f"together-{n}": ({"payload": n}, {"status": 200 + n, "delay": 1 - 0.2 * n}) for n in range(5)} | {
    "slow": ({"payload": 1, "responseTimeoutInSeconds": 60}, {"status": 200, "delay": LATE}),
    "late": ({"payload": 1, "responseTimeoutInSeconds": UNANSWERED}, {"status": 200, "delay": LATE}),
    "unknown": ({"payload": 1, "responseTimeoutInSeconds": UNANSWERED}, None),
    # Not every SDK finds the name in the topic again.
    "!'|^&": ({"payload": 1, "responseTimeoutInSeconds": PERHAPS}, {"status": 200}),
    "percent%41": ({"payload": 1, "responseTimeoutInSeconds": PERHAPS}, {"status": 200}),
}
ANSWERS = {name: answer for name, (_, answer) in (METHODS | TOGETHER).items() if answer}

MESSAGES = [
    {"messageId": "plain", "body": "hello"},
    {
        "messageId": "-:.+%_#*?!(),=@;$'9", "correlationId": "cor 1/2&é", "userId": "ops", "contentType": "application/json",
        "contentEncoding": "utf-8", "expiryTimeUtc": "2999-01-01T00:00:00Z", "ack": "full", "body": {"led": True},
        "properties": {"colour": "deep blue"},
    },
    {"messageId": "odd-values", "body": "odd values", "properties": ODD_VALUES, "ack": "positive"},
    {"messageId": "odd-names", "body": "odd names", "properties": ODD_NAMES, "ack": "negative"},
    {"messageId": "binary", "body": "AAECAwT9/v8=", "bodyEncoding": "base64"},
    {"messageId": "empty", "body": ""},
    {"messageId": "large", "body": "c" * 60_000},
    {
        "messageId": "hubs", "body": "hub's",
        "properties": {"iothub-operation": "o", "iothub-creation-time-utc": "2026-01-01T00:00:00Z"},
    },
    *[{"messageId": f"burst-{n}", "body": str(n), "ack": "full"} for n in range(10)],
]
