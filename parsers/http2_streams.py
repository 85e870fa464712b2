# SPDX-License-Identifier: Apache-2.0
"""Streams of HTTP/2: which messages are under way, and how they begin and end.

Spec: RFC 9113 sections 5.1, 6.4, 6.8, 8.1.

A stream is an exchange. It is kept while one of its messages is open or, where a response has
yet to come, since its request began.
"""

from __future__ import annotations

from typing import Final

from parsers.grpc_messages import MessageCounter
from parsers.grpc_web import WebBody, open_body
from parsers.http2_fields import Block
from parsers.http2_frames import REFUSED_STREAM, STREAM_MASK
from parsers.http2_messages import (
    NO_HEAD,
    GrpcRequest,
    Http2Request,
    Http2Response,
    read_request,
    read_response,
)
from parsers.model import Kind, Message, ParseError

MAX_STREAMS: Final = 4096
"""Kept of one connection; servers allow 100 to 1000 at once. The oldest is forgotten first."""
CONTINUE: Final = 100
OK: Final = 200
REQUEST: Final = Kind.REQUEST


class Stream:
    """What is known of a stream while one of its messages is open."""

    __slots__ = ("counters", "request", "response")

    def __init__(self) -> None:
        self.request: Http2Request | None = None
        self.response: Http2Response | None = None
        self.counters: list[MessageCounter | None] = [None, None]
        """Of gRPC messages, by kind."""

    def message(self, kind: Kind) -> Http2Request | Http2Response | None:
        """The request or the response, once it has begun."""
        return self.request if kind is REQUEST else self.response


class Streams(dict[int, Stream]):
    """The streams of one connection, by number."""

    __slots__ = ("last_processed",)

    def __init__(self) -> None:
        super().__init__()
        self.last_processed = STREAM_MASK
        """The last stream that the server will process, as GOAWAY has said."""

    def ask(self, block: Block, number: int, *, ends: bool) -> Message | None:
        """A request begins, or ends with trailers."""
        stream = self.get(number)
        if stream is not None and stream.request is not None:
            request = stream.request
            if not request.open:
                return None
            if ends:
                self.close(stream, request, number)
            return request
        if not number & 1:
            raise ParseError(f"request on stream {number}")
        head = read_request(block)
        if head is None:
            return None
        request = GrpcRequest(head) if head.grpc else Http2Request(head)
        request.correlation_id = number
        request.gap = head.partial
        if number > self.last_processed:
            request.reset = REFUSED_STREAM
            request.ends = True
            return request
        if stream is None:
            stream = self._open(number)
        stream.request = request
        request.open = True
        if head.grpc:
            stream.counters = [open_body(head.grpc), None]
            request.count = 0
        if ends:
            self.close(stream, request, number)
        return request

    def answer(self, block: Block, number: int, *, ends: bool) -> Message | None:
        """A response begins, or ends with trailers."""
        if not number & 1:
            return None
        head = read_response(block)
        stream = self.get(number)
        response = None if stream is None else stream.response
        if response is None:
            response = Http2Response(head)
            response.correlation_id = number
            response.gap = not head.status
            response.grpc_status = head.grpc_status
            if CONTINUE <= head.status < OK and not ends:
                response.interim = True
                return response
            if stream is None:
                stream = self._open(number)
            stream.response = response
            response.open = True
            if head.grpc:
                stream.counters[1] = open_body(head.grpc)
                response.count = 0
        elif not response.open:
            return None
        elif head.status:
            # What has begun with an unknown status was an interim response.
            response.head = head
        assert stream is not None
        if head.grpc or head.grpc_status:
            _recognise(stream)
        if head.grpc_status:
            response.grpc_status = head.grpc_status
        elif block.partial and isinstance(stream.request, GrpcRequest):
            response.gap = True
        if ends:
            self.close(stream, response, number)
        return response

    def _open(self, number: int) -> Stream:
        streams = self
        if len(streams) >= MAX_STREAMS:
            del streams[next(iter(streams))]
        streams[number] = stream = Stream()
        return stream

    def close(self, stream: Stream, message: Message, number: int) -> None:
        """`message` is whole; forget its stream if the other one is, too."""
        message.open = False
        body = stream.counters[message.kind]
        if isinstance(body, WebBody):
            message.gap = message.gap or body.missed
            if isinstance(message, Http2Response):
                message.grpc_status = message.grpc_status or body.status
        request, response = stream.request, stream.response
        if response is not None and not response.open and (request is None or not request.open):
            del self[number]

    def reset(self, kind: Kind, number: int, code: int) -> Message | None:
        """One side has ended a stream."""
        stream = self.pop(number, None)
        if stream is None:
            return None
        message = stream.message(kind)
        if message is None:
            if kind is REQUEST:
                return None
            message = Http2Response(NO_HEAD)
            message.correlation_id = number
        message.reset = code
        message.reset_by_client = kind is REQUEST
        message.ends = True
        message.open = False
        return message

    def unseen(self, stream: Stream, number: int) -> Message | None:
        """The response on `stream` ends, and how it began was lost."""
        if stream.request is None or stream.response is not None:
            return None
        response = stream.response = Http2Response(NO_HEAD)
        response.correlation_id = number
        response.gap = True
        self.close(stream, response, number)
        return response

    def go_away(self, last: int, code: int) -> list[Message]:
        """The server has not processed, nor will it, what came after the stream `last`."""
        self.last_processed = last
        ended: list[Message] = []
        for number, stream in list(self.items()):
            request = stream.request
            if number <= last or request is None or stream.response is not None:
                continue
            del self[number]
            request.reset = code or REFUSED_STREAM
            request.ends = True
            request.open = False
            ended.append(request)
        return ended

    def lose(self, kind: Kind) -> None:
        """Bytes of one direction were lost: nobody knows where its gRPC messages begin."""
        for stream in self.values():
            counter = stream.counters[kind]
            message = stream.message(kind)
            if counter is not None and message is not None and message.open:
                counter.lose()
                message.count = counter.count


def _recognise(stream: Stream) -> None:
    """A response says that a call was one of gRPC where its request's content type is unknown."""
    request = stream.request
    if request is None or isinstance(request, GrpcRequest) or not request.head.partial:
        return
    if request.head.method != "POST" or "content-type" in request.head.fields:
        return
    # Others hold this message already: it cannot be replaced by another. Nobody has counted.
    request.__class__ = GrpcRequest
