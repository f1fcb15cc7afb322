"""Calls over HTTP/2 against another implementation of it: right answers however bytes and windows fall."""

import random
import zlib
from urllib.parse import unquote

import hpack
import pytest
from h2_kit import HEADERS, PATH, Client, Server, framed
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.serve.h2 import frames, heads
from whet.serve.h2.connection import MAX_STREAMS

MESSAGES = st.one_of(st.binary(max_size=60), st.integers(0, 200_000).map(lambda size: bytes(size // 7) + b"\x01" * 99))
INVALID, DEADLINE, EXHAUSTED, UNIMPLEMENTED = 3, 4, 8, 12


@given(st.lists(MESSAGES, min_size=1, max_size=4), st.lists(st.integers(0, 1 << 20), max_size=12))
@settings(max_examples=60, deadline=None)
def test_every_call_gets_its_own_answer_however_the_bytes_are_split(messages, cuts):
    client = Client(Server())
    for message in messages:
        assert client.answer(client.call(message, cuts=cuts)) == message


@given(
    st.lists(MESSAGES, min_size=2, max_size=5),
    st.integers(1, 70_000),
    st.integers(1 << 14, 1 << 17),
    st.integers(0, 1 << 30),
)
@settings(max_examples=60, deadline=None)
def test_answers_in_any_order_pass_through_any_windows(messages, window, frame, seed):
    server = Server(hold=True)
    client = Client(server, {"INITIAL_WINDOW_SIZE": window, "MAX_FRAME_SIZE": frame})
    numbers = [client.call(message) for message in messages]
    calls = list(server.calls)
    assert [bytes(call.message) for call in calls] == messages
    random.Random(seed).shuffle(calls)
    for call in calls:
        message = bytes(call.message)
        half = len(message) // 2
        call.respond([message[:half], memoryview(message)[half:]])
    client.turn()
    assert [client.answer(number) for number in numbers] == messages


def test_calls_that_arrive_interleaved_are_kept_apart():
    server = Server()
    client = Client(server)
    first = client.call(b"a" * 50_000, end=False)
    second = client.call(b"b" * 10)
    assert client.answer(second) == b"b" * 10
    client.h2.end_stream(first)  # an empty frame of data ends the call
    client.turn()
    assert client.answer(first) == b"a" * 50_000


def test_padding_priorities_trailers_and_unknown_frames_change_nothing():
    client = Client(Server())
    number = client.h2.get_next_available_stream_id()
    client.h2.send_headers(number, HEADERS, priority_weight=16, priority_depends_on=0, priority_exclusive=False)
    message = framed(b"hello")
    client.h2.send_data(number, message[:3], pad_length=200)
    client.h2.send_data(number, message[3:], pad_length=0)
    client.h2.prioritize(number, weight=20)
    client.turn()
    client.server.feed(b"\0\0\x03\xee\0\0\0\0\0abc")  # a type of frame nobody knows
    client.h2.send_headers(number, [("x-checksum", "1")], end_stream=True)
    client.turn()
    assert client.answer(number) == b"hello"


def test_long_headers_come_in_several_frames():
    client = Client(Server(header_bytes=64 << 10))
    # h2 splits blocks past the largest frame into CONTINUATION frames; hpack's Huffman code shortens by a fourth
    number = client.call(b"x", more=[("x-long", "~" * 30_000)])
    assert client.answer(number) == b"x"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_messages_are_read(coding):
    client = Client(Server())
    wrap = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    body = wrap.compress(b"z" * 9000) + wrap.flush()
    number = client.call(body, compressed=1, more=[("grpc-encoding", coding)])
    assert client.answer(number) == b"z" * 9000


REFUSALS = {
    "a message past the bound": ({"message": bytes(1 << 21)}, INVALID, "past the bound"),
    "a bomb": (
        {"message": zlib.compress(bytes(1 << 22)), "compressed": 1, "more": [("grpc-encoding", "deflate")]},
        INVALID,
        "inflates past",
    ),
    "damaged compression": (
        {"message": b"no", "compressed": 1, "more": [("grpc-encoding", "gzip")]},
        INVALID,
        "no gzip",
    ),
    "compression without a name": ({"message": b"no", "compressed": 1}, UNIMPLEMENTED, "identity"),
    "a coding nobody knows": (
        {"message": b"no", "compressed": 1, "more": [("grpc-encoding", "snappy")]},
        UNIMPLEMENTED,
        "snappy",
    ),
    "a timeout that is none": ({"message": b"x", "more": [("grpc-timeout", "soon")]}, INVALID, "grpc-timeout"),
    "a timeout of too many digits": (
        {"message": b"x", "more": [("grpc-timeout", "123456789S")]},
        INVALID,
        "grpc-timeout",
    ),
}


@pytest.mark.parametrize(("call", "status", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_answered_is_refused_and_the_connection_lives_on(call, status, words):
    client = Client(Server())
    number = client.call(**call)
    got, message = client.status(number)
    assert (got, words in unquote(message)) == (status, True), message
    assert client.answer(client.call(b"next")) == b"next"
    assert client.server.calls[-1].head.path == PATH.encode()


def test_a_second_message_and_a_missing_one_are_refused():
    client = Client(Server())
    number = client.h2.get_next_available_stream_id()
    client.h2.send_headers(number, HEADERS)
    client.send(number, framed(b"one") + framed(b"two"))
    assert client.status(number)[0] == INVALID
    for cut in (b"", framed(b"three")[:2], framed(b"three")[:7]):
        number = client.h2.get_next_available_stream_id()
        client.h2.send_headers(number, HEADERS)
        client.h2.send_data(number, cut, end_stream=True)
        client.turn()
        assert client.status(number)[0] == INVALID
    assert client.server.calls == []
    assert client.answer(client.call(b"x")) == b"x"


def test_what_is_no_grpc_is_told_so_in_http():
    client = Client(Server())
    for change, status in (({":method": "GET"}, "405"), ({"content-type": "text/html"}, "415")):
        number = client.h2.get_next_available_stream_id()
        client.h2.send_headers(number, [(name, change.get(name, value)) for name, value in HEADERS], end_stream=True)
        client.turn()
        assert client.trailers[number][":status"] == status
        assert number in client.ended


def test_a_failure_before_the_question_is_whole_stops_the_question():
    client = Client(Server())
    number = client.h2.get_next_available_stream_id()
    client.h2.send_headers(number, HEADERS)
    client.h2.send_data(number, framed(bytes(1 << 21))[:1000])
    client.turn()
    assert client.status(number)[0] == INVALID
    assert client.resets[number] == 0


def test_more_messages_on_their_way_than_memory_is_for_are_refused():
    client = Client(Server(body_bytes=1 << 20))
    numbers = []
    for _ in range(5):
        number = client.h2.get_next_available_stream_id()
        client.h2.send_headers(number, HEADERS)
        client.h2.send_data(number, framed(bytes(1 << 20))[:6])
        numbers.append(number)
    client.turn()
    assert client.status(numbers[4])[0] == EXHAUSTED
    client.h2.reset_stream(numbers[0])
    client.turn()
    assert client.answer(client.call(bytes(1 << 19))) == bytes(1 << 19)


def test_more_calls_at_once_than_allowed_are_turned_away_unlooked_at():
    server = Server(hold=True)
    client = Client(server)
    for _ in range(MAX_STREAMS):
        client.call(b"x", end=False)
    number = client.h2.highest_outbound_stream_id + 2  # a client who does not listen
    block = hpack.Encoder().encode(HEADERS)
    server.feed(frames.frame(frames.Kind.HEADERS, frames.END_HEADERS, number, block))
    assert server.take() == frames.reset(number, frames.Code.REFUSED_STREAM)
    assert not server.wire.closed


def test_whoever_leaves_is_told_of():
    server, left = Server(hold=True), []
    client = Client(server)
    numbers = [client.call(b"x") for _ in range(3)]
    for number, call in zip(numbers, server.calls, strict=True):
        call.left = lambda number=number: left.append(number)
    client.h2.reset_stream(numbers[1])
    client.turn()
    assert left == [numbers[1]]
    server.calls[1].respond([b"nobody listens"])
    server.connection.connection_lost(None)
    assert left == [numbers[1], numbers[0], numbers[2]]
    server.calls[0].respond([b"nobody listens"])
    server.calls[2].fail("INTERNAL", "nobody listens")
    assert not server.connections
    assert numbers[1] not in client.bodies


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(["a", "b", "grpc-timeout", "x-y"]), st.sampled_from(["1m", "2S", "z" * 90]))
        ),
        max_size=30,
    ),
    st.lists(st.booleans(), min_size=30, max_size=30),
    st.lists(st.sampled_from([0, 200, 4096]), min_size=30, max_size=30),
)
def test_remembered_blocks_say_what_they_said(lists, sensitive, sizes):
    encoder, reader = hpack.Encoder(), heads.HeadReader(1 << 16)
    for fields, secret, size in zip(lists, sensitive, sizes, strict=False):
        if encoder.header_table_size != size:
            encoder.header_table_size = size
        kind = hpack.NeverIndexedHeaderTuple if secret else hpack.HeaderTuple
        block = encoder.encode([(":method", "POST"), *(kind(*field) for field in fields)])
        found, said = reader.read(block), dict(fields)
        assert found.method == b"POST"
        wanted = {"1m": 0.001, "2S": 2.0}.get(said.get("grpc-timeout", ""))
        assert found.timeout_s == wanted
        assert bool(found.wrong) == ("grpc-timeout" in said and wanted is None)


@given(st.integers(0, 1 << 20), st.text(max_size=300))
def test_blocks_of_answers_are_read_by_others(status, text):
    block = heads.failure(status, text, (("retry", "5"),))
    said = dict(hpack.Decoder(max_header_list_size=1 << 20).decode(block))
    assert (said[":status"], said["grpc-status"], said["retry"]) == ("200", str(status), "5")
    assert unquote(said["grpc-message"]) == text
    assert said["grpc-message"].isascii()
    assert said["grpc-message"].isprintable()
