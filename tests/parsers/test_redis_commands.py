# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from parsers.redis_commands import (
    COMMANDS,
    KEYWORDS,
    KNOWN,
    MAX_SHOWN_BYTES,
    MAX_TEXT_CHARS,
    MAX_WORD_BYTES,
    SUBCOMMANDS,
    WORD,
    Role,
    describe,
    is_told_by_key,
)


def laid_out(words):
    """Words one behind the other, and where they are."""
    spans, data = [], b""
    for word in words:
        spans.append((len(data), len(data) + len(word)))
        data += word + b"\r\n"
    return data, spans


def command(*words, redact=True, omitted=None, total=None):
    raw = [word if isinstance(word, bytes) else word.encode() for word in words]
    data, spans = laid_out(raw)
    return describe(data, spans, total or len(words), redact=redact, omitted=omitted)


def text(line, **options):
    return command(*line.split(), **options).text


TEXTS = [
    ("GET k", "GET k"),
    ("get k", "get k"),
    ("SET k v", "SET k ?"),
    ("SET k v EX 10 NX", "SET k ? EX ? NX"),
    ("SET k NX", "SET k ?"),
    ("SETEX k 10 v", "SETEX k ? ?"),
    ("HMSET myhash field1 Hello field2 World", "HMSET myhash field1 ? field2 ?"),
    ("HSET h f v g", "HSET h f ? g"),
    ("HGET h f", "HGET h f"),
    ("HMGET h f g", "HMGET h f g"),
    ("HINCRBY h f 3", "HINCRBY h f ?"),
    ("MSET a 1 b 2", "MSET a ? b ?"),
    ("MGET a b", "MGET a b"),
    ("DEL a b c", "DEL a b c"),
    ("LPUSH l x y", "LPUSH l ? ?"),
    ("LRANGE l 0 -1", "LRANGE l ? ?"),
    ("LINSERT l BEFORE x y", "LINSERT l BEFORE ? ?"),
    ("LMOVE a b LEFT RIGHT", "LMOVE a b LEFT RIGHT"),
    ("BLPOP a b 5", "BLPOP a b ?"),
    ("BLMPOP 5 2 a b LEFT COUNT 3", "BLMPOP ? 2 a b LEFT COUNT ?"),
    ("BRPOPLPUSH a b 5", "BRPOPLPUSH a b ?"),
    ("SADD s m", "SADD s ?"),
    ("ZADD z NX CH 1 m 2 n", "ZADD z NX CH ? ? ? ?"),
    ("ZADD z 1 NX", "ZADD z ? ?"),
    ("ZADD z NX", "ZADD z NX"),
    ("ZRANGE z 0 10 BYSCORE LIMIT 0 5 WITHSCORES", "ZRANGE z ? ? BYSCORE LIMIT ? ? WITHSCORES"),
    ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "ZUNIONSTORE d 2 a b WEIGHTS ? ?"),
    ("ZINTER 2 a b WITHSCORES", "ZINTER 2 a b WITHSCORES"),
    ("GEOADD g 1 2 m", "GEOADD g ? ? ?"),
    ("BITOP AND d a b", "BITOP AND d a b"),
    ("COPY a b DB 3 REPLACE", "COPY a b DB ? REPLACE"),
    ("SORT l BY w_* GET o_* STORE d", "SORT l BY ? GET ? STORE ?"),
    ("SCAN 0 MATCH secret* COUNT 10", "SCAN ? MATCH ? COUNT ?"),
    ("KEYS user:*", "KEYS user:*"),
    ("XADD s * f v g w", "XADD s * f ? g ?"),
    ("XADD s NOMKSTREAM MAXLEN ~ 10 LIMIT 5 1-1 f v", "XADD s NOMKSTREAM MAXLEN ~ ? LIMIT ? ? f ?"),
    ("XADD s MAXLEN 10 * f v", "XADD s MAXLEN ? * f ?"),
    ("XADD s MAXLEN", "XADD s MAXLEN"),
    ("XADD", "XADD"),
    ("XREAD COUNT 2 BLOCK 0 STREAMS a b 0 $", "XREAD COUNT ? BLOCK ? STREAMS a b ? ?"),
    ("XREADGROUP GROUP g c STREAMS a >", "XREADGROUP GROUP ? ? STREAMS a ?"),
    ("XREAD a b", "XREAD ? ?"),
    ("XGROUP CREATE s g $ MKSTREAM", "XGROUP CREATE s g $ MKSTREAM"),
    ("XACK s g 1-1", "XACK s ? ?"),
    ("PUBLISH c m", "PUBLISH c ?"),
    ("SUBSCRIBE a b", "SUBSCRIBE a b"),
    ("EVAL script 2 a b x y", "EVAL ? 2 a b ? ?"),
    ("EVAL script x y", "EVAL ? ? ?"),
    ("EVALSHA abc 1 k x", "EVALSHA abc 1 k ?"),
    ("FCALL f 0 x", "FCALL f 0 ?"),
    ("SELECT 3", "SELECT ?"),
    ("AUTH p", "AUTH ?"),
    ("AUTH u p", "AUTH ? ?"),
    ("HELLO 3 AUTH u p SETNAME n", "HELLO 3 AUTH ? ? SETNAME ?"),
    ("CONFIG SET requirepass p save x", "CONFIG SET requirepass ? save ?"),
    ("CONFIG GET requirepass", "CONFIG GET requirepass"),
    ("config get a", "config get a"),
    ("ACL SETUSER u on >p", "ACL SETUSER ? ? ?"),
    ("ACL WHOAMI", "ACL WHOAMI"),
    ("ACL hunter2 p", "ACL ? ?"),
    ("ACL", "ACL"),
    ("CLIENT SETNAME n", "CLIENT SETNAME ?"),
    ("CLIENT REPLY OFF", "CLIENT REPLY OFF"),
    ("CLIENT TRACKING ON BCAST PREFIX p", "CLIENT TRACKING ON BCAST PREFIX ?"),
    ("MIGRATE h 1 k 0 9 AUTH p KEYS a b", "MIGRATE ? ? k ? ? AUTH ? KEYS ? ?"),
    ("SENTINEL SET m auth-pass p", "SENTINEL SET ? ? ?"),
    ("OBJECT ENCODING k", "OBJECT ENCODING k"),
    ("MEMORY USAGE k SAMPLES 5", "MEMORY USAGE k SAMPLES ?"),
    ("SCRIPT LOAD code", "SCRIPT LOAD ?"),
    ("REPLCONF ACK 14", "REPLCONF ACK ?"),
    ("FOO a b", "FOO ? ?"),
    ("FT.SEARCH idx q", "FT.SEARCH ? ?"),
    ("PING", "PING"),
    ("PING hello", "PING ?"),
    ("INFO commandstats", "INFO commandstats"),
]


@pytest.mark.parametrize(("line", "shown"), TEXTS)
def test_keys_are_shown_and_values_are_not(line, shown):
    assert text(line) == shown


@pytest.mark.parametrize(("line", "shown"), TEXTS)
def test_what_is_left_out_of_a_recording_changes_nothing(line, shown):
    words = [word.encode() for word in line.split()]
    data, spans = laid_out(words)
    omitted = []
    describe(data, spans, len(words), redact=True, omitted=omitted)
    blanked = bytearray(data)
    for start, stop in omitted:
        assert 0 <= start < stop <= len(data)
        blanked[start:stop] = b"\xff" * (stop - start)
    assert describe(bytes(blanked), spans, len(words), redact=True).text == shown
    kept = bytes(blanked).replace(b"\xff", b"").decode().split()
    shown_words = set(shown.split()) | {"3" if line == "SELECT 3" else ""}
    assert set(kept) <= shown_words


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("SET k v EX 10", "SET k v EX 10"),
        ("FOO a b", "FOO a b"),
        ("AUTH p", "AUTH ?"),
        ("HELLO 3 AUTH u p", "HELLO 3 AUTH ? ?"),
        ("CONFIG SET requirepass p", "CONFIG SET requirepass ?"),
        ("ACL SETUSER u >p", "ACL SETUSER ? ?"),
        ("MIGRATE h 1 k 0 9 AUTH p", "MIGRATE h 1 k 0 9 AUTH ?"),
    ],
)
def test_whoever_asks_for_literals_sees_values_and_no_secrets(line, shown):
    assert text(line, redact=False) == shown


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("GET k", "GET"),
        ("gEt k", "gEt"),
        ("CONFIG GET a", "CONFIG GET"),
        ("client setinfo lib-name x", "client setinfo"),
        ("CLIENT FOO x", "CLIENT"),
        ("XINFO STREAM s", "XINFO STREAM"),
        ("JSON.SET a $ 1", "JSON.SET"),
    ],
)
def test_operation_is_named_as_sent(line, name):
    assert command(*line.split()).name == name


@pytest.mark.parametrize(
    ("line", "role", "number"),
    [
        ("SELECT 12", Role.SELECT, 12),
        ("SELECT abc", Role.SELECT, -1),
        ("reset", Role.RESET, 0),
        ("CLIENT REPLY ON", Role.REPLY_ON, 0),
        ("client reply off", Role.REPLY_OFF, 0),
        ("CLIENT REPLY SKIP", Role.REPLY_SKIP, 0),
        ("CLIENT REPLY x", Role.NONE, 0),
        ("SUBSCRIBE a b c", Role.SUBSCRIBE, 3),
        ("UNSUBSCRIBE", Role.SUBSCRIBE, 0),
        ("PING", Role.LISTEN, 0),
        ("PSYNC ? -1", Role.SYNC, 0),
        ("REPLCONF ACK 1", Role.ACK, 0),
        ("REPLCONF CAPA eof", Role.NONE, 0),
        ("EXEC", Role.EXEC, 0),
        ("GET k", Role.NONE, 0),
    ],
)
def test_commands_that_change_the_connection_are_known(line, role, number):
    found = command(*line.split())
    assert (found.role, found.number) == (role, number)


def test_a_subscription_knows_how_its_replies_begin():
    assert command("PSubscribe", "a*").word == b"psubscribe"
    assert command("GET", "a").word == b""


@pytest.mark.parametrize("name", ["EVALSHA", "evalsha_ro", "FCALL", "FCALL_RO"])
def test_a_script_is_a_stored_procedure(name):
    assert command(name, "abc", "0").procedure == "abc"
    assert command(name).procedure == ""
    assert command("EVAL", "abc", "0").procedure == ""


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (b"a:b{c}", "a:b{c}"),
        (b"two words", '"two words"'),
        (b"", '""'),
        ("café".encode(), "café"),
        ("ca fé".encode(), '"ca f\\xc3\\xa9"'),
        (b"\x00\xff", '"\\x00\\xff"'),
        (b"it's", '"it\'s"'),
        (b'say "a\\b"', '"say \\x22a\\x5cb\\x22"'),
        (b"x" * 500, "x" * MAX_SHOWN_BYTES + "..."),
    ],
)
def test_keys_look_as_in_redis_cli(key, shown):
    assert command("GET", key).text == f"GET {shown}"


def test_a_text_ends_somewhere():
    long = command("DEL", *(f"{index:060}" for index in range(30)))
    assert len(long.text) == MAX_TEXT_CHARS
    assert long.text.endswith(" ...")
    assert command("DEL", "a", "b", total=5).text == "DEL a b ..."


def test_what_is_behind_the_end_of_the_text_is_not_kept():
    omitted = []
    command("DEL", *(f"{index:060}" for index in range(30)), omitted=omitted)
    assert omitted
    omitted = []
    command("GET", "x" * 500, omitted=omitted)
    assert omitted == [(5 + MAX_SHOWN_BYTES, 505)]


@pytest.mark.parametrize(
    ("line", "waits"),
    [("GET key", True), ("SET k val", False), ("SUBSCRIBE a", True), ("SCAN 0", False)],
)
def test_a_last_word_is_waited_for_if_it_is_read(line, waits):
    """It is one that is longer than a keyword."""
    words = [word.encode() for word in line.split()]
    words[-1] = words[-1] * 40
    data, spans = laid_out(words)
    data = data[: spans[-1][0] + 1]
    assert (describe(data, spans, len(words), redact=True) is None) is waits


def test_a_last_option_is_waited_for_if_it_is_shown():
    data, spans = laid_out([b"HSCAN", b"h", b"1" * 40])
    data = data[: spans[-1][0] + 1]
    assert describe(data, spans, 3, redact=True).text == "HSCAN h ?"
    assert describe(data, spans, 3, redact=False) is None


def test_half_a_subcommand_is_waited_for():
    data, spans = laid_out([b"CONFIG", b"REWRITE"])
    assert describe(data[:-4], spans, 2, redact=True) is None
    data, spans = laid_out([b"CONFIG", b"x" * 50])
    assert describe(data[:20], spans, 2, redact=True).text == "CONFIG ?"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("SET k v", True),
        ("set k v", True),
        ("SET k v NX", False),
        ("LPUSH l x y", True),
        ("SETEX k 1 v", True),
        ("HSET h f v", False),
        ("ZADD z 1 m", False),
        ("MSET a b", False),
        ("FOO a b", False),
    ],
)
def test_some_commands_are_told_by_their_key(line, told):
    words = line.split()
    assert is_told_by_key(words[0].encode(), len(words)) is told
    if told:
        others = [*words[:2], *("other" for _ in words[2:])]
        assert text(" ".join(others)) == text(line)


def test_tables_hold_what_they_should():
    assert len(COMMANDS) > 220
    assert max(map(len, KEYWORDS)) <= MAX_WORD_BYTES
    for name in (*KNOWN, *(sub for _, sub in SUBCOMMANDS)):
        assert name == name.upper()
        assert len(name) <= MAX_WORD_BYTES
    for name in KNOWN:
        assert WORD.fullmatch(name)
    for first, repeated, last in (*COMMANDS.values(), *SUBCOMMANDS.values()):
        assert set(first + repeated + last) <= set("kvsoqpun")
