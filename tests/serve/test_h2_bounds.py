"""What a hostile or broken client may do to a connection: bounded, told in the protocol's words, never a traceback."""

import struct

import hpack
import pytest
from h2_kit import HEADERS, Client, Server, framed
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.serve.connection import LINGER_S
from whet.serve.h2 import frames
from whet.serve.h2.control import IDLE_FRAMES, RESETS
from whet.serve.h2.frames import ACK, END_HEADERS, END_STREAM, PADDED, Kind, frame

NO_ERROR, PROTOCOL, FLOW, SIZE, COMPRESSION, CALM = 0, 1, 3, 6, 9, 11
DEADLINE = 4
HELLO = frames.PREFACE + frame(Kind.SETTINGS, 0, 0)
OPEN = b"\x83\x86\x84"  # POST, http, /
BLOCK = hpack.Encoder().encode(HEADERS)


def goaways(data):
    """Return (code, last stream) of each GOAWAY among frames."""
    found, position = [], 0
    while position < len(data):
        high, low, kind, _, _ = frames.FRAME_HEAD.unpack_from(data, position)
        length = high << 8 | low
        if kind == Kind.GOAWAY:
            last, code = struct.unpack_from(">II", data, position + 9)
            found.append((code, last))
        position += 9 + length
    return found


def settings_frame(name, value):
    return frame(Kind.SETTINGS, 0, 0, struct.pack(">HI", name, value))


BROKEN = {
    "no HTTP/2": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", PROTOCOL),
    "data for stream 0": (HELLO + frame(Kind.DATA, 0, 0, b"x"), PROTOCOL),
    "data for a stream never opened": (HELLO + frame(Kind.DATA, 0, 7, b"x"), PROTOCOL),
    "headers for stream 0": (HELLO + frame(Kind.HEADERS, END_HEADERS, 0, OPEN), PROTOCOL),
    "headers for a server's stream": (HELLO + frame(Kind.HEADERS, END_HEADERS, 2, OPEN), PROTOCOL),
    "a block interrupted by a ping": (
        HELLO + frame(Kind.HEADERS, 0, 1, OPEN) + frame(Kind.PING, 0, 0, bytes(8)),
        PROTOCOL,
    ),
    "a block interrupted by data": (HELLO + frame(Kind.HEADERS, 0, 1, OPEN) + frame(Kind.DATA, 0, 1, b"x"), PROTOCOL),
    "a block that goes on for another stream": (
        HELLO + frame(Kind.HEADERS, 0, 1, OPEN) + frame(Kind.CONTINUATION, 0, 3, OPEN),
        PROTOCOL,
    ),
    "a block that never began": (HELLO + frame(Kind.CONTINUATION, END_HEADERS, 1, OPEN), PROTOCOL),
    "a block that is no HPACK": (HELLO + frame(Kind.HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"), COMPRESSION),
    "a block of an index nobody gave": (HELLO + frame(Kind.HEADERS, END_HEADERS, 1, b"\xfe"), COMPRESSION),
    "padding longer than the frame": (HELLO + frame(Kind.HEADERS, END_HEADERS | PADDED, 1, b"\x09" + OPEN), PROTOCOL),
    "data shorter than its padding": (
        HELLO + frame(Kind.HEADERS, END_HEADERS, 1, OPEN) + frame(Kind.DATA, PADDED, 1, b"\x09x"),
        PROTOCOL,
    ),
    "a push": (HELLO + frame(Kind.PUSH_PROMISE, END_HEADERS, 1, OPEN), PROTOCOL),
    "settings cut off": (HELLO + frame(Kind.SETTINGS, 0, 0, b"abc"), SIZE),
    "settings of a stream": (HELLO + frame(Kind.SETTINGS, 0, 1), PROTOCOL),
    "an acknowledgement that says more": (HELLO + frame(Kind.SETTINGS, ACK, 0, bytes(6)), PROTOCOL),
    "a window past the bound": (HELLO + settings_frame(4, 1 << 31), FLOW),
    "frames below the smallest": (HELLO + settings_frame(5, 100), PROTOCOL),
    "a window widened by nothing": (HELLO + frame(Kind.WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL),
    "a window widened without end": (HELLO + 2 * frame(Kind.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), FLOW),
    "a ping of another size": (HELLO + frame(Kind.PING, 0, 0, b"x"), PROTOCOL),
    "a reset of stream 0": (HELLO + frame(Kind.RST_STREAM, 0, 0, bytes(4)), PROTOCOL),
    "a reset of another size": (HELLO + frame(Kind.RST_STREAM, 0, 1, b"x"), SIZE),
    "a control frame past the bound": (HELLO + frame(Kind.HEADERS, END_HEADERS, 1, bytes(20_000)), CALM),
    "a data frame past the bound": (HELLO + frames.head(Kind.DATA, 0, 1, 1 << 21), SIZE),
    "a block without end": (
        HELLO + frame(Kind.HEADERS, 0, 1, OPEN) + 8 * frame(Kind.CONTINUATION, 0, 1, bytes(2000)),
        CALM,
    ),
    "a flood of pings": (HELLO + (IDLE_FRAMES + 1) * frame(Kind.PING, 0, 0, bytes(8)), CALM),
    "a flood of settings": (HELLO + (IDLE_FRAMES + 1) * frame(Kind.SETTINGS, 0, 0), CALM),
    "a flood of priorities": (HELLO + (IDLE_FRAMES + 1) * frame(Kind.PRIORITY, 0, 1, bytes(5)), CALM),
}


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_protocol_ends_the_connection_by_its_code(data, code):
    server = Server()
    server.feed(data)
    assert [found for found, _ in goaways(server.take())] == [code]
    assert server.wire.closed
    server.feed(HELLO)  # whatever still comes is not looked at
    assert server.take() == b""
    assert server.calls == []


def test_calls_given_up_again_and_again_end_the_connection():
    server = Server(hold=True)
    client = Client(server)
    for _ in range(RESETS + 1):
        number = client.h2.get_next_available_stream_id()
        client.h2.send_headers(number, HEADERS)
        client.h2.reset_stream(number)
    server.feed(client.h2.data_to_send())
    assert [code for code, _ in goaways(server.take())] == [CALM]
    assert server.wire.closed


def test_giving_up_now_and_then_is_everybodys_right():
    server = Server()
    client = Client(server)
    for _ in range(3):
        for _ in range(RESETS // 2):
            number = client.h2.get_next_available_stream_id()
            client.h2.send_headers(number, HEADERS)
            client.h2.reset_stream(number)
        assert client.answer(client.call(b"x")) == b"x"
    assert client.goaways == []


def test_a_stream_past_its_window_ends_the_connection():
    server = Server(body_bytes=1 << 20)
    server.feed(HELLO + frame(Kind.HEADERS, END_HEADERS, 1, OPEN))
    server.take()
    server.feed(frame(Kind.HEADERS, END_HEADERS, 3, OPEN))
    for _ in range(80):  # the connection's window is 64 MB and nobody is told that it was read by a stream that is over
        server.feed(frame(Kind.DATA, 0, 3, bytes(1 << 20)))
    assert goaways(server.take()) == []  # stream 3 was refused as no gRPC: what it sends leads nowhere


def test_headers_past_the_bound_end_the_connection():
    server = Server(header_bytes=1000)
    block = hpack.Encoder().encode([*HEADERS, *((f"x-{index}", "y" * 40) for index in range(30))])
    assert len(block) < 1000 + 500  # it is the list that is too long, and what it takes in the table
    server.feed(HELLO + frame(Kind.HEADERS, END_HEADERS, 1, block))
    assert [code for code, _ in goaways(server.take())] == [CALM]


def test_more_connections_than_allowed_are_told_so():
    server = Server(connections=0)
    assert [code for code, _ in goaways(server.take())] == [CALM]
    assert server.wire.closed


def test_a_client_who_never_greets_is_closed():
    server = Server(header_s=5)
    server.feed(frames.PREFACE[:10])
    assert server.connection.deadline == server.loop.now + 5
    server.loop.now += 6
    server.connection.expire()
    assert server.wire.aborted


def test_a_message_that_dribbles_is_given_up_and_one_that_flows_is_not():
    server = Server(body_s=10, body_bytes=8 << 20)
    client = Client(server)
    slow = client.call(b"x" * 100, end=False)
    number = client.h2.get_next_available_stream_id()
    client.h2.send_headers(number, HEADERS)
    client.send(number, framed(bytes(6 << 20))[: 5 << 20], end=False)
    server.loop.now += 11
    assert server.connection.deadline < server.loop.now
    server.connection.expire()
    client.turn()
    assert client.status(slow)[0] == DEADLINE
    assert number not in client.ended  # 5 MB in 11 s is fast enough
    assert server.connection.deadline > server.loop.now
    client.send(number, framed(bytes(6 << 20))[5 << 20 :])
    assert client.answer(number) == bytes(6 << 20)


def test_an_answer_nobody_reads_is_given_up():
    server = Server(body_s=10)
    server.feed(HELLO + settings_frame(4, 100))  # a client whose window is 100 bytes, and stays so
    server.feed(frame(Kind.HEADERS, END_HEADERS, 1, BLOCK) + frame(Kind.DATA, END_STREAM, 1, framed(bytes(5000))))
    assert len(server.take()) < 2000
    server.loop.now += 11
    server.connection.expire()
    assert frames.reset(1, frames.Code.CANCEL) in server.take()
    server.connection.pause_writing()
    assert server.wire.paused
    server.loop.now += 11
    server.connection.expire()
    assert server.wire.aborted


def test_a_long_answer_read_in_small_steps_is_no_flood():
    server = Server(body_bytes=64 << 10)
    client = Client(server, {"INITIAL_WINDOW_SIZE": 1 << 10})
    server.hold = True
    number = client.call(b"x")
    server.calls[0].respond([bytes(2 * IDLE_FRAMES << 9)])  # 10 MB, a window of 1 KB at a time
    client.turn()
    assert len(client.answer(number)) == 2 * IDLE_FRAMES << 9


def test_a_client_who_reads_late_is_waited_for():
    server = Server()
    server.connection.pause_writing()
    server.connection.resume_writing()
    assert not server.wire.paused
    server.loop.now += 1000
    client = Client(server)
    assert client.answer(client.call(b"x")) == b"x"


PONG = frame(Kind.PING, ACK, 0, b"parting ")


def test_a_connection_winds_down_without_losing_a_call():
    server = Server(hold=True)
    server.feed(HELLO + frame(Kind.HEADERS, END_HEADERS, 1, BLOCK) + frame(Kind.DATA, END_STREAM, 1, framed(b"first")))
    server.connection.wind_down()
    server.connection.wind_down()
    server.feed(PONG)  # the client has heard
    assert goaways(server.take()) == [(NO_ERROR, frames.MOST_ID), (NO_ERROR, 1)]
    assert not server.wire.closed
    server.calls[0].respond([b"done"])
    assert framed(b"done") in server.take()
    assert server.wire.closed


def test_calls_after_the_end_was_heard_are_left_for_another_connection():
    server = Server(hold=True)
    server.feed(HELLO + frame(Kind.HEADERS, END_HEADERS, 1, BLOCK))
    server.connection.wind_down()
    server.feed(frame(Kind.HEADERS, END_HEADERS, 3, BLOCK))  # it had not heard
    server.loop.now += LINGER_S + 1
    server.connection.expire()
    server.feed(frame(Kind.HEADERS, END_HEADERS, 5, BLOCK))
    said = server.take()
    assert goaways(said) == [(NO_ERROR, frames.MOST_ID), (NO_ERROR, 3)]
    assert frames.reset(5, frames.Code.REFUSED_STREAM) in said
    server.feed(frame(Kind.DATA, END_STREAM, 3, framed(b"x")))
    assert [call.id for call in server.calls] == [3]


def test_a_connection_of_a_certain_age_is_asked_to_reconnect():
    server = Server(age_s=50)
    client = Client(server)
    assert client.answer(client.call(b"x")) == b"x"
    server.loop.now += 49
    server.connection.expire()
    assert server.take() == b""
    assert server.connection.deadline == server.loop.now + 1
    server.loop.now += 2
    server.connection.expire()
    server.feed(PONG)
    assert goaways(server.take()) == [(NO_ERROR, frames.MOST_ID), (NO_ERROR, 1)]
    assert server.wire.closed


def test_a_draining_server_greets_and_says_good_bye():
    server = Server(draining=True)
    server.feed(HELLO + PONG)
    assert goaways(server.take()) == [(NO_ERROR, frames.MOST_ID), (NO_ERROR, 0)]
    assert server.wire.closed


@given(st.binary(max_size=300), st.integers(0, 9), st.integers(0, 255), st.integers(0, 5), st.data())
@settings(max_examples=400, deadline=None)
def test_no_bytes_raise(payload, kind, flags, number, data):
    server = Server(header_bytes=2000)
    opened = HELLO + frame(Kind.HEADERS, END_HEADERS, 1, BLOCK)
    stream = opened + frame(kind, flags, number, payload) + payload + frame(Kind.PING, 0, 0, bytes(8))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    server.feed(stream, cuts)
    whole = Server(header_bytes=2000)
    whole.feed(stream)
    assert server.take() == whole.take()  # how bytes are split changes nothing
    assert server.wire.closed == whole.wire.closed
