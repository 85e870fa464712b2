# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from parsers.http2_frames import GOAWAY, HEADERS, PUSH_PROMISE
from parsers.http2_messages import GrpcRequest
from parsers.http2_streams import MAX_STREAMS
from parsers.model import ParseError
from tests.parsers.http2_bytes import (
    GET,
    HTTP,
    OK,
    POST,
    Talk,
    data,
    frame,
    get,
    head,
    indexed,
    literal,
    reset,
    status,
)

TRAILERS = literal(b"digest", b"x")
CALL = (
    POST
    + HTTP
    + literal(b":path", b"/pkg.Service/Method")
    + literal(b"content-type", b"application/grpc")
)
ANSWER = OK + literal(b"content-type", b"application/grpc")


def test_a_stream_is_kept_while_a_message_of_it_is_open():
    talk = Talk()
    (request,) = talk.ask(get(1))
    assert (request.correlation_id, request.open) == (1, False)
    assert talk.streams == [1]
    (response,) = talk.answer(head(1, OK, ends=False))
    assert response.open
    assert talk.answer(data(1, b"abc")) == [response]
    assert not response.open
    assert talk.streams == []


def test_a_response_that_ends_first_waits_for_its_request():
    talk = Talk()
    (request,) = talk.ask(get(1, ends=False))
    (response,) = talk.answer(head(1, OK))
    assert (request.open, response.open) == (True, False)
    assert talk.streams == [1]
    assert talk.ask(data(1)) == [request]
    assert talk.streams == []


def test_trailers_end_a_message():
    talk = Talk()
    (request,) = talk.ask(get(1, ends=False))
    assert talk.ask(head(1, TRAILERS)) == [request]
    (response,) = talk.answer(head(1, OK, ends=False))
    assert talk.answer(head(1, TRAILERS)) == [response]
    assert talk.streams == []


def test_a_block_that_ends_nothing_belongs_to_the_message_too():
    talk = Talk()
    (request,) = talk.ask(get(1, ends=False))
    assert talk.ask(head(1, TRAILERS, ends=False)) == [request]
    assert request.open


def test_what_comes_behind_the_end_belongs_to_nobody():
    talk = Talk()
    talk.ask(get(1))
    assert talk.ask(head(1, TRAILERS), data(1, b"x")) == [None, None]
    (response,) = talk.answer(head(1, OK, ends=False))
    talk.ask(reset(1, 8))
    assert talk.answer(data(1, b"x"), head(3, TRAILERS, ends=False))[0] is None
    assert response.open
    talk = Talk()
    talk.ask(get(1, ends=False))
    talk.answer(head(1, OK))
    assert talk.answer(head(1, TRAILERS), data(1, b"x")) == [None, None]


def test_trailers_of_an_unknown_request_belong_to_nobody():
    assert Talk().ask(head(1, TRAILERS)) == [None]


def test_data_of_an_unknown_stream_belongs_to_nobody():
    talk = Talk()
    assert talk.ask(data(1)) == [None]
    assert talk.answer(data(1)) == [None]
    assert talk.streams == []


def test_a_response_to_an_unknown_request_is_a_message():
    talk = Talk()
    (response,) = talk.answer(head(1, OK, ends=False))
    assert response.open
    assert talk.answer(data(1)) == [response]
    assert talk.streams == []
    (response,) = talk.answer(head(3, OK))
    assert (response.open, talk.streams) == (False, [])


def test_data_of_a_request_that_comes_behind_its_response():
    talk = Talk()
    talk.answer(head(1, OK, ends=False))
    assert talk.ask(data(1)) == [None]
    (request,) = talk.ask(get(1, ends=False))
    assert request.correlation_id == 1
    assert talk.streams == [1]


def test_clients_ask_on_odd_streams_alone():
    with pytest.raises(ParseError, match="stream 2"):
        Talk().ask(get(2))


def test_what_is_pushed_belongs_to_nobody_and_its_fields_count():
    talk = Talk()
    talk.ask(get(1))
    promised = b"\0\0\0\2" + GET + HTTP + literal(b"content-type", b"text/css", 0x40)
    found = talk.answer(
        frame(PUSH_PROMISE, 4, 1, promised),
        head(2, OK, ends=False),
        data(2, b"css"),
        head(1, OK + indexed(62)),
    )
    assert found[:3] == [None, None, None]
    assert found[3].correlation_id == 1
    assert talk.streams == []


def test_interim_responses_leave_the_stream_as_it_is():
    talk = Talk()
    talk.ask(get(1))
    interim, response = talk.answer(head(1, status(103), ends=False), head(1, OK))
    assert (interim.interim, interim.open, interim.correlation_id) == (True, False, 1)
    assert not response.interim


@pytest.mark.parametrize("code", [b"abc", b"2000", b"\xb2"])
def test_a_status_that_is_none_is_refused(code):
    with pytest.raises(ParseError, match="status"):
        Talk().answer(head(1, literal(b":status", code)))


# -- ends before time -----------------------------------------------------------------


def test_client_ends_a_stream():
    talk = Talk()
    (request,) = talk.ask(get(1))
    (response,) = talk.answer(head(1, OK, ends=False))
    assert talk.ask(reset(1, 8)) == [request]
    assert (request.ends, request.reset, request.reset_by_client) == (True, 8, True)
    assert response.open
    assert talk.streams == []


def test_server_ends_a_stream_that_it_has_not_answered():
    talk = Talk()
    (request,) = talk.ask(get(1))
    (response,) = talk.answer(reset(1, 7))
    assert (response.correlation_id, response.ends, response.reset) == (1, True, 7)
    assert (response.open, response.head.status, response.gap) == (False, 0, False)
    assert response is not request


def test_server_ends_a_stream_in_its_answer():
    talk = Talk()
    talk.ask(get(1, ends=False))
    (response,) = talk.answer(head(1, OK, ends=False))
    assert talk.answer(reset(1, 2)) == [response]
    assert (response.ends, response.open, response.reset_by_client) == (True, False, False)


def test_the_end_of_an_unknown_stream_belongs_to_nobody():
    talk = Talk()
    assert talk.ask(reset(1, 8)) == [None]
    assert talk.answer(reset(1, 8)) == [None]
    talk.answer(head(1, OK, ends=False))
    assert talk.ask(reset(1, 8)) == [None]
    assert talk.streams == []


def test_a_response_to_an_unknown_request_is_reset():
    talk = Talk()
    (response,) = talk.answer(head(1, OK, ends=False))
    assert talk.answer(reset(1, 2)) == [response]
    assert (response.ends, response.reset) == (True, 2)


def go_away(last: int, code: int, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + debug)


def test_going_away_ends_what_was_not_processed():
    talk = Talk()
    one, three, five = talk.ask(get(1), get(3), get(5))
    assert talk.answer(go_away(1, 0, b"bye")) == [three, five, None]
    assert [each.ends for each in (one, three, five)] == [False, True, True]
    assert three.reset == 7
    assert talk.streams == [1]
    (seven,) = talk.ask(get(7))
    assert (seven.ends, seven.open, seven.reset) == (True, False, 7)
    assert talk.streams == [1]


def test_going_away_says_why():
    talk = Talk()
    (request,) = talk.ask(get(1))
    assert talk.answer(go_away(0, 11)) == [request, None]
    assert request.reset == 11


def test_going_away_later_ends_nothing_now():
    talk = Talk()
    (one, three) = talk.ask(get(1), get(3))
    assert talk.answer(go_away((1 << 31) - 1, 0)) == [None]
    talk.answer(head(3, OK, ends=False))
    assert talk.answer(go_away(0, 0)) == [one, None]
    assert talk.streams == [3]
    assert not three.ends


def test_going_away_with_more_requests_than_bytes():
    talk = Talk()
    asked = talk.ask(*[get(number) for number in range(1, 80, 2)])
    found = talk.answer(go_away(0, 0), head(1, OK))
    assert found[:16] == asked[:16]
    assert all(each.ends for each in asked)


def test_a_client_that_goes_away_ends_nothing():
    talk = Talk()
    (request,) = talk.ask(get(1))
    assert talk.ask(go_away(0, 0)) == [None]
    assert not request.ends


# -- losses ---------------------------------------------------------------------------


def test_a_response_that_was_not_seen_to_begin_has_a_gap():
    talk = Talk()
    talk.ask(get(1))
    found = talk.answer(data(1, b"abc", ends=False), data(1), resumed=True)
    assert found[0] is None
    response = found[1]
    assert (response.gap, response.head.status, response.open) == (True, 0, False)
    assert talk.streams == []


def test_trailers_whose_head_was_lost():
    talk = Talk()
    talk.ask(head(1, CALL))
    (response,) = talk.answer(head(1, literal(b"grpc-status", b"5")), resumed=True)
    assert (response.gap, response.grpc_status, response.open) == (True, "5", False)


def test_an_unknown_status_may_be_an_interim_one():
    talk = Talk()
    talk.ask(get(1))
    (response,) = talk.answer(head(1, indexed(62), ends=False), resumed=True)
    assert (response.head.status, response.gap) == (0, True)
    assert talk.answer(head(1, OK)) == [response]
    assert response.head.status == 200


def test_trailers_that_may_hold_the_status_of_a_call():
    talk = Talk()
    talk.ask(head(1, CALL), get(3))
    talk.answer(head(1, ANSWER, ends=False), head(3, OK, ends=False))
    (call,) = talk.answer(head(1, indexed(62)), resumed=True)
    (response,) = talk.answer(head(3, indexed(62)))
    assert (call.gap, response.gap) == (True, False)


def test_a_request_with_unknown_fields_has_a_gap():
    talk = Talk()
    whole, partly = talk.ask(get(1), head(3, GET + indexed(62)))
    assert (whole.gap, partly.gap, partly.head.partial) == (False, True, True)


def test_a_request_with_an_unknown_method_is_none():
    talk = Talk()
    assert talk.ask(head(1, indexed(62) + HTTP), resumed=True) == [None]
    assert talk.streams == []


def test_the_oldest_streams_are_forgotten():
    talk = Talk()
    for number in range(MAX_STREAMS + 10):
        talk.ask(get(2 * number + 1))
    assert len(talk.streams) == MAX_STREAMS
    assert talk.streams[0] == 21


# -- gRPC -----------------------------------------------------------------------------


def message(size: int) -> bytes:
    return b"\0" + size.to_bytes(4, "big") + b"x" * size


def test_messages_of_a_call_are_counted():
    talk = Talk()
    request, *rest = talk.ask(head(1, CALL, ends=False), data(1, message(3) + message(0)))
    assert isinstance(request, GrpcRequest)
    assert all(each is request for each in rest)
    assert (request.count, request.open) == (2, False)
    (response,) = talk.answer(head(1, ANSWER + literal(b"grpc-status", b"0")))
    assert (response.count, response.grpc_status) == (0, "0")


def test_a_call_answered_with_a_page_has_no_messages():
    talk = Talk()
    talk.ask(head(1, CALL))
    response, _ = talk.answer(head(1, status(404), ends=False), data(1, b"<html>"))
    assert response.count == -1


def test_empty_frames_of_a_call():
    talk = Talk()
    request, *_ = talk.ask(head(1, CALL, ends=False), data(1, b"", ends=False), data(1, b""))
    assert (request.count, request.open) == (0, False)


def test_padding_is_no_part_of_a_message():
    talk = Talk()
    padded = frame(0, 8, 1, b"\4" + message(2)[:3] + bytes(4))
    alone = frame(0, 8, 1, b"\2" + bytes(2))
    last = frame(0, 9, 1, b"\1" + message(2)[3:] + message(7) + bytes(1))
    request, *rest = talk.ask(head(1, CALL, ends=False), padded, alone, last)
    assert all(each is request for each in rest)
    assert (request.count, request.open) == (2, False)


def test_a_frame_of_a_call_shorter_than_its_padding():
    talk = Talk()
    talk.ask(head(1, CALL, ends=False))
    with pytest.raises(ParseError, match="padding"):
        talk.ask(frame(0, 8, 1, b"\3ab"))


def test_a_call_that_ends_inside_a_frame():
    talk = Talk()
    whole = data(1, message(9) + message(3), ends=False)
    (request, same) = talk.ask(head(1, CALL, ends=False), whole[:-9])
    assert same is request
    talk.answer(head(1, ANSWER, ends=False), reset(1, 2))
    assert talk.streams == []
    # What is left of the frame: some of a message was skipped already.
    assert talk.ask(whole[-8:], get(3))[0] is None
    assert talk.streams == [3]


def test_after_a_loss_messages_are_not_counted():
    talk = Talk()
    request, _ = talk.ask(head(1, CALL, ends=False), data(1, message(3), ends=False))
    assert talk.ask(data(1, message(3)), resumed=True)[-1] is request
    assert (request.count, request.open) == (-1, False)


def test_fields_of_a_block_in_several_frames():
    talk = Talk()
    whole = get(1)[9:]
    found = talk.ask(
        frame(HEADERS, 1, 1, whole[:3]), frame(9, 0, 1, b""), frame(9, 4, 1, whole[3:])
    )
    assert len(found) == 1
    assert found[0].head.target == "/"


UNKNOWN = indexed(70)
LATE = POST + HTTP + literal(b":path", b"/pkg.Service/Method")


@pytest.mark.parametrize(
    ("asked", "answered", "is_call"),
    [
        (LATE + UNKNOWN, ANSWER, True),
        (LATE + UNKNOWN, OK + literal(b"grpc-status", b"5"), True),
        (LATE + UNKNOWN, OK, False),
        (LATE, ANSWER, False),
        (GET + UNKNOWN, ANSWER, False),
        (LATE + UNKNOWN + literal(b"content-type", b"text/plain"), ANSWER, False),
    ],
)
def test_a_response_tells_that_a_call_was_one_of_grpc(asked, answered, is_call):
    talk = Talk()
    (request,) = talk.ask(head(1, asked))
    talk.answer(head(1, answered))
    assert isinstance(request, GrpcRequest) is is_call
    assert request.count == -1


def test_where_only_the_trailers_tell_nobody_has_counted():
    talk = Talk()
    (request,) = talk.ask(head(1, LATE + UNKNOWN))
    (response,) = talk.answer(head(1, OK + UNKNOWN, ends=False))
    talk.answer(head(1, literal(b"grpc-status", b"5")))
    assert isinstance(request, GrpcRequest)
    assert (response.count, response.grpc_status) == (-1, "5")
