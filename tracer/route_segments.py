# SPDX-License-Identifier: Apache-2.0
"""What stands in a route for one segment of a path: the segment itself, or `{id}` for a value.

A path is cut at its slashes (RFC 3986 section 3.3); empty segments and matrix parameters
(`;jsessionid=...`) are no part of a route, so neither is a slash at the end: most servers take
both forms for the same, and those that do not redirect one to the other.

There is one placeholder. What kind of id a value looks like says nothing about the code that
serves it, and an id of letters beside one of digits would else make two routes of one. In names of
files and in calls (`Products(42)`) only the value is replaced: the rest tells one from another.

The price of a wrong guess decides what is taken for an id. An id that is taken for a word is
found out by its number (tracer/route_tree.py); a word that is taken for an id is lost. So
words with one or two digits stay.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

ID: Final = "{id}"
REST: Final = "**"
"""Any number of segments."""
MAX_SEGMENTS: Final = 24
"""The API of Kubernetes, which is deep, has 12. What is deeper ends in `**`."""
MAX_WORD_CHARS: Final = 64
"""No program spells out longer segments; those that are there are made of data."""
MAX_CACHED: Final = 8192
"""Segments, of at most `MAX_WORD_CHARS`: together about 3 MiB."""
MAX_EXTENSIONS: Final = 256
"""That are remembered, of at most 12 characters."""
MAX_ESCAPES: Final = 2
"""In a word; what has more is text that somebody has typed in."""

MATRIX: Final = re.compile(r";[^/]*")
SLASHES: Final = re.compile(r"//+")

UUID: Final = re.compile(
    r"(?i)(?<![0-9a-z])\{?[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\}?(?![0-9a-z])"
)
UUID_CHARS: Final = 32
"""At least."""
COMMON: Final = re.compile(r"[0-9]+|[0-9A-Fa-f]{8}-?(?:[0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}")
"""Most of all ids. To find them so is cheaper than to remember them."""
VERSION: Final = re.compile(
    r"(?i)v[0-9]{1,3}(?:\.[0-9]{1,4}){0,3}(?:-?(?:alpha|beta|rc|p|preview|snapshot)[0-9]{0,3})?"
    r"|v[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?"
    r"|[0-9]{1,3}(?:\.[0-9]{1,3}){1,2}(?:-?(?:alpha|beta|rc|preview|snapshot)[0-9]{0,3})?"
)
GARBAGE: Final = re.compile(r"[<>\"'`|\\^\s]")
"""What no URL has (RFC 3986 appendix C) but that of a scanner or a broken program."""
HEX: Final = re.compile(
    r"(?:0[xX])?(?:[0-9a-f]{8,}|[0-9A-F]{8,}|(?=.*[0-9])(?:[0-9a-f]{7}|[0-9A-F]{7}))"
)
"""No English word of eight letters has only these six."""
PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")
EMAIL: Final = re.compile(r"[^@]+@[^@]+\.[A-Za-z]{2,}")
IPV6: Final = re.compile(r"\[?[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]?")
PREFIXED: Final = re.compile(r"(?=.*[0-9])[a-z]{2,8}_[A-Za-z0-9]{12,}")
"""An id that says what it is of: `cus_NffrFeUfNV2Hib`."""
NAMESPACED: Final = re.compile(r"(?i)(?:arn|urn|did):.+")
CALL: Final = re.compile(r"([A-Za-z_$][\w.$]*)\([^()]+\)")
"""OData 4.01 URL conventions section 4.3: keys and arguments of functions."""
VERB: Final = re.compile(r"([^:]+):([A-Za-z]+)")
"""A custom method (google.aip.dev/136): `/v1/jobs/1234:cancel`."""
PARTITION: Final = re.compile(r"([A-Za-z_][\w.-]*=)[^=]*[0-9][^=]*")
"""Of a table in object storage: `year=2024`."""
SIMPLE: Final = re.compile(
    r"[A-Za-z_-][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*\.([A-Za-z][A-Za-z0-9]{0,10})"
)
"""Names of files as they mostly are: nothing else than such a name needs a look."""
FILE: Final = re.compile(r"(.+)\.([A-Za-z][A-Za-z0-9]{0,10})")
TOKENS: Final = re.compile(r"[A-Za-z0-9]+")
SUSPECTS: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:[A-Za-z]*[0-9][A-Za-z0-9]*|(?:[a-f]{8,}|[A-F]{8,})(?![A-Za-z0-9]))"
)
"""Those of `TOKENS` that may be ids, or have a digit."""
DIGITS: Final = re.compile(r"[0-9]+")
LETTER: Final = re.compile(r"[^\W\d_]")
REPEATED: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:[0-9]+[-_.,])*\{id\}(?:[-_.,](?:\{id\}|[A-Za-z]*[0-9][A-Za-z0-9]*))*"
)
"""An id of many parts."""
BUNDLE: Final = re.compile(r"(.*[-.])(?=(?:[^A-Z]*[A-Z]){3})(?=.*[a-z])[\w-]{8}")
"""A hash of base64 without a digit, as bundlers put behind a name."""

EXTENSION: Final = re.compile(
    r"(?i)7z|action|as[hmp]x|asp|atom|avif?|axd|bin|bmp|br|bz2|cfm|cgi|css|csv|dat|deb|dmg|do|docx?"
    r"|eot|exe|faces|flac|gif|gz|heic|html?|ico|ics|ipa|iso|jar|jpe?g|m?js|jsf|jsonl?|jspx?|key|log"
    r"|m3u8|m4s|map|md|mov|mp[34d]|msi|ndjson|og[gv]|otf|parquet|pdf|php|pkg|pl|png|pptx?|properties"
    r"|ps|py|rar|rb|rpm|rss|rtf|sh|sql|svc|svg|swf|tar|tgz|tiff?|ts|tsv|tt[fl]|txt|wasm|wav|web[mp]"
    r"|webmanifest|whl|woff2?|wsdl|xhtml|xlsx?|xml|xsd|xz|ya?ml|zip|zst"
)
WORD: Final = re.compile(
    r"(?i)aes(?:128|256)|crc32c|es20[0-9]{2}|h26[345]|i[36]86|iso[0-9]{4}|oauth1a|rfc[0-9]{3,4}"
    r"|sha(?:224|256|384|512)|utf16[bl]e|x509"
)
"""Names with as many digits as an id."""
MAX_KNOWN_WORD: Final = 7
"""Characters of the longest `WORD`."""
WITHOUT_DIGITS: Final = str.maketrans("", "", "0123456789")


def split(path: str) -> list[str]:
    """The segments of a path, at most `MAX_SEGMENTS`; in place of too many the last is `**`."""
    if ";" in path:
        path = MATRIX.sub("", path)
    if "//" in path:
        path = SLASHES.sub("/", path)
    path = path.strip("/")
    if not path:
        return []
    segments = path.split("/", MAX_SEGMENTS)
    if len(segments) > MAX_SEGMENTS:
        segments[MAX_SEGMENTS - 1 :] = [REST]
    return segments


def generalise(segment: str) -> str:
    """`segment` if it is a word; else `{id}`, or the segment with `{id}` for a part of it."""
    if COMMON.fullmatch(segment):
        return ID
    if len(segment) > MAX_WORD_CHARS:
        extension = _extension(segment)
        return f"{ID}.{extension}" if extension else ID
    return _generalise(segment)


@lru_cache(MAX_CACHED)
def _generalise(segment: str) -> str:
    if segment.isascii():
        if segment.isdigit():
            return ID
        if segment.isalpha():
            return ID if HEX.fullmatch(segment) else segment
        if PLAIN.fullmatch(segment):
            return ID if _is_id(segment) else segment
        simple = SIMPLE.fullmatch(segment)
        if simple is not None and segment[0] not in "Vv" and _is_extension(simple[1]):
            return _generalise_file(segment[: simple.start(1) - 1], simple[1])
    if not segment.isprintable():
        return ID
    call = CALL.fullmatch(segment)
    if call is not None:
        return _bounded(f"{call[1]}({ID})")
    if "%" in segment:
        return _generalise_escaped(segment)
    if ID in segment or VERSION.fullmatch(segment):
        return segment
    if GARBAGE.search(segment):
        return ID
    found = FILE.fullmatch(segment)
    if found is not None and _is_extension(found[2]):
        return _generalise_file(found[1], found[2])
    partition = PARTITION.fullmatch(segment)
    if partition is not None:
        return _bounded(partition[1] + ID)
    if not _is_id(segment):
        return segment
    verb = VERB.fullmatch(segment)
    return _bounded(f"{ID}:{verb[2]}") if verb is not None and _is_id(verb[1]) else ID


def _generalise_escaped(segment: str) -> str:
    """Of a segment with percent-encoded characters."""
    if segment.count("%") > MAX_ESCAPES:
        return ID
    text = unquote(segment, errors="replace")
    if not text.isprintable() or "%" in text or "/" in text or "\ufffd" in text:
        return ID
    return segment if generalise(text.replace(" ", "-")) == text.replace(" ", "-") else ID


def _generalise_file(stem: str, extension: str) -> str:
    if COMMON.fullmatch(stem):
        return f"{ID}.{extension}"
    if not LETTER.search(stem):
        return (
            segment if VERSION.fullmatch(segment := f"{stem}.{extension}") else f"{ID}.{extension}"
        )
    if ("@" in stem and EMAIL.fullmatch(stem)) or ("_" in stem and PREFIXED.fullmatch(stem)):
        return f"{ID}.{extension}"
    if len(stem) >= UUID_CHARS:
        found = SUSPECTS.sub(_replace_id, UUID.sub("\0", stem)).replace("\0", ID)
    else:
        found = stem
        suspect = SUSPECTS.search(stem)
        if suspect is not None:
            start, end = suspect.span()
            if SUSPECTS.search(stem, end) is not None:
                found = SUSPECTS.sub(_replace_id, stem)
            elif _is_id_token(suspect[0]):
                # One alone: there is nothing that could be another part of it.
                return _bounded(f"{stem[:start]}{ID}{stem[end:]}.{extension}", f"{ID}.{extension}")
    if ID not in found:
        bundle = BUNDLE.fullmatch(stem)
        if bundle is None:
            return f"{stem}.{extension}"
        found = bundle[1] + ID
    found = REPEATED.sub(ID, found)
    return _bounded(f"{found}.{extension}", f"{ID}.{extension}")


def _bounded(segment: str, otherwise: str = ID) -> str:
    """So that what is made of a segment is a segment again."""
    return segment if len(segment) <= MAX_WORD_CHARS else otherwise


def _extension(segment: str) -> str:
    extension = segment[-12:].rpartition(".")[2]
    return extension if _is_extension(extension) else ""


@lru_cache(MAX_EXTENSIONS)
def _is_extension(text: str) -> bool:
    return EXTENSION.fullmatch(text) is not None


def _is_id(text: str) -> bool:
    if not LETTER.search(text):
        return bool(DIGITS.search(text))
    if VERSION.fullmatch(text):
        return False
    if len(text) >= UUID_CHARS and UUID.fullmatch(text):
        return True
    if any(map(_is_id_token, TOKENS.findall(text))):
        return True
    if "_" in text and PREFIXED.fullmatch(text):
        return True
    if "@" in text and EMAIL.fullmatch(text):
        return True
    return ":" in text and bool(IPV6.fullmatch(text) or NAMESPACED.fullmatch(text))


def _is_id_token(token: str) -> bool:
    """Whether letters and digits without anything between them are an id."""
    if token.isalpha():
        return HEX.fullmatch(token) is not None
    if token.isdigit():
        return len(token) > 2
    digits = len(token) - len(token.translate(WITHOUT_DIGITS))
    if digits > 3:
        return len(token) > MAX_KNOWN_WORD or not WORD.fullmatch(token)
    if digits > 1:
        runs = len(DIGITS.findall(token))
        if digits > 2:
            return (runs > 1 or len(token) <= 10) and not WORD.fullmatch(token)
        if len(token) >= 16 or (runs == 2 and len(token) >= 8):
            return True
    return bool(HEX.fullmatch(token))


def _replace_id(token: re.Match[str]) -> str:
    return ID if _is_id_token(token[0]) else token[0]
