# SPDX-License-Identifier: Apache-2.0
"""Metrics for Prometheus to fetch.

Problem: a scrape comes at any time, of any number of clients, and some of them are slow; none may
hold up the pipeline or fill the memory. Plan: one scrape after the other, each on a copy of the
metrics that is quick to take. It is written in parts straight into a compressed page, a fiftieth
of the text, and that is what is kept for a client that takes its time; who takes no gzip has it
unpacked on the way. What is written and how (text, OpenMetrics with exemplars) is
`prometheus_client`'s; what a metric is called there is exporters/exposition.py's, and connections
are exporters/small_http.py's.

Spec: https://prometheus.io/docs/instrumenting/exposition_formats/,
https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

import logging
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple, TypeAlias, cast

from prometheus_client.exposition import choose_encoder

from exporters.exposition import Exposition
from exporters.instruments import ResourceMetrics
from exporters.prometheus_address import DEFAULT_PORT, parse_address
from exporters.semconv import USER_AGENT
from exporters.small_http import Answer, Request, SmallServer, words
from exporters.tcp_listener import listen_tcp
from exporters.transport_http import GZIP_FORMAT, GZIP_LEVEL

TURN_S: Final = 5.0
"""How long a scrape waits for those before it."""
PIECE_BYTES: Final = 16 * 1024
"""Of a compressed page, unpacked at once."""

OPENMETRICS: Final = "application/openmetrics-text"
OPENMETRICS_TYPE: Final = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
TEXT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
FRONT: Final = f"{USER_AGENT}\n\n/metrics  for Prometheus\n/healthz  is it alive"
VARY: Final = ("Vary", "Accept, Accept-Encoding")

COUNTERS: Final = (
    "scrapes",
    "scrapes_failed",
    "scrapes_busy",
    "scrapes_refused",
    "metrics_clashing",
)
"""`scrapes_busy`: there was no room for it, or it was not its turn for too long;
`scrapes_refused`: asked under a name that is not this machine's."""

Collect: TypeAlias = Callable[[], Sequence[ResourceMetrics]]

logger = logging.getLogger(__name__)


class PrometheusEndpoint:
    """Answers scrapes until `close`, on threads of its own."""

    def __init__(self, collect: Collect, address: str = "") -> None:
        """`collect` is called for each scrape, by another thread; `address` as `parse_address`.

        Raises:
            SettingsError: the address is none, or cannot be listened on.
        """
        host, port = parse_address(address or f":{DEFAULT_PORT}")
        self._scrapes = _Scrapes(collect)
        self._server = SmallServer(
            listen_tcp(host, port, "Prometheus"),
            {
                "/": lambda _: words(HTTPStatus.OK, FRONT),
                "/healthz": lambda _: words(HTTPStatus.OK, "ok"),
                "/metrics": self._scrapes.answer,
            },
            name="Prometheus",
            bound_name=host,
        )
        self.host = host
        self.port: int = cast("tuple[str, int]", self._server.address)[1]
        """The one that was chosen, where it was 0."""

    @property
    def url(self) -> str:
        """What Prometheus is to scrape."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"

    def counters(self) -> Mapping[str, int]:
        """Totals since start; the keys are those of `COUNTERS`. Any thread may ask."""
        scrapes, requests = self._scrapes.counters, self._server.counters()
        found = {name: scrapes[name] for name in COUNTERS}
        return found | {
            "scrapes_busy": requests["busy"],
            "scrapes_refused": requests["refused"],
        }

    def close(self) -> None:
        """Listen no more, and break off what is under way. Takes half a second at most."""
        self._server.close()


class _Page(NamedTuple):
    """All metrics, compressed."""

    packed: bytes
    length: int
    """Bytes of the text."""


class _Scrapes:
    """Answers one scrape after the other."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect
        self._turn = threading.Lock()
        self.counters: Counter[str] = Counter()
        """Changed in turn."""

    def answer(self, request: Request) -> Answer:
        """The metrics, in the form that the request asks for."""
        get = request.headers.get
        content_type = OPENMETRICS_TYPE if takes_openmetrics(get("Accept", "")) else TEXT_TYPE
        if request.method == "HEAD":
            return Answer(content_type=content_type, headers=(VARY,))
        if not self._turn.acquire(timeout=TURN_S):
            return words(HTTPStatus.SERVICE_UNAVAILABLE, "Busy with other scrapes.")
        try:
            page = self._page(content_type)
            self.counters["scrapes"] += 1
        except Exception:
            if not self.counters["scrapes_failed"]:
                logger.exception("Prometheus: the metrics could not be written")
            self.counters["scrapes_failed"] += 1
            text = "The metrics could not be written: the agent's log says why."
            return words(HTTPStatus.INTERNAL_SERVER_ERROR, text)
        finally:
            self._turn.release()
        if takes_gzip(get("Accept-Encoding", "")):
            headers = (VARY, ("Content-Encoding", "gzip"))
            return Answer(body=page.packed, content_type=content_type, headers=headers)
        return Answer(
            body=_unpacked(page.packed),
            length=page.length,
            content_type=content_type,
            headers=(VARY,),
        )

    def _page(self, content_type: str) -> _Page:
        # Our names need no escaping under any scheme; this one is the cheapest to write.
        encode, _ = choose_encoder(f"{content_type}; escaping=allow-utf-8")
        exposition = Exposition(self._collect())
        self.counters["metrics_clashing"] += exposition.clashes
        packer = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_FORMAT)
        packed = bytearray()
        length = 0
        for piece in exposition.pages(encode):
            packed += packer.compress(piece)
            length += len(piece)
        packed += packer.flush()
        return _Page(bytes(packed), length)


def _unpacked(packed: bytes) -> Iterator[bytes]:
    """The text of a page, in pieces."""
    unpacker = zlib.decompressobj(wbits=GZIP_FORMAT)
    for start in range(0, len(packed), PIECE_BYTES):
        yield unpacker.decompress(packed[start : start + PIECE_BYTES])
    yield unpacker.flush()


def takes_openmetrics(accept: str) -> bool:
    """Whether an Accept header names OpenMetrics in a version that is written here."""
    return any(
        name == OPENMETRICS and quality > 0 and parameters.get("version", "1.0.0") == "1.0.0"
        for name, quality, parameters in _ranges(accept)
    )


def takes_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header names gzip."""
    return any(name == "gzip" and quality > 0 for name, quality, _ in _ranges(accept_encoding))


def _ranges(header: str) -> list[tuple[str, float, dict[str, str]]]:
    """The parts of an Accept header: name, quality, and the other parameters."""
    found = []
    for part in header.lower().split(","):
        name, *rest = (each.strip() for each in part.split(";"))
        pairs = (each.partition("=") for each in rest)
        parameters = {key.strip(): value.strip(' "') for key, _, value in pairs}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        found.append((name, quality, parameters))
    return found
