"""The gRPC target against a server with tritonclient's protobuf classes."""

import asyncio

import numpy as np
import pytest

from whet.errors import DeadlineExceeded, NotReady, QueueFull, TensorError, TimedOut, Unreachable, WrongAnswer
from whet.load.rpc import GrpcTarget
from whet.load.runner import Scenario, run

SAMPLES = [{"x": np.full((rows, 3), rows, np.float32)} for rows in (1, 2, 5)]
RIGHT = [{"y": sample["x"] * 2} for sample in SAMPLES]


async def closing(target, work):
    try:
        return await work
    finally:
        await target.close()


def ask(server, index=0, server_options=None, **options):
    async def story():
        async with server(**(server_options or {})) as behaviour:
            target = GrpcTarget(behaviour.url, "double", SAMPLES, **options)
            return await closing(target, target(index)), behaviour

    return asyncio.run(story())


def test_a_sample_arrives_and_its_answer_is_checked(grpc_server):
    rows, behaviour = ask(grpc_server, 2, expected=RIGHT)
    assert rows == 5
    assert behaviour.inputs == {SAMPLES[2]["x"].tobytes()}
    with pytest.raises(WrongAnswer, match="output 'y' differs by up to 2"):
        ask(grpc_server, 1, expected=RIGHT, server_options={"factor": 3.0})


@pytest.mark.parametrize(
    ("status", "kind"), [(429, QueueFull), (400, TensorError), (503, NotReady), (504, DeadlineExceeded)]
)
def test_refusals_are_named(grpc_server, status, kind):
    with pytest.raises(kind, match="refused by the test"):
        ask(grpc_server, server_options={"status": status})


def test_patience_ends(grpc_server):
    with pytest.raises(TimedOut, match=r"within 0\.1 s"):
        ask(grpc_server, server_options={"delay_s": 2.0}, timeout_s=0.1)


def test_nobody_listening_is_unreachable():
    async def story():
        target = GrpcTarget("grpc://127.0.0.1:1", "double", SAMPLES, connections=1)
        return await closing(target, target(0))

    with pytest.raises(Unreachable):
        asyncio.run(story())


def test_a_run_goes_through(grpc_server):
    async def story():
        async with grpc_server(delay_s=0.002) as behaviour:
            target = GrpcTarget(behaviour.url, "double", SAMPLES, connections=2, expected=RIGHT)
            scenario = Scenario(kind="server", qps=100.0, duration_s=0.5, warmup_s=0.0)
            return await closing(target, run(target, scenario, 3)), behaviour

    result, behaviour = asyncio.run(story())
    assert result.errors == {}
    assert behaviour.requests == len(result.latency) > 20
    assert len(behaviour.inputs) == 3
