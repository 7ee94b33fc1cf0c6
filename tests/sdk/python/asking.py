"""Questions over HTTP, and waiting. With Python's own modules only: the container test has them, too (tests/container)."""

import json
import time
import urllib.error
import urllib.request


def wait_for(what, probe, seconds=60):
    """What `probe` gives, once that is true; until then it may fail as what does not run yet fails."""
    deadline = time.monotonic() + seconds
    last = None
    while time.monotonic() < deadline:
        try:
            last = probe()
            if last:
                return last
        except (OSError, AssertionError) as e:
            last = e
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s, last seen: {last}")


def ask(method, url, body=None, seconds=60):
    """Status and body (JSON, if it is), also of a refusal. `seconds`: longer than any call of a method that a test makes."""
    asked = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(asked, timeout=seconds) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            status, text = refused.code, refused.read().decode()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def request(method, url, body=None):
    """The body of the answer; a refusal is an error."""
    status, answer = ask(method, url, body, seconds=10)
    if status >= 300:
        raise OSError(f"{method} {url}: {status} {answer}")
    return answer
