# SPDX-License-Identifier: Apache-2.0
"""Service maps made by hand, for the tests of what shows and compares them."""

from __future__ import annotations

from exporters.map_model import Buckets, Ends, Latency, MapEdge, NodeKind, NodeName, make_map
from parsers.model import Endpoint, Side
from tests.exporters import samples

START_NS = samples.START_NS
S = 1_000_000_000


def latency(seconds=0.001, count=100):
    """All took about the same."""
    buckets = Buckets((seconds * 0.95, seconds * 1.05), (count // 2, count - count // 2))
    return Latency(seconds, seconds, seconds, seconds, buckets)


def edge(client="shop", server="stock", protocol="grpc", *, seconds=0.001, count=100, **changes):
    values = {
        "ends": Ends(NodeName(client), NodeName(server), protocol),
        "seen_by": "client",
        "count": count,
        "errors": 0,
        "incomplete": 0,
        "request_bytes": 7920,
        "response_bytes": 58_800,
        "latency": latency(seconds, count),
        "server_latency": None,
        "rtt_min_s": None,
        "rtt_median_s": None,
        "first_unix_ns": START_NS,
        "last_unix_ns": START_NS + 100 * S,
    }
    return MapEdge(**{**values, **changes})


def service_map(*edges, kinds=None, seconds=100):
    """Services all, but where `kinds` by name says other things."""
    found = {end: NodeKind.SERVICE for each in edges for end in each.ends[:2]}
    found |= {NodeName(name): kind for name, kind in (kinds or {}).items()}
    return make_map(START_NS, START_NS + seconds * S, found.items(), edges)


def shop():
    """What a shop looks like; one shared node, one cycle, one node of each kind."""
    return service_map(
        edge("user", "nginx", "http", count=1200, errors=3, seconds=0.0029),
        edge(
            "nginx",
            "shop",
            "http",
            count=1100,
            errors=22,
            seen_by="both",
            server_latency=latency(0.0025),
            rtt_min_s=0.00004,
            rtt_median_s=0.00005,
        ),
        edge("shop", "stock", "grpc", count=500, incomplete=2),
        edge("shop", "redis", "redis", count=1100, seconds=0.00006),
        edge("shop", "mail.example.com", "http", count=7, seconds=0.21),
        edge("stock", "postgres", "postgresql", count=500, errors=1),
        edge("stock", "shop", "http", count=3),
        edge("cron", "postgres", "postgresql", count=5, seconds=1.5),
        kinds={
            "user": NodeKind.USER,
            "redis": NodeKind.DATABASE,
            "postgres": NodeKind.DATABASE,
            "mail.example.com": NodeKind.EXTERNAL,
        },
    )


def client_span(client, server, took_ns=1_000_000, end_ns=START_NS, **changes):
    """What the process `client` saw of its request to the process, or the name, `server`."""
    named = isinstance(server, str)
    return samples.span(
        peering=samples.peering(Side.CLIENT, remote=Endpoint("10.0.0.5", 8080)),
        process=client,
        peer=None if named else server,
        peer_name=server if named else server.service_name,
        start_unix_ns=end_ns - took_ns,
        end_unix_ns=end_ns,
        **changes,
    )


def server_span(
    server, client=None, took_ns=900_000, end_ns=START_NS, address="10.0.0.5", **changes
):
    """What the process `server` saw of a request by the process, or of a client not seen."""
    return samples.span(
        peering=samples.peering(Side.SERVER, remote=Endpoint(address, 43122)),
        process=server,
        peer=client,
        peer_name=client.service_name if client else "",
        start_unix_ns=end_ns - took_ns,
        end_unix_ns=end_ns,
        **changes,
    )
