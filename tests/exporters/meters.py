# SPDX-License-Identifier: Apache-2.0
"""Metrics made by hand, for the tests of what shows them."""

from __future__ import annotations

from exporters.histograms import ExplicitHistogram, ExponentialHistogram
from exporters.instruments import Exemplar, Instrument, Metric, Point, ResourceMetrics

SHOP = {
    "service.name": "shop",
    "service.namespace": "demo",
    "service.instance.id": "host:7",
    "service.version": "1.2",
}
AGENT = {"service.name": "wirespan", "service.instance.id": "4f", "host.name": "host"}
BOUNDS = (0.1, 1.0)
UNIX_NS = 1_700_000_000_123_456_789


def exemplar(value=0.05, number=1, unix_ns=UNIX_NS):
    return Exemplar(value, number.to_bytes(16, "big"), number.to_bytes(8, "big"), unix_ns)


def histogram(*values, bounds=BOUNDS):
    """With explicit buckets; exponential ones if `bounds` is None."""
    made = ExponentialHistogram() if bounds is None else ExplicitHistogram(bounds)
    for value in values:
        made.record(value)
    return made


def metric(name, kind, unit, *points, description="What it is.", bounds=()):
    """`points` are values, or pairs of attributes and value, or of these and an exemplar."""
    found = []
    for point in points:
        attributes, value, mark = (
            ({}, point, None)
            if not isinstance(point, tuple)
            else (
                *point,
                *(None,) * (3 - len(point)),
            )
        )
        found.append(Point(tuple(sorted(attributes.items())), value, 0, mark))
    return Metric(Instrument(name, kind, unit, description, bounds), found)


def of(resource, *metrics):
    return ResourceMetrics(resource, list(metrics))


def duration(*points):
    return metric("http.server.request.duration", "histogram", "s", *points, bounds=BOUNDS)


def edge(client, server, connection_type="", **more):
    return {"client": client, "server": server, "connection_type": connection_type, **more}
