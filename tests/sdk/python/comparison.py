"""Two records of the same behaviour, field by field, and the table of deviations that are meant.

Owns: what a difference is, when a row of the table explains it, and the form of the table in docs/transparency.md. Must not
know: what the rows say, SDKs, processes.
"""

import fnmatch
import json
import re
from dataclasses import dataclass, replace

# What a field is where it is not.
ABSENT = object()
# A number that is not higher than the other way's, and not that of something that was never changed.
AT_MOST, UNCHANGED = "more than 1, and at most that", 1


@dataclass(frozen=True)
class Difference:
    """One field: its path from the root of the record, and its value (compact JSON, or `absent`) on each side."""

    path: str
    straight: str
    through: str

    def __str__(self):
        def short(text):
            return text if len(text) <= 160 else f"{text[:150]}... ({len(text)} characters)"

        return f"{self.path}\n    straight: {short(self.straight)}\n    through:  {short(self.through)}"


@dataclass(frozen=True)
class Deviation:
    """A row of the table: where the two ways may differ, how, for whom, and why.

    `where` is a pattern of paths (`*` for anything), `straight` and `through` are regular expressions of the whole values;
    `through` may also be AT_MOST. `clients`: in whose runs; there it must apply.
    """

    name: str
    where: str
    straight: str
    through: str
    clients: tuple
    why: str

    def explains(self, client, difference):
        return (
            client in self.clients
            and fnmatch.fnmatchcase(difference.path, self.where.replace("[", "[[]"))
            and re.fullmatch(self.straight, difference.straight, re.DOTALL) is not None
            and self.fits(difference)
        )

    def fits(self, difference):
        if self.through == AT_MOST:
            is_number = re.fullmatch("[0-9]+", difference.through) is not None
            return is_number and UNCHANGED < int(difference.through) <= int(difference.straight)
        return re.fullmatch(self.through, difference.through, re.DOTALL) is not None


def differences(straight, through, path=""):
    """Objects are compared name by name. A list is one value: its order counts."""
    if isinstance(straight, dict) and isinstance(through, dict):
        found = []
        for name in sorted(straight.keys() | through.keys()):
            at = f"{path}/{name}" if path else name
            found += differences(straight.get(name, ABSENT), through.get(name, ABSENT), at)
        return found
    straight, through = text(straight), text(through)
    return [] if straight == through else [Difference(path, straight, through)]


def text(value):
    return "absent" if value is ABSENT else json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def changed(difference, straight, through):
    """The difference with another value on one side: each of `straight` on that side, each of `through` on the other."""
    each = [replace(difference, straight=value) for value in straight]
    each += [replace(difference, through=value) for value in through]
    return [other for other in each if other != difference and other.straight != other.through]


def judge(client, straight, through, table):
    """The differences that no row explains, and the rows for `client` that explain none."""
    idle = [row for row in table if client in row.clients]
    unexplained = []
    for difference in differences(straight, through):
        rows = [row for row in table if row.explains(client, difference)]
        if not rows:
            unexplained.append(difference)
        idle = [row for row in idle if row not in rows]
    return unexplained, idle


def as_markdown(table):
    """The lines of the table in docs/transparency.md."""
    everyone = {client for row in table for client in row.clients}

    def cell(text):
        return text.replace("|", "\\|")

    lines = ["| deviation | where | straight to the hub | through the gateway | seen with | why |", "|---|---|---|---|---|---|"]
    for row in table:
        cells = [row.name, f"`{cell(row.where)}`", f"`{cell(row.straight)}`", f"`{cell(row.through)}`"]
        cells += ["all" if set(row.clients) == everyone else ", ".join(row.clients), row.why]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
