# SPDX-License-Identifier: Apache-2.0
r"""What the arguments of a Redis command are, and which of them may be shown.

Commands: https://redis.io/docs/latest/commands/ (7.0, and those of 7.2 to 8.0 that clients
send). OTel: `db.query.text` of Redis is what one would type into redis-cli, with keys and fields
shown and values as `?` (`HMSET myhash field1 ? field2 ?`).

The order of a command's arguments is told by one letter for each, those in parentheses repeated
as often as needed:

    k   a key, field, channel or another name: shown
    v   a value: masked unless the user wants to see literals
    s   a secret or what may be one: always masked
    o   an option: shown if it is a keyword, else like v
    q   an option: shown if it is a keyword, else like s
    p   an option, but from the first that is none on only values follow
    u   masked, and yet read: the index of a database
    n   a number of keys, which follow it
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

MAX_SHOWN_BYTES: Final = 128
"""Of one key: longer ones are cut. Keys are identifiers, and these are seldom longer."""
MAX_TEXT_CHARS: Final = 1024
"""Of `db.query.text`: what is longer tells nobody more."""
MAX_WORD_BYTES: Final = 32
"""Of a command's or subcommand's name; the longest of Redis has 21 (`COUNT-FAILURE-REPORTS`)."""
MORE: Final = "..."

WORD: Final = re.compile(rb"[A-Za-z_][A-Za-z0-9_.|:-]{0,%d}" % (MAX_WORD_BYTES - 1))
"""A command, those of modules (`FT.SEARCH`) among them."""
PLAIN: Final = re.compile(rb"[!#-&(-~]+")
"""What redis-cli takes without quotes."""
COUNT: Final = re.compile(rb"[0-9]{1,7}")
INDEX: Final = re.compile(rb"[0-9]{1,5}")


class Role(IntEnum):
    """What a command does to the connection it is sent on."""

    NONE = 0
    SELECT = 1
    RESET = 2
    REPLY_ON = 3
    REPLY_OFF = 4
    REPLY_SKIP = 5
    SUBSCRIBE = 6
    """It is answered once for each channel."""
    LISTEN = 7
    """It may be sent while subscribed."""
    SYNC = 8
    ACK = 9
    """Only replicas send it, and nobody answers."""
    EXEC = 10
    DISCARD = 11


@dataclass(slots=True, frozen=True, eq=False)
class Command:
    """A command with its arguments, as far as they may be shown."""

    name: str
    """As sent, with its subcommand."""
    text: str
    procedure: str = ""
    """Digest of a script, or name of a function."""
    role: Role = Role.NONE
    number: int = 0
    """Index of the database; or channels that are subscribed, 0 for all."""
    word: bytes = b""
    """How replies to a subscription begin."""


class Shape(NamedTuple):
    """The order of arguments."""

    first: str
    repeated: str
    last: str


def _shape(letters: str) -> Shape:
    first, _, rest = letters.partition("(")
    repeated, _, last = rest.partition(")")
    return Shape(first, repeated or "v", last)


SHAPES: Final = """
k        GET GETDEL APPEND INCR DECR INCRBY DECRBY INCRBYFLOAT STRLEN GETRANGE SUBSTR SETRANGE
k        GETSET SETNX SETEX PSETEX GETBIT SETBIT DUMP PERSIST PTTL TTL TYPE EXPIRETIME PEXPIRETIME
k        MOVE LLEN LINDEX LPUSH LPUSHX LRANGE LREM LSET LTRIM RPUSH RPUSHX LPOP RPOP SADD SCARD
k        SISMEMBER SMISMEMBER SMEMBERS SPOP SRANDMEMBER SREM HGETALL HKEYS HLEN HVALS ZCARD
k        ZCOUNT ZINCRBY ZLEXCOUNT ZMSCORE ZPOPMAX ZPOPMIN ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK
k        ZREMRANGEBYSCORE ZSCORE PFADD GEODIST GEOHASH GEOPOS XACK XDEL XLEN KEYS PUBLISH SPUBLISH
k(o)     GETEX EXPIRE EXPIREAT PEXPIRE PEXPIREAT SORT SORT_RO BITCOUNT BITFIELD BITFIELD_RO BITPOS
k(o)     HSCAN SSCAN ZSCAN HRANDFIELD ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZREVRANGE
k(o)     ZREVRANGEBYLEX ZREVRANGEBYSCORE ZRANK ZREVRANK GEORADIUS GEORADIUS_RO GEORADIUSBYMEMBER
k(o)     GEORADIUSBYMEMBER_RO GEOSEARCH XRANGE XREVRANGE XPENDING XTRIM XSETID XCLAIM XAUTOCLAIM
k(o)     XACKDEL XDELEX HEXPIRE HPEXPIRE HEXPIREAT HPEXPIREAT HPERSIST HTTL HPTTL HEXPIRETIME
k(o)     HPEXPIRETIME HGETDEL HGETEX HSETEX
k(p)     ZADD GEOADD
k(k)     HMGET HDEL
k(kv)    HSET HMSET
kk       HGET HEXISTS HSTRLEN HSETNX HINCRBY HINCRBYFLOAT RENAME RENAMENX RPOPLPUSH BRPOPLPUSH SMOVE
kk(o)    COPY GEOSEARCHSTORE ZRANGESTORE LCS LMOVE BLMOVE
kv(o)    SET RESTORE RESTORE-ASKING LPOS
ko       LINSERT
(k)      DEL UNLINK EXISTS TOUCH MGET WATCH PFCOUNT PFMERGE SDIFF SINTER SUNION SDIFFSTORE
(k)      SINTERSTORE SUNIONSTORE INFO SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE
(k)      SUNSUBSCRIBE
(k)v     BLPOP BRPOP BZPOPMIN BZPOPMAX
(kv)     MSET MSETNX
ok(k)    BITOP
n(o)     LMPOP ZMPOP SINTERCARD ZDIFF ZINTER ZUNION ZINTERCARD
vn(o)    BLMPOP BZMPOP
kn(o)    ZDIFFSTORE ZINTERSTORE ZUNIONSTORE
vn       EVAL EVAL_RO
kn       EVALSHA EVALSHA_RO FCALL FCALL_RO
v(o)     SCAN
(o)      XADD XREAD XREADGROUP FLUSHALL FLUSHDB SHUTDOWN FAILOVER BGSAVE QUIT
(v)      PING ECHO WAIT WAITAOF SWAPDB REPLICAOF SLAVEOF PSYNC SYNC LOLWUT PFDEBUG PFSELFTEST
(v)      ASKING BGREWRITEAOF DBSIZE DISCARD EXEC LASTSAVE MONITOR MULTI RANDOMKEY READONLY READWRITE
(v)      RESET ROLE SAVE TIME UNWATCH
u        SELECT
(s)      AUTH
k(q)     HELLO
(q)      REPLCONF
vvkvv(q) MIGRATE
"""
"""By the letters of the module's docstring. XADD, XREAD and XREADGROUP have orders of their own."""

CONTAINERS: Final = """
ACL       (s) LIST CAT USERS DELUSER LOG SETUSER SAVE LOAD HELP GETUSER GENPASS DRYRUN WHOAMI
CLIENT    (q) REPLY NO-EVICT NO-TOUCH TRACKING KILL GETREDIR SETNAME SETINFO TRACKINGINFO UNBLOCK
CLIENT    (q) HELP INFO CACHING GETNAME PAUSE UNPAUSE ID LIST
CLUSTER   (v) DELSLOTSRANGE BUMPEPOCH COUNT-FAILURE-REPORTS FAILOVER MEET SET-CONFIG-EPOCH SHARDS
CLUSTER   (v) SETSLOT COUNTKEYSINSLOT REPLICATE HELP LINKS SLOTS INFO NODES FORGET SAVECONFIG
CLUSTER   (v) REPLICAS SLAVES GETKEYSINSLOT ADDSLOTSRANGE ADDSLOTS FLUSHSLOTS MYID MYSHARDID RESET
CLUSTER   (v) DELSLOTS SLOT-STATS
CLUSTER   k KEYSLOT
COMMAND   (k) INFO DOCS
COMMAND   (v) HELP LIST COUNT GETKEYS GETKEYSANDFLAGS
CONFIG    (k) GET
CONFIG    (ks) SET
CONFIG    (v) RESETSTAT REWRITE HELP
DEBUG     (v) SLEEP OBJECT RELOAD SET-ACTIVE-EXPIRE JMAP PROTOCOL
FUNCTION  (o) LOAD FLUSH LIST RESTORE
FUNCTION  k DELETE
FUNCTION  (v) HELP KILL DUMP STATS
LATENCY   (k) HISTOGRAM HISTORY RESET GRAPH
LATENCY   (v) DOCTOR HELP LATEST
MEMORY    k(o) USAGE
MEMORY    (v) MALLOC-STATS HELP PURGE DOCTOR STATS
MODULE    (s) LOAD HELP LIST LOADEX UNLOAD
OBJECT    k ENCODING IDLETIME FREQ REFCOUNT HELP
PUBSUB    (k) NUMSUB NUMPAT CHANNELS SHARDNUMSUB SHARDCHANNELS HELP
SCRIPT    (k) EXISTS
SCRIPT    (o) FLUSH DEBUG
SCRIPT    (v) LOAD HELP KILL
SENTINEL  (s) MONITOR SET RESET FAILOVER CONFIG CKQUORUM FLUSHCONFIG MYID HELP
SENTINEL  k MASTER MASTERS REPLICAS SLAVES SENTINELS GET-MASTER-ADDR-BY-NAME
SENTINEL  (v) IS-MASTER-DOWN-BY-ADDR PENDING-SCRIPTS
SLOWLOG   (v) RESET HELP GET LEN
XGROUP    kk(o) CREATE SETID CREATECONSUMER DELCONSUMER DESTROY HELP
XINFO     kk STREAM GROUPS CONSUMERS HELP
"""
"""Commands of two words: container, letters, subcommands."""

KEYWORDS: Final = frozenset(
    b"NX XX GT LT CH INCR EX PX EXAT PXAT KEEPTTL GET PERSIST FNX FXX FIELDS WITHSCORES "
    b"WITHVALUES WITHCOORD WITHDIST WITHHASH LIMIT COUNT ANY ASC DESC ALPHA BY BYSCORE BYLEX REV "
    b"STORE STOREDIST AGGREGATE SUM MIN MAX WEIGHTS MATCH TYPE NOVALUES BLOCK NOACK STREAMS "
    b"GROUP LEFT RIGHT BEFORE AFTER IDLE TIME RETRYCOUNT FORCE JUSTID LASTID MKSTREAM "
    b"ENTRIESREAD ENTRIESADDED MAXDELETEDID ON OFF SKIP REDIRECT PREFIX BCAST OPTIN OPTOUT "
    b"NOLOOP ASYNC SYNC REPLACE COPY AUTH AUTH2 KEYS DB ABSTTL FREQ IDLETIME FULL YES NO SETNAME "
    b"LIB-NAME LIB-VER FROMMEMBER FROMLONLAT BYRADIUS BYBOX M KM FT MI AND OR XOR NOT BYTE BIT "
    b"OVERFLOW WRAP SAT FAIL SET INCRBY MAXLEN MINID NOMKSTREAM KEEPREF DELREF ACKED IDS ~ = * $ "
    b"> RANK LEN IDX MINMATCHLEN WITHMATCHLEN SAMPLES ACK GETACK CAPA EOF PSYNC2 LISTENING-PORT "
    b"IP-ADDRESS NOSAVE SAVE NOW ABORT TO SCHEDULE LIBRARYNAME WITHCODE FLUSH APPEND POLICY".split()
)

ROLES: Final = {
    b"SELECT": Role.SELECT,
    b"RESET": Role.RESET,
    b"PING": Role.LISTEN,
    b"QUIT": Role.LISTEN,
    b"SYNC": Role.SYNC,
    b"PSYNC": Role.SYNC,
    b"EXEC": Role.EXEC,
    b"DISCARD": Role.DISCARD,
    b"SUBSCRIBE": Role.SUBSCRIBE,
    b"PSUBSCRIBE": Role.SUBSCRIBE,
    b"SSUBSCRIBE": Role.SUBSCRIBE,
    b"UNSUBSCRIBE": Role.SUBSCRIBE,
    b"PUNSUBSCRIBE": Role.SUBSCRIBE,
    b"SUNSUBSCRIBE": Role.SUBSCRIBE,
}
REPLY_ROLES: Final = {b"ON": Role.REPLY_ON, b"OFF": Role.REPLY_OFF, b"SKIP": Role.REPLY_SKIP}
PROCEDURES: Final = frozenset({b"EVALSHA", b"EVALSHA_RO", b"FCALL", b"FCALL_RO"})
STREAM_OPTIONS: Final = {b"NOMKSTREAM": 1, b"KEEPREF": 1, b"DELREF": 1, b"ACKED": 1, b"LIMIT": 2}
"""Options of XADD before the id, and how many arguments each has with its name."""

UNKNOWN: Final = _shape("(v)")
COMMANDS: Final = {
    name.encode(): _shape(line.split()[0])
    for line in SHAPES.strip().splitlines()
    for name in line.split()[1:]
}
SUBCOMMANDS: Final = {
    (line.split()[0].encode(), name.encode()): _shape(line.split()[1])
    for line in CONTAINERS.strip().splitlines()
    for name in line.split()[2:]
}
CONTAINER_NAMES: Final = frozenset(container for container, _ in SUBCOMMANDS)
KEY_AND_VALUES: Final = _shape("k")
SECRETIVE: Final = _shape("(s)")
"""A container whose subcommand nobody knows: who knows what follows."""
KNOWN: Final = frozenset(COMMANDS) | CONTAINER_NAMES


def describe(
    data: bytes,
    spans: list[tuple[int, int]],
    total: int,
    *,
    redact: bool,
    omitted: list[tuple[int, int]] | None = None,
) -> Command | None:
    """The command whose words are at `spans` of `data`; it has `total` words in all.

    Of the last, if it is longer than a word, `data` may lack the end: None is returned if it is one
    that is read. What must not be kept is added to `omitted`.
    """
    end = len(data)
    word = data[spans[0][0] : spans[0][1]]
    upper = word.upper()
    name = word.decode("latin-1")
    shape = COMMANDS.get(upper, UNKNOWN)
    role = ROLES.get(upper, Role.NONE)
    used = 1
    if upper in CONTAINER_NAMES:
        shape = SECRETIVE
        if len(spans) > 1:
            start, stop = spans[1]
            if stop - start <= MAX_WORD_BYTES:
                if stop > end:
                    return None
                subcommand = data[start:stop]
                found = SUBCOMMANDS.get((upper, subcommand.upper()))
                if found is not None:
                    shape = found
                    name = f"{name} {subcommand.decode('latin-1')}"
                    used = 2
                    if len(spans) == 3 and name.upper() == "CLIENT REPLY":
                        role = REPLY_ROLES.get(_word(data, spans[2]).upper(), role)
    arguments = spans[used:]
    letters = _letters(upper, shape, data, arguments, total - used)
    text = name
    number = 0
    for (start, stop), letter in zip(arguments, letters, strict=True):
        shown = ""
        kept = start
        if len(text) < MAX_TEXT_CHARS:
            if letter == "v" and not redact:
                letter = "k"  # noqa: PLW2901 - shown like a key
            if letter == "k":
                kept = min(stop, start + MAX_SHOWN_BYTES)
                if kept > end:
                    return None
                shown = _shown(data, start, stop)
            elif letter in "vs":
                shown = "?"
            else:
                value = _word(data, (start, stop))
                kept = stop
                if letter == "u":
                    shown = "?"
                    number = int(value) if INDEX.fullmatch(value) else -1
                elif value.upper() in KEYWORDS or (letter == "n" and COUNT.fullmatch(value)):
                    shown = value.decode("latin-1")
                elif letter == "o" and not redact:
                    kept = min(stop, start + MAX_SHOWN_BYTES)
                    if kept > end:
                        return None
                    shown = _shown(data, start, stop)
                else:
                    shown = "?"
                    kept = start
            text = f"{text} {shown}"
        if omitted is not None and kept < min(stop, end):
            omitted.append((kept, min(stop, end)))
    if len(text) >= MAX_TEXT_CHARS:
        text = f"{text[: MAX_TEXT_CHARS - 4]} {MORE}"
    elif total > len(spans):
        text = f"{text} {MORE}"
    procedure = ""
    if upper in PROCEDURES and arguments:
        # Its letter is `k`, so it is here.
        procedure = _shown(data, *arguments[0])
    if role is Role.SUBSCRIBE:
        return Command(name, text, role=role, number=total - 1, word=word.lower())
    if upper == b"REPLCONF" and arguments and _word(data, arguments[0]).upper() == b"ACK":
        role = Role.ACK
    return Command(name, text, procedure, role, number)


def is_told_by_key(word: bytes, total: int) -> bool:
    """Whether all that is shown of a command of `total` words is its name and its key."""
    shape = COMMANDS.get(word.upper(), UNKNOWN)
    if shape.first == "kv" and total == 3:
        return True
    return shape == KEY_AND_VALUES


def _letters(
    upper: bytes, shape: Shape, data: bytes, arguments: list[tuple[int, int]], total: int
) -> str:
    """One letter for each of `arguments`, the first of `total`."""
    number = len(arguments)
    if upper == b"XADD":
        options = _xadd(data, arguments) - 1
        return ("k" + "o" * options + "o" + "kv" * number)[:number]
    if upper in {b"XREAD", b"XREADGROUP"}:
        for index, each in enumerate(arguments):
            if _word(data, each).upper() == b"STREAMS":
                keys = (total - index - 1) // 2
                return ("o" * (index + 1) + "k" * keys + "v" * number)[:number]
        return "o" * number
    first, repeated, last = shape
    if "n" in first:
        index = first.index("n")
        keys = 0
        if index < number:
            value = _word(data, arguments[index])
            keys = min(int(value), total) if COUNT.fullmatch(value) else 0
        first += "k" * min(keys, number)
    if repeated == "p":
        for each in arguments[len(first) :]:
            if _word(data, each).upper() not in KEYWORDS:
                break
            first += "o"
        repeated = "v"
    body = first + repeated * max(0, number - len(first) + 1)
    if last and total == number:
        body = body[: max(0, number - len(last))] + last
    return body[:number]


def _xadd(data: bytes, arguments: list[tuple[int, int]]) -> int:
    """Index of the id."""
    words = [_word(data, each).upper() for each in arguments]
    index = 1
    while index < len(words):
        word = words[index]
        if word in {b"MAXLEN", b"MINID"}:
            exact = index + 1 < len(words) and words[index + 1] in {b"=", b"~"}
            index += 3 if exact else 2
        elif word in STREAM_OPTIONS:
            index += STREAM_OPTIONS[word]
        else:
            break
    return max(index, 1)


def _word(data: bytes, span: tuple[int, int]) -> bytes:
    """An argument that may be a keyword or a number; what is too long for one may not be here."""
    start, stop = span
    return data[start:stop] if stop - start <= MAX_WORD_BYTES else b""


def _shown(data: bytes, start: int, stop: int) -> str:
    """A key as redis-cli would take it, cut if it is long."""
    value = data[start : min(stop, start + MAX_SHOWN_BYTES)]
    more = MORE if stop - start > MAX_SHOWN_BYTES else ""
    if PLAIN.fullmatch(value):
        return value.decode("ascii") + more
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and text and not set(text) & set(" \"'"):
        return text + more
    quoted = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in value
    )
    return f'"{quoted}"{more}'
