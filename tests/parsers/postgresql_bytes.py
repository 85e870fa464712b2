# SPDX-License-Identifier: Apache-2.0
"""Messages of PostgreSQL, and a connection to feed them to."""

from __future__ import annotations

import struct

from parsers.model import Options, Side
from parsers.postgresql import PostgresqlParser
from tests.parsers.corpus import Player, Step


def message(tag, body=b""):
    return tag.encode() + struct.pack(">I", len(body) + 4) + body


def strings(*texts):
    return b"".join((each if isinstance(each, bytes) else each.encode()) + b"\0" for each in texts)


def startup(minor=0, **parameters):
    body = b"".join(strings(*item) for item in parameters.items()) + b"\0"
    return struct.pack(">IHH", len(body) + 8, 3, minor) + body


def special(minor, body=b""):
    return struct.pack(">IHH", len(body) + 8, 1234, minor) + body


def values(each):
    return b"".join(
        struct.pack(">i", -1 if value is None else len(value)) + (value or b"") for value in each
    )


def query(text):
    return message("Q", strings(text))


def parse(name, text, types=()):
    numbers = struct.pack(f">H{len(types)}I", len(types), *types)
    return message("P", strings(name, text) + numbers)


def bind(portal, statement, *parameters):
    counts = struct.pack(">HH", 0, len(parameters))
    return message("B", strings(portal, statement) + counts + values(parameters) + b"\0\0")


def describe(kind, name=""):
    return message("D", kind.encode() + strings(name))


def close(kind, name=""):
    return message("C", kind.encode() + strings(name))


def execute(portal="", most=0):
    return message("E", strings(portal) + struct.pack(">I", most))


def row(*each):
    return message("D", struct.pack(">H", len(each)) + values(each))


def columns(*names):
    body = b"".join(strings(name) + bytes(18) for name in names)
    return message("T", struct.pack(">H", len(names)) + body)


def done(tag):
    return message("C", strings(tag))


def ready(state="I"):
    return message("Z", state.encode())


def error(code, severity="ERROR", text="a secret value"):
    fields = strings(f"S{severity}", f"V{severity}", f"C{code}", f"M{text}")
    return message("E", fields + b"\0")


def notice(text="a secret value"):
    return message("N", strings("SNOTICE", "VNOTICE", "C00000", f"M{text}") + b"\0")


def setting(name, value):
    return message("S", strings(name, value))


def authentication(kind, body=b""):
    return message("R", struct.pack(">I", kind) + body)


SYNC = message("S")
FLUSH = message("H")
TERMINATE = message("X")
PARSED = message("1")
BOUND = message("2")
CLOSED = message("3")
NO_DATA = message("n")
SUSPENDED = message("s")
EMPTY = message("I")
KEY = message("K", bytes(8))
COPY_IN = message("G", b"\0\0\0")
HELLO = authentication(0) + setting("server_version", "15.1") + KEY + ready()
SSL = special(5679)
GSS = special(5680)
CANCEL = special(5678, b"pid!key!")


class Connection(Player):
    """A connection; by default one that has been started, with that exchange forgotten."""

    def __init__(self, *, started=True, side=Side.SERVER, **options):
        super().__init__([PostgresqlParser], side, **options)
        if started:
            self.ask(startup(user="ann", database="shop")).answer(HELLO)
            self.session.done.clear()

    def ask(self, *parts, hole=0):
        return self._send(True, parts, hole)

    def answer(self, *parts, hole=0):
        return self._send(False, parts, hole)

    def lose(self, to_server, size):
        return self.play([Step(to_server=to_server, data=b"", size=size, seen=False)])

    def _send(self, to_server, parts, hole):
        data = b"".join(parts)
        return self.play([Step(to_server=to_server, data=data, size=len(data) + hole)])

    def take(self):
        """The exchanges since the last time, in a few words."""
        found = [
            (told["name"], told["error_type"], told["completeness"]) for told in self.described()
        ]
        self.session.done.clear()
        return found

    def attributes(self):
        (told,) = self.described()
        self.session.done.clear()
        return told["attributes"]


OPEN = Options(redact=False)
