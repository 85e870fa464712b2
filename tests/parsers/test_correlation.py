# SPDX-License-Identifier: Apache-2.0
"""Exchanges whose messages carry an id."""

from __future__ import annotations

import pytest

from parsers.correlation import ANSWERED_NS, EARLY_NS, MAX_EARLY, MAX_OPEN, Correlation
from parsers.model import Kind, Message
from parsers.tally import Tally

MS = 1_000_000


class Talk:
    """Messages by name; what was reported in `told`: `1a` is request 1 with response a."""

    def __init__(self):
        self.tally = Tally()
        self.done = []
        self.ids = Correlation(self.tally, lambda *facts: self.done.append(facts))
        self.now_ns = 1000 * MS
        self.names = {}

    def message(self, name, ident, *, is_open=False):
        message = Message()
        message.correlation_id = ident
        message.open = is_open
        message.first_ns = message.last_ns = self.now_ns
        self.names[id(message)] = (name, message)
        self.now_ns += MS
        return message

    def ask(self, name, ident, *, is_open=False):
        message = self.message(name, ident, is_open=is_open)
        self.ids.ask(message)
        return self.done_with(message)

    def reply(self, name, ident, *, is_open=False):
        message = self.message(name, ident, is_open=is_open)
        self.ids.claim(message)
        return self.done_with(message)

    def done_with(self, message):
        if not message.open:
            self.ids.settle(message)
        return message

    def close(self, message, *, ends=False):
        message.open = False
        message.ends = ends
        message.last_ns = self.now_ns
        self.ids.settle(message)

    @property
    def told(self):
        return " ".join(
            self.names[id(request)][0] + (self.names[id(response)][0] if response else "-")
            for request, response, *_ in self.done
        )

    @property
    def fates(self):
        return [completeness.value for _, _, completeness, _ in self.done]


def test_responses_come_in_any_order():
    talk = Talk()
    talk.ask("1", 10)
    talk.ask("2", 20)
    talk.reply("b", 20)
    talk.reply("a", 10)
    assert talk.told == "2b 1a"
    assert talk.fates == ["complete"] * 2
    assert len(talk.ids) == 0
    assert not talk.ids.waits


def test_exchange_is_done_when_both_messages_are_whole():
    talk = Talk()
    request = talk.ask("1", 1, is_open=True)
    response = talk.reply("a", 1, is_open=True)
    assert talk.ids.answers
    talk.close(request)
    assert talk.told == ""
    talk.close(response)
    assert talk.told == "1a"


def test_response_that_is_whole_first_waits_for_the_rest_of_its_request():
    talk = Talk()
    request = talk.ask("1", 1, is_open=True)
    talk.reply("a", 1)
    talk.ids.idle(talk.now_ns + ANSWERED_NS // 2)
    assert talk.told == ""
    talk.close(request)
    assert talk.told == "1a"


def test_but_not_for_ever():
    talk = Talk()
    talk.ask("1", 1, is_open=True)
    talk.reply("a", 1)
    talk.ids.idle(talk.now_ns + ANSWERED_NS)
    assert talk.told == "1a"
    assert talk.fates == ["gap"]


@pytest.mark.parametrize("answered", [False, True])
def test_message_that_ends_its_exchange_ends_it_at_once(answered):
    talk = Talk()
    request = talk.ask("1", 1, is_open=True)
    if answered:
        talk.reply("a", 1, is_open=True)
    talk.close(request, ends=True)
    assert talk.told == ("1a" if answered else "1-")
    assert talk.fates == ["complete"]


def test_request_that_is_sent_again_is_one_request():
    talk = Talk()
    first = talk.ask("1", 1, is_open=False)
    again = talk.ask("2", 1)
    talk.ids.settle(again)
    assert talk.told == ""
    talk.reply("a", 1)
    talk.reply("b", 1)
    assert talk.told == "1a"
    assert first.resends == 1
    talk.ids.idle(talk.now_ns + EARLY_NS)
    assert talk.tally.unpaired_responses == 1


def test_id_that_is_used_again_after_its_response_began_is_another_exchange():
    talk = Talk()
    talk.ask("1", 1)
    talk.reply("a", 1, is_open=True)
    talk.ask("2", 1)
    assert talk.told == "1a"
    assert talk.fates == ["gap"]
    talk.reply("b", 1)
    assert talk.told == "1a 2b"


def test_response_seen_before_its_request_waits_for_it():
    talk = Talk()
    talk.reply("a", 1)
    began_ns = talk.now_ns - MS
    request = talk.ask("1", 1)
    assert talk.told == "1a"
    assert request.first_ns == began_ns
    assert talk.tally.unpaired_responses == 0


def test_but_not_for_long():
    talk = Talk()
    talk.reply("a", 1)
    talk.now_ns += EARLY_NS
    talk.ask("1", 1)
    assert talk.told == ""
    assert talk.tally.unpaired_responses == 1
    talk.reply("x", 2)
    talk.ids.idle(talk.now_ns + EARLY_NS)
    assert talk.tally.unpaired_responses == 2


def test_responses_that_wait_are_bounded():
    talk = Talk()
    for ident in range(MAX_EARLY + 1):
        talk.reply("a", ident)
    assert talk.tally.limits == 1
    assert talk.tally.unpaired_responses == 1
    talk.ids.give_up()
    assert talk.tally.unpaired_responses == MAX_EARLY + 1


def test_exchanges_under_way_are_bounded():
    talk = Talk()
    for ident in range(MAX_OPEN + 1):
        talk.ask("1", ident)
    assert talk.tally.limits == 1
    assert len(talk.ids) == 1
    assert talk.fates == ["gap"] * MAX_OPEN


def test_loss_marks_what_is_under_way_in_its_direction():
    talk = Talk()
    whole = talk.ask("1", 1)
    partly = talk.ask("2", 2, is_open=True)
    answered = talk.ask("3", 3)
    response = talk.reply("c", 3, is_open=True)
    talk.ids.lose(Kind.REQUEST)
    assert [each.gap for each in (whole, partly, answered, response)] == [False, True, True, False]
    talk.ids.lose(Kind.RESPONSE)
    assert [each.gap for each in (whole, partly, answered, response)] == [True, True, True, True]
    talk.close(response)
    assert talk.fates == ["gap"]


def test_truncated_message_makes_a_truncated_exchange():
    talk = Talk()
    talk.ask("1", 1).truncated = True
    talk.reply("a", 1)
    assert talk.fates == ["truncated"]


def test_only_what_is_silent_without_a_response_expires():
    talk = Talk()
    talk.ask("1", 1)
    talk.ask("2", 2)
    talk.reply("b", 2, is_open=True)
    talk.ids.expire(talk.now_ns, "timeout")
    assert talk.told == "1-"
    assert talk.done[0][3] == "timeout"
    assert talk.fates == ["unanswered"]


def test_end_of_the_connection_ends_all():
    talk = Talk()
    first = talk.ask("1", 1)
    talk.ask("2", 2)
    talk.reply("b", 2, is_open=True)
    talk.ask("3", 3, is_open=True)
    talk.reply("c", 3)
    talk.ask("4", 4).gap = True
    talk.reply("x", 5)
    talk.ids.end(talk.now_ns, "connection_reset")
    assert talk.told == "1- 2b 3c 4-"
    assert talk.fates == ["unanswered", "complete", "gap", "gap"]
    assert [error for *_, error in talk.done] == [
        "connection_reset",
        "connection_reset",
        None,
        None,
    ]
    assert first.last_ns == talk.now_ns
    assert talk.tally.unpaired_responses == 1


def test_cleared_exchanges_were_none():
    talk = Talk()
    talk.ask("1", 1)
    talk.reply("x", 2)
    assert talk.ids.clear() == 1
    assert talk.done == []
    assert not talk.ids.waits


def test_pair_of_another_message_is_left_alone():
    talk = Talk()
    talk.ask("1", 1)
    talk.ids.settle(talk.message("x", 1))
    assert talk.done == []
