# SPDX-License-Identifier: Apache-2.0
"""Tallies of slots and views put together to one service map.

An edge has up to three tallies in a slot: of clients' spans, of servers' spans whose client was not
seen, and of servers' spans whose client was. The first two count; the third has the server's own
time, and counts only where nothing else is there (the client's spans were filtered away).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from exporters.edges import USER
from exporters.map_model import Ends, MapEdge, NodeKind, NodeName, ServiceMap, make_map
from exporters.map_tally import Tally


class Role(IntEnum):
    """What a span is to its edge."""

    CLIENT = 1
    SERVER = 2
    """The client's span was not seen, so that it counts."""
    TWIN = 3
    """The server's view of what is counted of the client's."""


class Cell(NamedTuple):
    """What is added up together."""

    ends: Ends
    role: Role


Slot = dict[Cell, Tally]


def assemble(
    start_ns: int, end_ns: int, slots: Iterable[Slot], crowded: frozenset[NodeName]
) -> ServiceMap:
    """One map of many slots; of `crowded` servers the clients without a name are users."""
    found: defaultdict[Ends, dict[Role, Tally]] = defaultdict(dict)
    for slot in slots:
        for (ends, role), tally in slot.items():
            client_kind = tally.client_kind
            key = ends
            if tally.unnamed and ends.server in crowded:
                key, client_kind = ends._replace(client=NodeName(USER)), NodeKind.USER
            roles = found[key]
            if role not in roles:
                roles[role] = tally.copy()
                roles[role].client_kind = client_kind
            else:
                roles[role].merge(tally)
                if key is not ends:
                    roles[role].client_kind = NodeKind.USER
    kinds = []
    edges = []
    for ends, roles in found.items():
        edges.append(_edge(ends, roles))
        for tally in roles.values():
            kinds += [(ends.client, tally.client_kind), (ends.server, tally.server_kind)]
    return make_map(start_ns, end_ns, kinds, edges)


def _edge(ends: Ends, roles: dict[Role, Tally]) -> MapEdge:
    """The views of one edge put together; where no client's counts, the server's does."""
    served = [roles[role] for role in (Role.SERVER, Role.TWIN) if role in roles]
    counted = [roles[role] for role in (Role.CLIENT, Role.SERVER) if role in roles] or served
    tally = counted[0].copy()
    for more in counted[1:]:
        tally.merge(more)
    server_latency = None
    if Role.CLIENT in roles and served:
        own = served[0].copy()
        for more in served[1:]:
            own.merge(more)
        server_latency = own.latency()
    seen_by = "server"
    if Role.CLIENT in roles:
        seen_by = "both" if served else "client"
    return MapEdge(
        ends=ends,
        seen_by=seen_by,
        count=tally.count,
        errors=tally.errors,
        incomplete=tally.incomplete,
        request_bytes=tally.request_bytes,
        response_bytes=tally.response_bytes,
        latency=tally.latency(),
        server_latency=server_latency,
        rtt_min_s=tally.rtt_min_s(),
        rtt_median_s=tally.rtt_median_s(),
        first_unix_ns=tally.first_ns,
        last_unix_ns=tally.last_ns,
    )
