# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import os
import re
from datetime import UTC, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.console import ConsoleExporter
from exporters.layout import columns
from parsers.model import Completeness, Endpoint, Side, Transport
from tests.exporters import samples

COLOR = re.compile(r"\x1b\[\d+m")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(*spans, style="compact", stream=None, **options):
    stream = stream or io.StringIO()
    options = {"time_zone": UTC, **options}
    ConsoleExporter(stream, style, **options).export(spans)
    if isinstance(stream, io.TextIOWrapper):
        return stream.buffer.getvalue().decode(stream.encoding).splitlines()
    return stream.getvalue().splitlines()


def client(**changes):
    connection = samples.peering(
        Side.CLIENT, local=Endpoint("127.0.0.1", 5), remote=Endpoint("127.0.0.1", 8080)
    )
    return samples.span(peering=connection, **changes)


def failed(**changes):
    return samples.span(
        completeness=Completeness.UNANSWERED,
        outline=samples.outline(
            error_type="connection_reset",
            attributes={"http.request.method": "GET", "url.path": "/cart"},
        ),
        response_bytes=0,
        first_byte_ns=0,
        **changes,
    )


def test_compact_at_80_columns():
    assert shown(
        samples.span(),
        client(process=samples.process("curl", 988)),
        failed(),
        samples.span(completeness=Completeness.GAP),
    ) == [
        "22:13:20.123 1.24ms ← shop(4312)        200 GET /api/users/42   78/1.2K 10.0.0.5",
        "22:13:20.123 1.24ms → curl(988)         200 GET /api/users/42      78/1.2K :8080",
        "22:13:20.123 1.24ms ← shop(4312)       ✗--- GET /cart [reset]      78/- 10.0.0.5",
        "22:13:20.123 1.24ms ← shop(4312)       ~200 GET /api…s/42 [gap] 78/1.2K 10.0.0.5",
    ]


def test_wide_at_200_columns():
    (line,) = shown(samples.span(0x2A, protocol="http1"), style="wide", width=200)
    assert line.split() == [
        "22:13:20.123",
        "1.24ms",
        "800µs",
        "45.0µs",
        "←",
        "shop(4312)",
        "http1",
        "200",
        "GET",
        "/api/users/42",
        "78/1.2K",
        "0000000000000000000000000000002a",
        "10.0.0.5:43122→10.0.0.9:8080",
    ]


def test_the_header_stands_above_its_columns():
    header, line = shown(samples.span(), style="wide", width=200, header=True)
    for name, text in (
        ("TIME", "22:13"),
        ("REQUEST", "GET /api"),
        ("TRACE ID", "00000000000"),
        ("CLIENT→", "10.0.0.5:"),
    ):
        assert header.index(name) == line.index(text)
    for name, text in (("TOOK", "1.24ms"), ("TTFB", "800µs"), ("STAT", "200"), ("SIZES", "1.2K")):
        assert header.index(name) + len(name) == line.index(text) + len(text)


def test_the_header_is_for_terminals_and_comes_once(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    exporter = ConsoleExporter(terminal, color="never", time_zone=UTC)
    exporter.export([])
    exporter.export([samples.span()])
    exporter.export([samples.span()])
    assert len(terminal.getvalue().splitlines()) == 3
    assert terminal.getvalue().startswith("TIME")
    assert len(shown(samples.span())) == 1


def test_a_terminal_decides_about_the_width_as_it_is_now(monkeypatch):
    terminal = Terminal()
    exporter = ConsoleExporter(terminal, color="never", header=False, time_zone=UTC)
    long = samples.span(
        outline=samples.outline(attributes={"http.request.method": "GET", "url.path": "/x" * 99})
    )
    for width in (80, 110, 300):
        monkeypatch.setenv("COLUMNS", str(width))
        exporter.export([long])
    widths = [len(line) for line in terminal.getvalue().splitlines()]
    assert widths[:2] == [80, 110]
    assert 100 < widths[2] <= 120  # beyond, the eye would lose the line


def test_without_a_terminal_wide_cuts_nothing():
    path = "/" + "x" * 500
    (line,) = shown(
        samples.span(
            outline=samples.outline(attributes={"http.request.method": "GET", "url.path": path})
        ),
        style="wide",
    )
    assert path in line


TEXTS = st.text(max_size=60)
SPANS = st.builds(
    lambda side, transport, service, verb, path, code, error, completeness, host, took: (
        samples.span(
            1,
            peering=samples.peering(side, transport=transport, remote=Endpoint(host, 65535)),
            process=samples.process(service, 4194304),
            outline=samples.outline(
                error_type=error,
                attributes={
                    "http.request.method": verb,
                    "url.path": path,
                    "http.response.status_code": code,
                    "server.address": host,
                },
            ),
            end_unix_ns=samples.START_NS + took,
            completeness=completeness,
            response_bytes=took,
        )
    ),
    st.sampled_from(Side),
    st.sampled_from(Transport),
    TEXTS,
    TEXTS,
    TEXTS,
    st.one_of(st.integers(100, 599), TEXTS),
    st.none() | TEXTS,
    st.sampled_from(Completeness),
    TEXTS,
    st.integers(0, 10**13),
)


@given(SPANS, st.integers(80, 260), st.sampled_from(["compact", "wide"]), st.booleans())
def test_no_line_is_wider_than_asked_or_has_control_characters(span, width, style, color):
    stream = io.StringIO(newline="\n")
    exporter = ConsoleExporter(
        stream, style, width=width, color="always" if color else "never", header=True
    )
    exporter.export([span])
    header, line, rest = stream.getvalue().split("\n")
    assert not rest
    for each in (header, line):
        plain = COLOR.sub("", each)
        assert plain.isprintable()
        assert columns(plain) <= width
        assert color == (plain != each)


def test_errors_are_seen_with_and_without_color():
    plain, painted = (shown(failed(), color=color)[0] for color in ("never", "always"))
    assert "✗" in plain
    assert "\x1b[31m✗---\x1b[0m" in painted
    assert "\x1b[31m [reset]\x1b[0m" in painted
    assert COLOR.sub("", painted) == plain


def test_success_is_not_red():
    assert "\x1b[31m" not in shown(samples.span(), color="always")[0]


def test_color_is_for_terminals(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert "\x1b[" in shown(samples.span(), stream=Terminal())[0]
    assert "\x1b[" not in shown(samples.span())[0]
    assert "\x1b[" not in shown(samples.span(), stream=Terminal(), color="never")[0]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_stream_that_is_not_unicode_gets_ascii(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    span = samples.span(
        outline=samples.outline(
            error_type="500",
            attributes={
                "http.request.method": "GET",
                "url.path": "/é",
                "http.response.status_code": 500,
            },
        ),
        end_unix_ns=samples.START_NS + 87_000,
    )
    (line,) = shown(span, stream=stream)
    assert line.isascii()
    assert "87.0us < shop(4312)" in line
    assert "!500 GET /\\xe9" in line


def test_times_are_local_or_of_the_zone():
    zone = timezone(timedelta(hours=5, minutes=30))
    assert shown(samples.span(), time_zone=zone)[0].startswith("03:43:20.123 ")


def test_a_long_status_is_told_behind_the_request():
    outline = samples.outline(
        "rpc", attributes={"rpc.method": "a.B/C", "rpc.response.status_code": "NOT_FOUND"}
    )
    line = shown(samples.span(outline=outline))[0]
    assert "a.B/C [NOT_FOUND]" in line
    assert " ok " not in line


def test_a_protocol_without_status_is_ok():
    outline = samples.outline("PING", attributes={"db.system.name": "redis"})
    assert "ok PING " in shown(samples.span(outline=outline))[0]


def test_json_is_a_line_a_span():
    lines = shown(samples.span(1), samples.span(2), style="json")
    assert [json.loads(line)["span_id"][-1] for line in lines] == ["1", "2"]


def test_each_batch_is_flushed_and_counted():
    class Stream(io.StringIO):
        flushed = 0

        def flush(self):
            self.flushed += 1

    stream = Stream()
    exporter = ConsoleExporter(stream)
    exporter.export([samples.span(), samples.span()])
    assert stream.flushed == 1
    assert exporter.flush(0)
    exporter.close()
    assert not stream.closed
    assert exporter.counters() == {"spans_written": 2}


def test_no_line_is_lost_where_a_pipe_takes_a_large_write_in_part():
    """As sys.stdout is with PYTHONUNBUFFERED: nothing below it writes the rest."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.taken = b""

        def writable(self):
            return True

        def write(self, data):
            self.taken += bytes(data[:4096])  # PIPE_BUF: up to here a pipe takes all or nothing
            return min(len(data), 4096)

    pipe = Pipe()
    stream = io.TextIOWrapper(pipe, encoding="utf-8", write_through=True)
    ConsoleExporter(stream).export([samples.span() for _ in range(100)])
    assert pipe.taken.count(b"\n") == 100


def test_a_reader_that_has_gone_is_told_by_the_exception():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        exporter = ConsoleExporter(stream)
        with pytest.raises(BrokenPipeError):
            exporter.export([samples.span()])
        # What the stream has buffered would raise again when it is closed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class TestFromOptions:
    def test_style_and_color(self, capsys):
        exporter = ConsoleExporter.from_options({"style": "json", "color": "never"})
        exporter.export([samples.span()])
        assert json.loads(capsys.readouterr().out)["name"] == "GET"

    @pytest.mark.parametrize(
        "options", [{"style": "xml"}, {"color": "red"}, {"width": "-1"}, {"colour": "never"}]
    )
    def test_a_bad_option_is_an_error_that_names_it(self, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            ConsoleExporter.from_options(options)
