# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from parsers.model import Completeness
from tests.tracer.conversations import CLIENT, SERVER, START_NS, Conversation
from tests.tracer.fakes import S, Table, request, response
from tracer.events import EGRESS, INGRESS


def traffic(plan, lost=()):
    """Conversations as `plan` says: for each its role and how deep each burst is pipelined.

    An exchange's number is in its target, and is the length of its response.
    """
    conversations = []
    number = 0
    for cookie, (role, bursts) in enumerate(plan, 1):
        conversation = Conversation(cookie, role=role, now_ns=START_NS + cookie).open()
        ask, reply = (INGRESS, EGRESS) if role == SERVER else (EGRESS, INGRESS)
        for depth in bursts:
            numbers = range(number + 1, number + depth + 1)
            number += depth
            for each in numbers:
                conversation.move(ask, request(f"/{each}"))
            for each in numbers:
                conversation.move(reply, response(each))
        conversations.append(conversation.close())
    return conversations, number


def shuffled(conversations, seed):
    """Their events in one stream; each connection's own stay in order."""
    random_ = random.Random(seed)
    queues = [list(reversed(each.events)) for each in conversations]
    events = []
    while queues := [queue for queue in queues if queue]:
        events.append(random_.choice(queues).pop())
    return events


PLANS = st.lists(
    st.tuples(st.sampled_from([CLIENT, SERVER]), st.lists(st.integers(1, 4), max_size=5)),
    min_size=1,
    max_size=6,
)


@given(plan=PLANS, seed=st.integers(0, 2**32), per_batch=st.integers(1, 40))
def test_any_interleaving_gives_exactly_the_exchanges_that_were_made(plan, seed, per_batch):
    conversations, made = traffic(plan)
    events = shuffled(conversations, seed)
    table = Table()
    for at in range(0, len(events), per_batch):
        table.feed(*events[at : at + per_batch])
    table.table.finish(table.now_ns)
    numbers = sorted(int(exchange.request.head.target[1:]) for exchange in table.exchanges)
    assert numbers == list(range(1, made + 1))
    for exchange in table.exchanges:
        assert exchange.completeness is Completeness.COMPLETE
        assert exchange.response.head.length == int(exchange.request.head.target[1:])


@given(
    plan=PLANS,
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.05, 0.2, 0.5]),
    lose_opens=st.booleans(),
)
def test_lost_events_lose_exchanges_and_never_join_wrong_ones(plan, seed, loss, lose_opens):
    conversations, made = traffic(plan)
    random_ = random.Random(seed)
    events = []
    lost_requests = 0
    for event in shuffled(conversations, seed):
        data = getattr(event, "data", None)
        if random_.random() < loss and (data is not None or lose_opens):
            lost_requests += data is not None and data.startswith(b"GET")
        else:
            events.append(event)
    table = Table()
    table.feed(*events)
    table.wait(S)
    table.table.finish(table.now_ns)
    seen = []
    for exchange in table.exchanges:
        number = int(exchange.request.head.target[1:])
        seen.append(number)
        if exchange.response is not None:
            assert exchange.response.head.length == number
    assert len(seen) == len(set(seen)), "none is reported twice"
    accounted = len(seen) + table.table.in_flight + lost_requests
    assert accounted <= made
    pipelined = any(depth > 1 for _, bursts in plan for depth in bursts)
    if not pipelined and not lose_opens:
        # Behind a gap inside a burst nothing can be told apart, else each is accounted for.
        assert accounted + table.table.tally.abandoned_requests == made
