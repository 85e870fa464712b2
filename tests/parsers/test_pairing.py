# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.correlation import EARLY_NS, MAX_OPEN
from parsers.model import Completeness, Message
from parsers.pairing import MAX_PENDING, QUIET_NS, Pairing
from parsers.tally import Tally

MS = 1_000_000
GAP = "gap"


class Talk:
    """Requests and responses by name, in turns."""

    def __init__(self, *, late=False, reorders=False):
        self.pairing = Pairing(Tally(), late=late)
        self.pairing.reorders = reorders
        self.now_ns = 1_000 * MS
        self.names = {}

    def message(self, name, turn, ident):
        message = Message()
        message.correlation_id = ident
        message.turn = turn
        message.first_ns = message.last_ns = self.now_ns
        self.names[id(message)] = (name, message)
        self.now_ns += 1000
        return message

    def ask(self, names, turn, ident=None):
        pairing = self.pairing
        for name in names.split():
            (pairing.ask if ident is None else pairing.ids.ask)(self.message(name, turn, ident))
        return self

    def reply(self, names, turn, ident=None):
        for name in names.split():
            response = self.message(name, turn, ident)
            if ident is not None:
                self.pairing.ids.claim(response)
                self.pairing.ids.settle(response)
            else:
                self.pairing.answer(self.pairing.claim(response), response)
        return self

    @property
    def told(self):
        """What was reported: `1a` is request 1 with response a, `1-` has none."""
        return " ".join(
            self.names[id(each.request)][0]
            + (self.names[id(each.response)][0] if each.response else "-")
            for each in self.pairing.done
        )

    @property
    def fates(self):
        return [each.completeness.value for each in self.pairing.done]


def test_responses_come_in_the_order_of_requests():
    talk = Talk().ask("1 2 3", 1).reply("a b", 2).ask("4", 3).reply("c d", 4)
    assert talk.told == "1a 2b 3c 4d"
    assert set(talk.fates) == {"complete"}
    assert talk.pairing.tally.exchanges == 4
    assert len(talk.pairing) == 0
    assert not talk.pairing.waits


def test_response_without_a_request_is_counted():
    talk = Talk().reply("x", 2).ask("1", 3).reply("a", 4)
    assert talk.told == "1a"
    assert talk.pairing.tally.unpaired_responses == 1


@pytest.mark.parametrize(
    ("flaw", "completeness"), [("gap", "gap"), ("truncated", "truncated"), ("open", "complete")]
)
@pytest.mark.parametrize("where", ["request", "response"])
def test_exchange_is_as_complete_as_its_messages(flaw, completeness, where):
    talk = Talk()
    request, response = talk.message("1", 1, None), talk.message("a", 2, None)
    setattr(request if where == "request" else response, flaw, True)
    talk.pairing.ask(request)
    talk.pairing.answer(talk.pairing.claim(response), response)
    assert talk.fates == [completeness]


def test_first_exchange_of_an_old_connection_says_so():
    talk = Talk(late=True).ask("1", 1).reply("a", 2).ask("2", 3).reply("b", 4)
    assert talk.fates == ["late_attach", "complete"]


def test_several_requests_when_joining_late_may_have_others_before_them():
    talk = Talk(late=True).ask("4 5", 1).reply("a b", 2).ask("6", 3).reply("c", 4)
    assert talk.told == "4- 5- 6c"
    assert talk.fates == ["gap", "gap", "complete"]


# -- losses: which turns are still certain -------------------------------------------


def test_lost_response_costs_its_request_only():
    talk = Talk().ask("1", 1).reply("a", 2).ask("2", 3).ask("3", 5)
    talk.pairing.lose_responses(5)
    assert talk.reply("c", 6).told == "1a 2- 3c"
    assert talk.fates == ["complete", "gap", "complete"]


def test_lost_responses_in_the_middle_of_a_turn_cost_the_rest_of_it():
    talk = Talk().ask("1 2", 1).reply("a b", 2).ask("3 4 5", 3).reply("c", 4)
    talk.pairing.lose_responses(4)
    talk.reply("e", 4).ask("6", 5).reply("f", 6)
    assert talk.told == "1a 2b 3c 4- 5- 6f"


def test_lost_response_of_a_client_that_asks_too_early_leaves_nothing_certain():
    talk = Talk().ask("1 2", 1).reply("a", 2).ask("3", 3).reply("b c", 4)
    talk.ask("4", 5)
    talk.pairing.lose_responses(6)
    talk.ask("5", 7).reply("d", 8).ask("6", 9).reply("e f", 10)
    assert talk.told == "1a 2b 3c 4- 5- 6-"
    assert talk.pairing.muted
    talk.now_ns += QUIET_NS + MS
    assert talk.ask("7", 11).reply("g", 12).told.endswith("7g")
    assert not talk.pairing.muted


def test_silence_gives_up_what_was_still_waiting():
    talk = Talk().ask("1 2", 1).reply("a", 2).ask("3", 3).reply("b", 4)
    talk.pairing.lose_responses(3)
    talk.ask("4", 5).ask("5", 7)
    assert talk.told == "1a 2b"
    talk.now_ns += QUIET_NS + MS
    talk.ask("6", 9).reply("f", 10)
    assert talk.told == "1a 2b 3- 4- 5- 6f"


def test_client_that_sends_several_is_not_trusted_before_it_was_seen_to_wait():
    talk = Talk().ask("1 2", 1).reply("a", 2)
    talk.pairing.lose_responses(2)
    assert talk.ask("3", 3).reply("b", 4).told == "1a 2- 3-"


def test_client_that_sends_several_and_waits_is_trusted():
    talk = Talk().ask("1 2", 1).reply("a b", 2).ask("3 4", 3)
    talk.pairing.lose_responses(4)
    assert talk.ask("5 6", 5).reply("e f", 6).told == "1a 2b 3- 4- 5e 6f"


def test_lost_requests_whose_responses_came_cost_nothing_else():
    talk = Talk().ask("1 2", 1)
    talk.pairing.lose_requests(1)
    talk.reply("a b x y", 2).ask("3 4", 3).reply("c d", 4)
    assert talk.told == "1a 2b 3c 4d"
    assert talk.pairing.tally.unpaired_responses == 2


def test_lost_requests_whose_responses_did_not_come_leave_nothing_certain():
    talk = Talk().ask("1 2", 1)
    talk.pairing.lose_requests(1)
    talk.reply("a b", 2).ask("3", 3).reply("x", 4)
    assert talk.told == "1a 2b 3-"


def test_lost_requests_of_a_client_that_sends_one_at_a_time_are_forgotten():
    talk = Talk().ask("1", 1).reply("a x", 4)
    talk.pairing.lose_requests(3)
    assert talk.ask("3", 5).reply("c", 6).told == "1a 3c"


def test_request_asked_during_a_response_to_nobody_is_given_up():
    talk = Talk()
    response = talk.message("x", 2, None)
    request = talk.pairing.claim(response)
    talk.ask("1", 3)
    talk.pairing.answer(request, response)
    assert talk.told == "1-"
    assert talk.fates == [GAP]


# -- responses seen before their requests --------------------------------------------


@pytest.mark.parametrize("turn", [1, 3])
def test_response_may_be_seen_before_its_request(turn):
    talk = Talk(reorders=True)
    if turn == 3:
        talk.ask("0", 2).reply("z", 3)
    talk.reply("a", turn)
    assert talk.pairing.waits
    talk.ask("1", turn + 1)
    assert talk.told.endswith("1a")
    exchange = talk.pairing.done[-1]
    assert exchange.request.first_ns == exchange.response.first_ns
    assert exchange.completeness is Completeness.COMPLETE
    assert not talk.pairing.waits


def test_request_may_come_while_its_response_is_still_coming():
    talk = Talk(reorders=True)
    response = talk.message("a", 1, None)
    request = talk.pairing.claim(response)
    assert request is None
    talk.ask("1 2", 2)
    talk.pairing.release_early(talk.now_ns + 2 * EARLY_NS)
    talk.pairing.answer(request, response)
    assert talk.reply("b", 3).told == "1a 2b"


def test_server_does_not_answer_before_it_was_asked():
    talk = Talk().reply("x", 1).ask("1", 2).reply("a", 3)
    assert talk.told == "1a"


def test_response_of_a_new_turn_has_its_request_lost_not_late():
    talk = Talk(reorders=True).ask("1", 1).reply("a", 2).reply("x", 4).ask("3", 5).reply("c", 6)
    assert talk.told == "1a 3c"


def test_response_behind_one_whose_request_was_lost_is_not_early():
    talk = Talk(reorders=True).ask("1", 1).reply("a", 2).reply("x y", 4).ask("3", 5)
    assert talk.reply("c", 6).told == "1a 3c"


def test_response_after_lost_requests_is_not_early():
    talk = Talk(reorders=True).ask("1", 1)
    talk.pairing.lose_requests(1)
    assert talk.reply("a x", 2).ask("2", 3).reply("b", 4).told == "1a 2b"


def test_loss_among_requests_ends_the_wait_for_one():
    talk = Talk(reorders=True).reply("a", 1)
    talk.pairing.lose_requests(2)
    assert talk.ask("2", 4).reply("b", 5).told == "2b"
    assert talk.pairing.tally.unpaired_responses == 1


def test_loss_among_requests_does_not_part_what_has_met():
    talk = Talk(reorders=True)
    response = talk.message("a", 1, None)
    talk.pairing.claim(response)
    talk.ask("1", 2)
    talk.pairing.lose_requests(2)
    talk.pairing.answer(None, response)
    assert talk.told == "1a"


@pytest.mark.parametrize("turn", [2, 4])
def test_early_response_waits_for_the_next_turn_and_not_for_long(turn):
    talk = Talk(reorders=True).reply("a", 1)
    if turn == 2:
        talk.now_ns += EARLY_NS + MS
    assert talk.ask("1", turn).reply("b", turn + 1).told == "1b"
    assert talk.pairing.tally.unpaired_responses == 1


def test_early_response_is_released_by_time_and_by_the_next():
    talk = Talk(reorders=True).reply("a", 1)
    talk.pairing.release_early(talk.now_ns)
    assert talk.pairing.waits
    talk.pairing.release_early(talk.now_ns + EARLY_NS)
    assert not talk.pairing.waits
    talk.reply("b c", 1).ask("1", 2)
    assert talk.told == "1c"
    assert talk.pairing.tally.unpaired_responses == 2


# -- ends ----------------------------------------------------------------------------


def test_end_of_the_connection_leaves_requests_unanswered():
    talk = Talk(reorders=True).ask("1", 1, 7).ask("2", 1)
    talk.pairing.end(talk.now_ns + MS, "connection_reset")
    assert talk.told == "2- 1-"
    assert {each.error_type for each in talk.pairing.done} == {"connection_reset"}
    assert {each.request.last_ns for each in talk.pairing.done} == {talk.now_ns + MS}
    assert talk.fates == ["unanswered"] * 2
    assert len(talk.pairing) == 0


def test_request_whose_response_may_be_lost_is_not_called_unanswered():
    talk = Talk().ask("1", 1, 7)
    talk.pairing.lose_responses(2)
    talk.pairing.end(talk.now_ns, "connection_closed")
    assert talk.fates == [GAP]
    assert talk.pairing.done[0].error_type is None


def test_request_that_waits_too_long_is_reported_and_still_takes_its_response():
    talk = Talk().ask("1 2", 1).ask("3", 1, 7)
    talk.pairing.expire(talk.now_ns, "timeout")
    assert talk.told == "1- 2- 3-"
    assert talk.fates == ["unanswered"] * 3
    assert len(talk.pairing) == 0
    talk.pairing.expire(talk.now_ns, "timeout")
    talk.ask("4", 3).reply("a b d", 4).reply("c", 4, 7)
    assert talk.told == "1- 2- 3- 4d"
    assert talk.pairing.tally.unpaired_responses == 2
    talk.pairing.ids.idle(talk.now_ns + EARLY_NS)
    assert talk.pairing.tally.unpaired_responses == 3


def test_request_that_is_young_enough_does_not_expire():
    talk = Talk().ask("1", 1).ask("2", 1, 7)
    talk.pairing.expire(1_000 * MS, "timeout")
    assert talk.told == ""
    assert len(talk.pairing) == 2


def test_expired_requests_are_not_reported_again():
    talk = Talk().ask("1 2", 1)
    talk.pairing.expire(talk.now_ns - 1500, "timeout")
    assert talk.told == "1-"
    talk.pairing.give_up()
    assert talk.told == "1- 2-"
    talk.ask("3", 3)
    talk.pairing.expire(talk.now_ns, "timeout")
    talk.pairing.end(talk.now_ns, "connection_closed")
    assert talk.told == "1- 2- 3-"


def test_giving_up_reports_all():
    talk = Talk().ask("1", 1).ask("2", 1, 7)
    talk.pairing.give_up()
    assert talk.told == "1- 2-"
    assert talk.fates == [GAP, GAP]


def test_abandoned_requests_were_none():
    talk = Talk(reorders=True).reply("a", 1).ask("1", 5).ask("2", 1, 7)
    talk.pairing.abandon()
    assert talk.told == ""
    assert talk.pairing.tally.abandoned_requests == 2
    assert not talk.pairing.waits


def test_queue_is_bounded():
    talk = Talk()
    for _ in range(MAX_PENDING + 1):
        talk.ask("1", 1)
    assert talk.pairing.tally.limits == 1
    assert len(talk.pairing) == 1
    assert talk.fates == [GAP] * MAX_PENDING
    talk.reply("a b", 2).ask("2", 3).reply("c", 4)
    assert talk.told.endswith("1- 2c")


def test_queue_by_id_is_bounded():
    talk = Talk()
    for number in range(MAX_OPEN + 1):
        talk.ask("1", 1, number)
    assert talk.pairing.tally.limits == 1
    assert len(talk.pairing) == 1


def test_who_asks_again_before_the_responses_to_what_was_lost_is_not_trusted():
    talk = Talk().ask("1 2", 1).reply("a b", 2).ask("3 4", 3)
    talk.pairing.lose_requests(3)
    # Had it waited, the responses to what was lost would be here.
    talk.reply("c d", 4).ask("5 6", 5).reply("x y", 6)
    assert talk.told == "1a 2b 3c 4d 5- 6-"
    assert talk.fates[4:] == [GAP, GAP]


def test_unless_it_was_quiet_in_between():
    talk = Talk().ask("1 2", 1).reply("a b", 2).ask("3 4", 3)
    talk.pairing.lose_requests(3)
    talk.reply("c d", 4)
    talk.now_ns += QUIET_NS
    talk.ask("5 6", 5).reply("e f", 6)
    assert talk.told == "1a 2b 3c 4d 5e 6f"


def test_or_responses_were_lost_as_well():
    talk = Talk().ask("1 2", 1).reply("a b", 2).ask("3 4", 3).reply("c d", 4).ask("5", 5)
    talk.pairing.lose_requests(5)
    talk.reply("e", 6)
    talk.pairing.lose_responses(7)
    talk.ask("6 7", 7).reply("f g", 8)
    assert talk.told == "1a 2b 3c 4d 5e 6f 7g"
