# SPDX-License-Identifier: Apache-2.0
"""Every number that the agent gives about itself: its name, unit and meaning.

One table, so that documentation can be made from it and a test can hold what is given against
it. Names are the conventions' where these have one (`process.*`), else our own.

OTel: https://opentelemetry.io/docs/specs/semconv/general/naming/ 1.44.0
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tracer.telemetry import Reading, ReadingKind


class Measure(NamedTuple):
    """What a name stands for."""

    kind: ReadingKind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    """Keys that each of its readings has, in order."""


MEASURES: Final[dict[str, Measure]] = {
    # The kernel's half: where transfers ended up.
    "wirespan.kernel.events": Measure(
        "counter",
        "{event}",
        "Transfers that the kernel half saw, by what became of them; `loss` is true where"
        " somebody would have wanted them",
        ("cause", "loss"),
    ),
    "wirespan.kernel.size": Measure("counter", "By", "Bytes of these transfers", ("cause", "loss")),
    "wirespan.kernel.turns": Measure(
        "counter",
        "{turn}",
        "Turns whose first transfer ended so, by what begins there: request, response or unknown",
        ("begins", "cause", "loss"),
    ),
    "wirespan.kernel.unused": Measure(
        "counter",
        "{record}",
        "What the source brought and could not use, apart from transfers",
        ("cause",),
    ),
    "wirespan.kernel.program.misses": Measure(
        "counter",
        "{run}",
        "Times that the kernel skipped a BPF program because it was running on that CPU already",
        ("program",),
    ),
    "wirespan.kernel.program.runs": Measure(
        "counter",
        "{run}",
        "Runs of a BPF program while the kernel measured them (sysctl kernel.bpf_stats_enabled)",
        ("program",),
    ),
    "wirespan.kernel.program.time": Measure(
        "counter", "s", "Time that these runs took", ("program",)
    ),
    # The pipeline.
    "wirespan.batches": Measure("counter", "{batch}", "Batches of events processed"),
    "wirespan.batch.size": Measure("counter", "By", "Bytes of events in these batches"),
    "wirespan.exchanges": Measure(
        "counter", "{exchange}", "Requests with what is known of their responses"
    ),
    "wirespan.spans.made": Measure("counter", "{span}", "Spans made, before any filter"),
    "wirespan.spans": Measure(
        "counter", "{span}", "Spans handed to exporters, by how whole they are", ("completeness",)
    ),
    "wirespan.spans.failed": Measure(
        "counter", "{span}", "Of the spans handed to exporters, those of exchanges with an error"
    ),
    # Connections.
    "wirespan.connections": Measure(
        "gauge",
        "{connection}",
        "Connections known now, by protocol; unknown: not decided; none: not parsed",
        ("protocol",),
    ),
    "wirespan.connections.opened": Measure(
        "counter",
        "{connection}",
        "Connections first seen; `late` is true where they are older than the agent",
        ("late",),
    ),
    "wirespan.connections.closed": Measure(
        "counter",
        "{connection}",
        "Connections that have ended: orderly, reset or refused",
        ("how",),
    ),
    "wirespan.connections.encrypted": Measure(
        "counter", "{connection}", "Connections that speak TLS on the wire"
    ),
    "wirespan.connections.lost": Measure(
        "counter",
        "{connection}",
        "Connections that are seen in part or no longer, by cause",
        ("cause",),
    ),
    "wirespan.connections.unparsed": Measure(
        "counter", "By", "Bytes of transfers on connections that are not parsed"
    ),
    "wirespan.requests.waiting": Measure(
        "gauge", "{request}", "Requests whose response has not ended so far"
    ),
    "wirespan.buffered.size": Measure(
        "gauge", "By", "Payload and requests of all connections that wait for more"
    ),
    "wirespan.names": Measure("gauge", "{address}", "Addresses whose name is known from DNS"),
    # What parsers could not use.
    "wirespan.parse.errors": Measure(
        "counter", "{error}", "Messages that could not be parsed", ("protocol",)
    ),
    "wirespan.parse.gaps": Measure("counter", "By", "Bytes of messages that are missing"),
    "wirespan.parse.overlaps": Measure("counter", "By", "Bytes that were seen twice"),
    "wirespan.parse.limits": Measure(
        "counter", "{time}", "Times that a bound was reached: of a message, or of what may wait"
    ),
    "wirespan.messages.lost": Measure(
        "counter", "{message}", "Messages that became no exchange, by cause", ("cause",)
    ),
    "wirespan.exchanges.lost": Measure(
        "counter", "{exchange}", "Exchanges lost to a parser's failure"
    ),
    "wirespan.exchanges.unbound": Measure(
        "counter",
        "{exchange}",
        "Exchanges seen inside a TLS library whose socket was not known: without addresses",
    ),
    # Exporters.
    "wirespan.exporter.received": Measure(
        "counter", "{span}", "Spans that an exporter was handed", ("exporter",)
    ),
    "wirespan.exporter.spans": Measure(
        "counter",
        "{span}",
        "Spans by what an exporter did with them, such as sent, refused or dropped_queue",
        ("exporter", "outcome"),
    ),
    "wirespan.exporter.events": Measure(
        "counter",
        "{event}",
        "What else an exporter counts, such as requests and retries",
        ("event", "exporter"),
    ),
    "wirespan.queue.spans": Measure("gauge", "{span}", "Spans that wait to be sent", ("exporter",)),
    "wirespan.queue.size": Measure("gauge", "By", "Bytes of these spans", ("exporter",)),
    "wirespan.spool.spans": Measure("gauge", "{span}", "Spans that wait on disk", ("exporter",)),
    "wirespan.spool.size": Measure("gauge", "By", "Bytes of these spans on disk", ("exporter",)),
    "wirespan.exporter.level": Measure(
        "gauge", "{item}", "What else an exporter holds", ("exporter", "level")
    ),
    # Processes of others.
    "wirespan.process.events": Measure(
        "counter",
        "{event}",
        "What came of looking at processes, such as processes_read and processes_gone",
        ("event",),
    ),
    "wirespan.route.events": Measure(
        "counter",
        "{event}",
        "What came of making routes of paths, such as routes_cut and route_places_merged",
        ("event",),
    ),
    # The agent as a process.
    "wirespan.info": Measure(
        "gauge",
        "{agent}",
        "Always 1; its attributes say what runs",
        ("kernel", "python", "source", "version"),
    ),
    "wirespan.start.time": Measure("gauge", "s", "When the agent began, in seconds since 1970"),
    "wirespan.health.failures": Measure(
        "counter", "{failure}", "Times that a part of these readings failed", ("part",)
    ),
    "process.cpu.time": Measure(
        "counter", "s", "CPU time of the agent, in user space and in the kernel", ("cpu.mode",)
    ),
    "process.memory.usage": Measure("gauge", "By", "Resident memory of the agent"),
    # The conventions call these `process.*.count`, which Prometheus takes for a histogram's.
    "wirespan.threads": Measure("gauge", "{thread}", "Threads of the agent"),
    "wirespan.files": Measure("gauge", "{file}", "Files and the like that the agent has open"),
}
"""By name."""


def reading(name: str, value: float, *attributes: tuple[str, str]) -> Reading:
    """A value of the measure `name`; `attributes` in the order that its table entry has."""
    kind, unit, description, _ = MEASURES[name]
    return Reading(name, kind, unit, description, value, attributes)
