# SPDX-License-Identifier: Apache-2.0
"""Records and hellos of TLS, made for tests."""

from __future__ import annotations

from tests.parsers.corpus import Step

RANDOM = bytes(range(100, 132))


def record(contents, kind=22, version=b"\x03\x03"):
    return bytes([kind]) + version + len(contents).to_bytes(2, "big") + contents


def message(kind, body):
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def extension(kind, contents):
    return kind.to_bytes(2, "big") + len(contents).to_bytes(2, "big") + contents


def extensions(*found):
    block = b"".join(extension(*each) for each in found)
    return len(block).to_bytes(2, "big") + block


def name_of(host):
    contents = b"\0" + len(host).to_bytes(2, "big") + host
    return 0, len(contents).to_bytes(2, "big") + contents


def alpn(*names):
    contents = b"".join(bytes([len(each)]) + each for each in names)
    return 16, len(contents).to_bytes(2, "big") + contents


def client_hello(*found, session=b"", suites=b"\x13\x01\x13\x02", block=None):
    """The message: `found` are extensions, `block` what stands in place of all of them."""
    listed = len(suites).to_bytes(2, "big") + suites
    rest = extensions(*found) if block is None else block
    body = b"\x03\x03" + RANDOM + bytes([len(session)]) + session + listed + b"\x01\0" + rest
    return message(1, body)


def server_hello(*found, session=b"", suite=0x1301, version=b"\x03\x03", random=RANDOM, block=None):
    rest = extensions(*found) if block is None else block
    chosen = suite.to_bytes(2, "big") + b"\0"
    return message(2, version + random + bytes([len(session)]) + session + chosen + rest)


def alert(number, level=2):
    return record(bytes([level, number]), kind=21)


NEWEST = (43, b"\x03\x04")
"""The extension with which a server says TLS 1.3."""
SEALED = record(bytes(40), kind=23)
CHANGE = record(b"\x01", kind=20)


def up(data):
    return Step(data=data, size=len(data))


def down(data):
    return Step(to_server=False, data=data, size=len(data))
