"""Calls over a control connection: answers, errors, ends."""

import asyncio
import socket

import pytest

from whet.errors import NotFound, NotReady, QueueFull, RuntimeFailed
from whet.serve import control


async def pair(left, right):
    one, two = socket.socketpair()
    channels = [await control.over(one, left), await control.over(two, right)]
    return channels, [asyncio.ensure_future(channel.run()) for channel in channels]


async def refuse(op, args):
    raise NotFound(f"no {op}")


def talk(story, right):
    async def run():
        channels, running = await pair(refuse, right)
        try:
            await asyncio.wait_for(story(*channels), 5)
        finally:
            for channel in channels:
                channel.close()
            await asyncio.gather(*running)

    asyncio.run(run())


def test_answers_come_to_whom_asked_in_any_order():
    async def right(op, args):
        await asyncio.sleep(0.02 if args["n"] % 2 else 0)
        return args["n"] * 10

    async def story(one, two):
        answers = await asyncio.gather(*(one.ask("times", n=n) for n in range(20)))
        assert answers == [n * 10 for n in range(20)]

    talk(story, right)


def test_either_end_may_ask_while_it_is_asked():
    async def story(one, two):
        with pytest.raises(NotFound, match="no fish"):
            await two.ask("fish")

    async def right(op, args):
        return None

    talk(story, right)


def test_errors_of_the_tree_cross_and_strangers_do_not():
    async def right(op, args):
        if op == "full":
            raise QueueFull("no room", 0.5)
        raise ValueError("secret")

    async def story(one, two):
        with pytest.raises(QueueFull, match="no room"):
            await one.ask("full")
        with pytest.raises(RuntimeFailed) as caught:
            await one.ask("break")
        assert "secret" not in str(caught.value)

    talk(story, right)


def test_what_is_told_arrives_and_wants_no_answer():
    told = []

    async def right(op, args):
        told.append((op, args))

    async def story(one, two):
        one.tell("news", x=1)
        await one.ask("flush")
        assert told[0] == ("news", {"x": 1})

    talk(story, right)


def test_who_waits_is_told_when_the_other_end_closes():
    async def right(op, args):
        await asyncio.sleep(10)

    async def story(one, two):
        waiting = asyncio.ensure_future(one.ask("sleep"))
        await asyncio.sleep(0.02)
        two.close()
        with pytest.raises(NotReady):
            await waiting
        with pytest.raises(NotReady):
            await one.ask("more")
        one.tell("nothing happens")

    talk(story, right)


def test_a_line_that_is_no_json_closes_the_connection():
    async def run():
        one, two = socket.socketpair()
        channel = await control.over(one, refuse)
        two.sendall(b"nonsense\n")
        await asyncio.wait_for(channel.run(), 5)
        assert channel.closed
        two.close()

    asyncio.run(run())
