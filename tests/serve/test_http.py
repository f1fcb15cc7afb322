"""The HTTP server over real sockets, with an echoing handler: framing, order, bounds, timeouts, leaving, draining."""

import asyncio
import contextlib
import gzip
import socket
import time
import zlib

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import TensorError, TooLarge, WhetError
from whet.serve.bodies import Chunked, inflate
from whet.serve.exchange import Limits
from whet.serve.http import HttpServer

SMALL = Limits(body_bytes=100_000, header_bytes=2048, connections=8, header_s=0.4, body_s=0.4, idle_s=0.6)


class Echo:
    """Answers with the body; ``/slow`` waits to be released, ``/twice`` sends the body two times."""

    def __init__(self):
        self.held = []
        self.left = []

    def __call__(self, exchange):
        if exchange.target == b"/slow":
            self.held.append(exchange)
            exchange.left = lambda: self.left.append(exchange)
        elif exchange.target.startswith(b"/many"):
            exchange.respond(200, [exchange.body] * int(exchange.target[5:]), b"application/octet-stream")
        else:
            exchange.respond(200, [exchange.body], b"text/plain", b"X-Method: %b\r\n" % exchange.method)


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it never came true")


class Client:
    """A raw socket that reads whole answers."""

    def __init__(self, address):
        self.address = address

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(*self.address, limit=1 << 26)
        return self

    async def __aexit__(self, *_):
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def send(self, data):
        self.writer.write(data)

    async def answer(self, *, head=False):
        """Return (status, headers, body)."""
        text = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        first, *lines = text.decode().split("\r\n")[:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if first.split()[1] == "100":
            return 100, headers, b""
        body = b"" if head else await self.reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, body

    async def closed(self):
        with contextlib.suppress(ConnectionResetError):
            return await asyncio.wait_for(self.reader.read(), 5) == b""
        return True


def serve(story, limits=SMALL, *, loop_factory=uvloop.new_event_loop):
    """Run ``story(server, echo, client)`` against a listening server."""

    async def run():
        loop = asyncio.get_running_loop()
        echo = Echo()
        server = HttpServer(echo, limits, loop)
        listener = await loop.create_server(server.protocol, "127.0.0.1", 0)
        address = listener.sockets[0].getsockname()
        try:
            await asyncio.wait_for(story(server, echo, lambda: Client(address)), 20)
        finally:
            listener.close()
            await server.drain(0.01)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())


def post(body, *extra, target="/", length=None):
    length = len(body) if length is None else length
    lines = [f"POST {target} HTTP/1.1", "Host: x", f"Content-Length: {length}", *extra, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
@pytest.mark.parametrize("size", [0, 1, 10_000, 16_384, 99_000])
def test_a_body_comes_back_whole_on_a_connection_that_stays_open(size, loop_factory):
    async def story(server, echo, client):
        body = bytes(index % 251 for index in range(size))
        async with client() as one:
            for _ in range(3):
                one.send(post(body))
                status, headers, answer = await one.answer()
                assert (status, answer, headers["x-method"]) == (200, body, "POST")
                assert "date" in headers

    serve(story, loop_factory=loop_factory)


def test_a_request_may_arrive_byte_by_byte():
    async def story(server, echo, client):
        async with client() as one:
            for byte in post(b"hello"):
                one.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await one.answer())[2] == b"hello"

    serve(story)


def test_pipelined_requests_are_answered_in_order():
    async def story(server, echo, client):
        async with client() as one:
            one.send(b"".join(post(str(index).encode() * (1 + 40 * index)) for index in range(200)))
            for index in range(200):
                assert (await one.answer())[2] == str(index).encode() * (1 + 40 * index)

    serve(story)


def test_a_slow_answer_holds_back_the_pipelined_ones_behind_it():
    async def story(server, echo, client):
        async with client() as one:
            one.send(post(b"first", target="/slow") + post(b"second"))
            await until(lambda: echo.held)
            await asyncio.sleep(0.05)
            echo.held[0].respond(200, [b"late"])
            assert [(await one.answer())[2], (await one.answer())[2]] == [b"late", b"second"]

    serve(story)


def test_a_client_that_floods_is_no_longer_read_from_and_then_served():
    async def story(server, echo, client):
        async with client() as one:
            one.send(post(b"first", target="/slow"))
            for _ in range(40):
                one.send(post(bytes(90_000)))
            await until(lambda: echo.held)
            await asyncio.sleep(0.1)
            (connection,) = server.connections
            assert len(connection._pending) < 600_000
            echo.held[0].respond(200, [b"late"])
            assert (await one.answer())[2] == b"late"
            for _ in range(40):
                assert len((await one.answer())[2]) == 90_000

    serve(story, Limits())


@pytest.mark.parametrize("size", [0, 5, 70_000])
def test_a_chunked_body_is_put_together(size):
    body = bytes(index % 7 for index in range(size))
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in _parts(body, 7000))
    request = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n"

    async def story(server, echo, client):
        async with client() as one:
            one.send(request + post(b"next"))
            assert (await one.answer())[2] == body
            assert (await one.answer())[2] == b"next"

    serve(story)


def _parts(body, size):
    return [body[start : start + size] for start in range(0, len(body), size)]


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_body_is_inflated(coding, pack):
    async def story(server, echo, client):
        async with client() as one:
            one.send(post(pack(b"z" * 50_000), f"Content-Encoding: {coding}") + post(b"next"))
            assert (await one.answer())[2] == b"z" * 50_000
            assert (await one.answer())[2] == b"next"

    serve(story)


def test_a_client_that_expects_to_be_told_to_go_on_is_told():
    async def story(server, echo, client):
        async with client() as one:
            one.send(post(b"", "Expect: 100-continue", length=5))
            assert (await one.answer())[0] == 100
            one.send(b"hello")
            assert (await one.answer())[2] == b"hello"
            one.send(post(b"", "Expect: 100-continue", length=500_000))
            assert (await one.answer())[0] == 413

    serve(story)


def test_head_has_the_headers_of_get_and_no_body():
    async def story(server, echo, client):
        async with client() as one:
            one.send(b"HEAD /x HTTP/1.1\r\n\r\n" + post(b"abc"))
            assert (await one.answer(head=True))[1]["x-method"] == "HEAD"
            assert (await one.answer())[2] == b"abc"

    serve(story)


@pytest.mark.parametrize(
    "request_", [post(b"a", "Connection: close"), b"GET / HTTP/1.0\r\n\r\n"], ids=["asked to", "HTTP/1.0"]
)
def test_a_connection_closes_when_the_client_wants_it(request_):
    async def story(server, echo, client):
        async with client() as one:
            one.send(request_)
            assert (await one.answer())[1]["connection"] == "close"
            assert await one.closed()

    serve(story)


def test_an_offered_upgrade_is_declined():
    async def story(server, echo, client):
        async with client() as one:
            one.send(post(b"abc", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"))
            assert (await one.answer())[2] == b"abc"

    serve(story)


BOMB = gzip.compress(bytes(1 << 22))
REFUSED = {
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
    "a version of the future": (b"GET / HTTP/9.9\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "a length and chunks": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "a negative length": (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    "a length past any": (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
    "a folded header": (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
    "lines without CR": (b"GET / HTTP/1.1\nA: b\n\n\r\n\r\n", 400),
    "two heads in one": (b"GET / HTTP/1.1\r\nA: b\n\nGET / HTTP/1.1\r\n\r\n", 400),
    "a head past its bound": (b"GET / HTTP/1.1\r\nA: " + b"x" * 5000 + b"\r\n\r\n", 431),
    "a head without end": (b"GET / HTTP/1.1\r\nA: " + b"x" * 5000, 431),
    "a body past its bound": (post(b"", length=100_001), 413),
    "a coding nobody knows": (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "a content coding nobody knows": (post(b"abc", "Content-Encoding: br"), 415),
    "an expectation nobody knows": (post(b"abc", "Expect: a miracle"), 417),
    "damaged gzip": (post(b"abc", "Content-Encoding: gzip"), 400),
    "gzip cut off": (post(BOMB[:-9], "Content-Encoding: gzip"), 413),
    "a gzip bomb": (post(BOMB, "Content-Encoding: gzip"), 413),
    "a chunk size that is none": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\n", 400),
    "a negative chunk": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", 400),
    "a chunk past the bound": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n", 413),
    "a chunk longer than it says": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", 400),
}


@pytest.mark.parametrize(("request_", "status"), REFUSED.values(), ids=REFUSED)
def test_what_breaks_the_rules_is_answered_in_json_and_the_server_goes_on(request_, status):
    async def story(server, echo, client):
        async with client() as one:
            one.send(request_)
            got, headers, body = await one.answer()
            assert got == status
            assert headers["content-type"] == "application/json"
            assert body.startswith(b'{"error":"')
        async with client() as one:
            one.send(post(b"still here"))
            assert (await one.answer())[2] == b"still here"

    serve(story)


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"GET / HT", 408), (post(b"half", length=50), 408), (b"", None)],
    ids=["a head that never ends", "a body that never ends", "nothing"],
)
def test_a_client_that_dawdles_is_let_go(sent, status):
    async def story(server, echo, client):
        async with client() as one:
            one.send(sent)
            if status:
                assert (await one.answer())[0] == status
            assert await one.closed()

    serve(story)


def test_a_head_that_drips_has_no_more_time_than_one_that_stops():
    async def story(server, echo, client):
        async with client() as one:
            began = time.monotonic()
            with contextlib.suppress(OSError):
                for byte in b"GET / HTTP/1.1\r\nX: " + b"y" * 400:
                    one.send(bytes([byte]))
                    await asyncio.sleep(0.02)
                    if one.reader._buffer or one.reader.at_eof():
                        break
            assert time.monotonic() - began < 5
            assert (await one.answer())[0] == 408

    serve(story)


def test_a_client_that_does_not_read_its_answer_is_let_go():
    async def story(server, echo, client):
        sock = socket.create_connection(client().address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(post(bytes(90_000), target="/many500"))
        await until(lambda: server.connections)
        await until(lambda: not server.connections)
        assert not server.connections
        sock.close()

    serve(story)


def test_a_caller_who_leaves_is_told_to_whoever_works_for_him():
    async def story(server, echo, client):
        async with client() as one:
            one.send(post(b"x", target="/slow"))
            await until(lambda: echo.held)
        await until(lambda: echo.left)
        assert echo.left == echo.held
        echo.held[0].respond(200, [b"nobody reads this"])

    serve(story)


def test_connections_past_the_bound_are_refused():
    async def story(server, echo, client):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(8):
                one = await stack.enter_async_context(client())
                one.send(post(b"a"))
                assert (await one.answer())[0] == 200
            async with client() as ninth:
                assert (await ninth.answer())[0] == 503

    serve(story, Limits(connections=8))


def test_draining_answers_what_is_in_flight_and_then_closes():
    async def story(server, echo, client):
        async with client() as busy, client() as idle, client() as late:
            busy.send(post(b"x", target="/slow"))
            late.send(b"POST / HTTP/1.1\r\nContent-Le")
            idle.send(post(b"a"))
            await idle.answer()
            await until(lambda: echo.held)
            draining = asyncio.ensure_future(server.drain(5))
            await asyncio.sleep(0.05)
            late.send(b"ngth: 2\r\n\r\nok")
            status, headers, body = await late.answer()
            assert (status, headers["connection"], body) == (200, "close", b"ok")
            echo.held[0].respond(200, [b"done"])
            status, headers, body = await busy.answer()
            assert (status, headers["connection"], body) == (200, "close", b"done")
            assert await idle.closed()
            assert await draining

    serve(story)


def test_draining_gives_up_after_its_time():
    async def story(server, echo, client):
        async with client() as busy:
            busy.send(post(b"x", target="/slow"))
            await until(lambda: echo.held)
            assert not await server.drain(0.1)

    serve(story)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.binary(max_size=20), st.integers(1, 50))
def test_chunks_give_the_body_back_however_they_are_cut(parts, rest, step):
    wire = b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    chunked = Chunked(10_000)
    left = b""
    for piece in _parts(wire, step):
        left = chunked.feed(piece)
    assert chunked.done
    assert bytes(chunked.body) == b"".join(parts)
    assert left == b""
    again = Chunked(10_000)
    assert again.feed(wire + rest) == rest


@given(st.binary(max_size=200))
def test_any_bytes_as_chunks_raise_only_errors_of_the_tree(data):
    with contextlib.suppress(WhetError):
        Chunked(100).feed(data)


@given(st.binary(max_size=200), st.sampled_from([b"gzip", b"deflate"]))
def test_any_bytes_inflate_or_raise_only_errors_of_the_tree(data, coding):
    with contextlib.suppress(WhetError):
        inflate(memoryview(data), coding, 100)


def test_inflating_stops_at_its_bound():
    with pytest.raises(TooLarge):
        inflate(memoryview(BOMB), b"gzip", 1000)
    with pytest.raises(TensorError):
        inflate(memoryview(gzip.compress(b"abc")[:-2]), b"gzip", 1000)
