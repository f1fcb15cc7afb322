"""The HTTP target against a server written apart from it."""

import asyncio

import numpy as np
import pytest
import uvloop

from whet.errors import DeadlineExceeded, NotReady, QueueFull, TimedOut, Unreachable, WrongAnswer
from whet.load.address import Address
from whet.load.http import HttpClient, HttpTarget
from whet.load.runner import Scenario, run

SAMPLES = [{"x": np.full((rows, 3), rows, np.float32)} for rows in (1, 2, 5)]
RIGHT = [{"y": sample["x"] * 2} for sample in SAMPLES]


async def closing(target, work):
    try:
        return await work
    finally:
        await target.close()


def ask(server, index=0, samples=SAMPLES, server_options=None, **options):
    """Send one sample to a fresh server; return what the target said and how the server saw it."""

    async def story():
        async with server(**(server_options or {})) as behaviour:
            target = HttpTarget(behaviour.url, "double", samples, **options)
            return await closing(target, target(index)), behaviour

    return asyncio.run(story())


def test_a_sample_arrives_as_it_is_and_its_rows_are_counted(http_server):
    rows, behaviour = ask(http_server, 2)
    assert rows == 5
    assert behaviour.inputs == {SAMPLES[2]["x"].tobytes()}


@pytest.mark.parametrize("json_outputs", [False, True])
def test_answers_are_checked_on_request(http_server, json_outputs):
    options = {"json_outputs": json_outputs}
    assert ask(http_server, 1, expected=RIGHT, server_options=options)[0] == 2
    with pytest.raises(WrongAnswer, match="output 'y' differs by up to 2, allowed is 1e-05"):
        ask(http_server, 1, expected=RIGHT, server_options={**options, "factor": 3.0})
    assert ask(http_server, 1, server_options={**options, "factor": 3.0})[0] == 2  # unchecked


@pytest.mark.parametrize(
    ("status", "kind"), [(429, QueueFull), (503, NotReady), (504, DeadlineExceeded), (418, WrongAnswer)]
)
def test_refusals_are_named_and_carry_the_servers_words(http_server, status, kind):
    with pytest.raises(kind, match=f"HTTP {status}: .*refused by the test"):
        ask(http_server, server_options={"status": status})


def test_an_empty_answer_is_wrong(http_server):
    with pytest.raises(WrongAnswer, match="empty"):
        ask(http_server, server_options={"body": b""})


def test_an_answer_that_is_no_answer_is_wrong(http_server):
    with pytest.raises(WrongAnswer, match="protocol"):
        ask(http_server, expected=RIGHT, server_options={"body": b"<html>hello</html>"})


def test_nobody_listening_is_unreachable():
    async def story():
        target = HttpTarget("http://127.0.0.1:1", "double", SAMPLES)
        return await closing(target, target(0))

    with pytest.raises(Unreachable, match=r"cannot reach http://127\.0\.0\.1:1/models/double"):
        asyncio.run(story())


def test_patience_ends_and_the_late_answer_meets_no_other_request(http_server):
    async def story():
        async with http_server(delay_s=0.3) as behaviour:
            target = HttpTarget(behaviour.url, "double", SAMPLES, timeout_s=0.1, expected=RIGHT)
            with pytest.raises(TimedOut, match=r"did not answer within 0\.1 s"):
                await target(0)
            behaviour.delay_s = 0.0
            target.client.timeout_s = 10
            for index in (1, 2, 0):
                await target(index)
            await target.close()
            return behaviour.connections

    assert asyncio.run(story()) == 2


def test_connections_are_kept_and_opened_only_when_needed(http_server):
    async def story(**options):
        async with http_server(delay_s=0.002) as behaviour:
            target = HttpTarget(behaviour.url, "double", SAMPLES, **options)
            scenario = Scenario(kind="closed", callers=4, max_requests=60, warmup_s=0.0)
            result = await closing(target, run(target, scenario, len(SAMPLES)))
            assert result.errors == {}
            return behaviour

    behaviour = asyncio.run(story())
    assert behaviour.connections <= 4
    assert behaviour.requests == 60
    assert len(behaviour.inputs) == 3
    assert asyncio.run(story(connections=2)).most_at_once == 2


@pytest.mark.parametrize("kind", ["closed", "server"])
def test_the_client_works_on_uvloop_too(http_server, kind):
    async def story():
        async with http_server() as behaviour:
            target = HttpTarget(behaviour.url, "double", SAMPLES, expected=RIGHT)
            qps = 200.0 if kind == "server" else None
            scenario = Scenario(kind=kind, qps=qps, max_requests=50, warmup_s=0.0)
            return await closing(target, run(target, scenario, 3))

    result = uvloop.run(story())
    assert (result.errors, len(result.latency)) == ({}, 50)


@pytest.mark.parametrize("fault", ["close_after_each", "close_idle"])
def test_a_server_that_closes_connections_costs_no_answer(http_server, fault):
    """Announced by a header, or silently between two requests, which the client can only notice when it reuses one."""

    async def story():
        async with http_server(**{fault: True}) as behaviour:
            target = HttpTarget(behaviour.url, "double", SAMPLES, expected=RIGHT)
            result = await closing(target, run(target, Scenario(kind="closed", max_requests=20, warmup_s=0.0), 3))
            return result, behaviour

    result, behaviour = asyncio.run(story())
    assert result.errors == {}
    assert behaviour.connections == 20


def test_a_server_that_breaks_off_is_a_recorded_failure():
    async def story():
        async def cut(reader, writer):
            await reader.readline()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
            writer.close()

        server = await asyncio.start_server(cut, "127.0.0.1", 0)
        async with server:
            target = HttpTarget(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "double", SAMPLES)
            return await closing(target, run(target, Scenario(kind="closed", max_requests=5, warmup_s=0.0), 3))

    result = asyncio.run(story())
    assert result.errors == {"unreachable": 5}


def test_what_is_no_http_is_a_wrong_answer():
    async def story():
        async def chatter(reader, writer):
            await reader.readline()
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            await writer.drain()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(chatter, "127.0.0.1", 0)
        async with server:
            client = HttpClient(Address.parse(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
            return await closing(client, client.request(client.head("GET", "/v2")))

    with pytest.raises(WrongAnswer, match="no HTTP"):
        asyncio.run(story())


def test_a_broken_answer_costs_only_its_own_request(http_server):
    async def story():
        async with http_server(status=429) as behaviour:
            target = HttpTarget(behaviour.url, "double", SAMPLES, expected=RIGHT)
            scenario = Scenario(kind="closed", callers=2, max_requests=30, warmup_s=0.0)
            refused = await run(target, scenario, 3)
            behaviour.status = 200
            served = await closing(target, run(target, scenario, 3))
            return refused, served, behaviour

    refused, served, behaviour = asyncio.run(story())
    assert (refused.errors, served.errors) == ({"queue-full": 30}, {})
    assert behaviour.connections == 2  # a refusal keeps its connection
