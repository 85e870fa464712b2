# SPDX-License-Identifier: Apache-2.0
"""A pipeline that runs on nothing, for the tests of its readings."""

from __future__ import annotations

from exporters.none import NoneExporter
from parsers.http1 import Http1Parser
from parsers.model import Options
from parsers.registry import Registry
from tests.tracer.fakes import FakeSource
from tracer.gate import Gate
from tracer.health import KERNEL_S, Health
from tracer.pipeline import Pipeline
from tracer.procfs import ProcessTable
from tracer.routes import Routes

AS_PROCESS = ("process.", "wirespan.threads", "wirespan.files")
LEVELS = {"queue_spans": 5, "queue_bytes": 900, "spool_spans": 7, "spool_bytes": 3000, "odd": 2}


class Held(NoneExporter):
    """Counts and holds what it is told to."""

    def __init__(self, **counts):
        super().__init__()
        self.counts = counts

    def counters(self):
        return self.counts

    def levels(self):
        return LEVELS


class Rig:
    """A pipeline that runs on nothing, and the readings of it."""

    def __init__(self, source=None, exporters=None, **options):
        self.source = source or FakeSource()
        self.gate = Gate(exporters or {}, None)
        self.pipeline = Pipeline(
            self.source, Registry({"http1": Http1Parser}, Options()), [self.gate], seed=1
        )
        self.now_s = 0.0
        self.processes = ProcessTable()
        self.routes = Routes()
        self.health = Health(
            self.pipeline,
            self.gate,
            processes=self.processes,
            routes=self.routes,
            clock=lambda: self.now_s,
            **options,
        )

    def values(self):
        """Values by name and attributes."""
        self.now_s += 2 * KERNEL_S
        return {(each.name, each.attributes): each.value for each in self.health.readings()}

    def value(self, name, **attributes):
        return self.values().get((name, tuple(sorted(attributes.items()))))

    def rise(self, change):
        """What differs by how much after `change`, but for what the agent is as a process."""
        before = self.values()
        change()
        return {
            key: value - before.get(key, 0)
            for key, value in self.values().items()
            if not key[0].startswith(AS_PROCESS) and value != before.get(key, 0)
        }
