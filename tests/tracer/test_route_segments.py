# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer import route_segments
from tracer.route_segments import (
    COMMON,
    ID,
    MAX_KNOWN_WORD,
    MAX_SEGMENTS,
    MAX_WORD_CHARS,
    SUSPECTS,
    WORD,
    _generalise,
    _is_id_token,
    generalise,
    split,
)

SAID = """
v1 v2.1 v18.0 V2 v1beta1 v2alpha1 v2024-05-01 1.1 2.0 oauth2 s3 http2 web3 k8s i18n e2e ipv4 md5
sha256 base64 x86_64 amd64 log4j2 es2015 h264 rfc3339 covid19 us-east-1 node-17 user42 en-US zh-Hans
pt_BR getUserById my-first-post-about-life wp-json wp-login.php xmlrpc.php index.html favicon.ico
robots.txt main.css bootstrap.min.css jquery-3.6.0.min.js react@18.2.0 @alice @angular _search _doc
$metadata $batch ~alice .well-known openid-configuration com.example.OrderService hello%20world
caf%C3%A9 resum\u00e9 format=json GetNearest() feedback deadbee facade a b .. {id} :id * ** -
"""
WORDS = SAID.split()

MEANT = """
0 1 42 12345 -1 12,13 40.7,-74.0 2024 2024-05-01 2024-W12 2024-05-01T10:11:12Z 20240501T101112Z
550e8400-e29b-41d4-a716-446655440000 550E8400E29B41D4A716446655440000
{550e8400-e29b-41d4-a716-446655440000} aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee
4f3a2b1 4f3a2b1c deadbeef 7fd1a60b01f91b314f59955a4e4d4e80d8edf11d 507f1f77bcf86cd799439011
0xdeadbeef12 01ARZ3NDEKTSV4RRFFQ69G5FAV V1StGXR8_Z5jdHi6B-myT dQw4w9WgXcQ order-12345 usr_9f8s7df
cus_NffrFeUfNV2Hib ABC-123456 coredns-5d78c9869d-abcde logs-2024.05.01 item-2024-05 a1b2c3 v12345
10.0.0.1 1.2.3.4.5 ::1 2001:db8::1 [2001:db8::1] alice@example.com arn:aws:iam::123:role/x
urn:isbn:0451450523 did:web:example.com group%2Fproject %00 %C3%A9%C3%A9 %FF 1%20000 <script>
a"b a'b a|b a\\b a\u00a0b \ud800 \x07 500x300
eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.Et9HFtf9R3GEMA0IICOfFMVXY7kkTX1wr4qCyIf58U
"""
IDS = MEANT.replace("\n", " ").strip().split(" ")

PARTS = {
    "main.4f3a2b1c.js": "main.{id}.js",
    "4f3a2b1c.js": "{id}.js",
    "index-BfG3k2Xa.js": "index-{id}.js",
    "index-DfhQkXYz.js": "index-{id}.js",
    "2.4f3a2b1c.chunk.js": "{id}.chunk.js",
    "img_0001.jpg": "img_{id}.jpg",
    "IMG-20240501-WA0001.jpeg": "IMG-{id}.jpeg",
    "report-2024-05-01.pdf": "report-{id}.pdf",
    "apple-touch-icon-120x120.png": "apple-touch-icon-{id}.png",
    "123.json": "{id}.json",
    "7.xml": "{id}.xml",
    "alice@example.com.json": "{id}.json",
    "cus_NffrFeUfNV2Hib.pdf": "{id}.pdf",
    "550e8400-e29b-41d4-a716-446655440000.png": "{id}.png",
    "avatar-550e8400-e29b-41d4-a716-446655440000.webp": "avatar-{id}.webp",
    "a" * 80 + ".PDF": "{id}.PDF",
    "Products(42)": "Products({id})",
    "Products('ALFKI')": "Products({id})",
    "Products(%27ALFKI%27)": "Products({id})",
    "Orders(OrderID=1,ProductID=2)": "Orders({id})",
    "GetNearest(lat=1)": "GetNearest({id})",
    "123:cancel": "{id}:cancel",
    "job-4711:batchUpdate": "{id}:batchUpdate",
    "dt=2024-05-01": "dt={id}",
    "month=05": "month={id}",
}


@pytest.mark.parametrize("segment", WORDS)
def test_words_stay(segment):
    assert generalise(segment) == segment


@pytest.mark.parametrize("segment", IDS, ids=ascii)
def test_values_are_ids(segment):
    assert generalise(segment) == ID


@pytest.mark.parametrize(("segment", "route"), PARTS.items())
def test_of_files_and_calls_only_the_value_is_replaced(segment, route):
    assert generalise(segment) == route


@given(
    st.one_of(
        st.text(max_size=90),
        st.text("abcdef0123456789ABCXYZ-_.:=@%(){}*'", max_size=90),
        st.from_regex(
            r"[a-z]{1,5}[-._][0-9a-f]{1,12}[-._][0-9]{1,4}\.(js|png|pdf)", fullmatch=True
        ),
    )
)
def test_what_is_made_of_a_segment_stays_as_it_is(segment):
    made = generalise(segment)
    assert generalise(made) == made
    assert len(made) <= MAX_WORD_CHARS
    assert "/" in segment or "/" not in made


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("/", []),
        ("", []),
        ("//", []),
        ("/a/b", ["a", "b"]),
        ("/a/b/", ["a", "b"]),
        ("//a///b//", ["a", "b"]),
        ("/a;jsessionid=F00/b;x=1;y=2", ["a", "b"]),
        ("/;x=1/a", ["a"]),
        ("/a/./../b", ["a", ".", "..", "b"]),
    ],
)
def test_segments_of_a_path(path, segments):
    assert split(path) == segments


def test_deep_paths_end_in_the_rest():
    assert split("/a" * MAX_SEGMENTS) == ["a"] * MAX_SEGMENTS
    assert split("/a" * (MAX_SEGMENTS + 1)) == ["a"] * (MAX_SEGMENTS - 1) + ["**"]
    assert split("/a" * 100_000) == ["a"] * (MAX_SEGMENTS - 1) + ["**"]


@given(st.one_of(st.uuids().map(str), st.from_regex(COMMON, fullmatch=True)))
def test_shortcut_for_common_ids_says_what_the_rules_say(text):
    assert COMMON.fullmatch(text)
    assert generalise(text) == _generalise.__wrapped__(text) == ID


@given(st.text("abcdefghxyzABCDEF0123456789", min_size=1, max_size=20))
def test_every_token_that_is_an_id_is_suspected(token):
    assert not _is_id_token(token) or SUSPECTS.fullmatch(token)
    assert [match[0] for match in SUSPECTS.finditer(f"-{token}.")] in ([], [token])


@given(st.from_regex(WORD, fullmatch=True))
def test_no_known_word_is_longer_than_is_said(word):
    assert len(word) <= MAX_KNOWN_WORD


@given(
    st.text("abcdef0123456789._-vX", min_size=1, max_size=50), st.sampled_from(["js", "PNG", "x"])
)
def test_simple_names_of_files_are_as_those_of_all_files(stem, extension):
    name = f"{stem}.{extension}"
    found = generalise(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(route_segments, "SIMPLE", re.compile("(?!)"))
        assert _generalise.__wrapped__(name) == found
