"""Overload, crashes and vanishing clients, with real processes: who is answered, what, and how soon."""

import contextlib
import json
import os
import random
import resource
import signal
import socket
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from whet.errors import EnvironmentLacks
from whet.load.launcher import Server
from whet.settings import environ


def raw(url):
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def over_grpc(server, x, **more):
    with tritonclient.grpc.InferenceServerClient(server.grpc.removeprefix("grpc://")) as rpc:
        one = tritonclient.grpc.InferInput("x", list(x.shape), "UINT8")
        one.set_data_from_numpy(x)
        return rpc.infer("echo", [one], **more).as_numpy("y")


def test_full_is_refused_at_once_and_says_when_to_come_again(kit, serve, tmp_path):
    bundle = kit.make_bundle(tmp_path / "echo", options={"base_us": "300000"}, streams=1, queue_bound=2)
    server = serve(bundle)
    client = kit.Http(server.http)

    def ask(_):
        began = time.monotonic()
        status, headers, document = client.infer(kit.rows(1))
        return status, time.monotonic() - began, headers, document

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    refused = [answer for answer in answers if answer[0] == 429]
    assert {answer[0] for answer in answers} == {200, 429}
    assert len(refused) >= 6
    slowest = max(took for status, took, *_ in answers if status == 200)
    for _, took, headers, document in refused:
        assert took < slowest / 2
        assert int(headers["Retry-After"]) >= 1
        assert "queue" in document["error"]
    assert client.metric("whet_requests_total", code="queue-full") == len(refused)
    assert client.metric("whet_refused_total", reason="queue-full") == len(refused)
    with ThreadPoolExecutor(12) as pool:
        futures = [pool.submit(over_grpc, server, kit.rows(1)) for _ in range(12)]
        errors = [future.exception() for future in futures]
    codes = {error.status() for error in errors if error is not None}
    assert codes == {"StatusCode.RESOURCE_EXHAUSTED"}


def test_a_caller_who_left_is_not_computed(kit, serve, tmp_path):
    server = serve(kit.make_bundle(tmp_path / "echo", options={"base_us": "400000"}, streams=1))
    client = kit.Http(server.http)
    body = kit.rows(1).tobytes()
    head = "POST /v2/models/echo/infer HTTP/1.1\r\nInference-Header-Content-Length: 0\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    sockets = [raw(server.http) for _ in range(6)]
    for one in sockets:
        one.sendall(head.encode() + body)
    kit.until(lambda: client.metric("whet_queue_depth") >= 3)
    for index, one in enumerate(sockets):
        if index % 2:  # vanish as a crashed machine does: with a reset
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
    kit.until(lambda: client.metric("whet_requests_total", code="cancelled") == 6)
    assert client.metric("whet_queue_depth") == 0
    assert client.metric("whet_refused_total", reason="cancelled") >= 3
    assert client.infer(kit.rows(2))[0] == 200
    with pytest.raises(InferenceServerException):
        over_grpc(server, kit.rows(1), client_timeout=0.1)
    kit.until(lambda: client.metric("whet_in_flight") == 0)


IDLE = 1000


@pytest.fixture
def idlers():
    """Sockets, with room for :data:`IDLE` of them in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < IDLE + 500:
        pytest.skip(f"needs {IDLE + 500} open files, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, IDLE + 500), hard))
    sockets = []
    yield sockets
    for one in sockets:
        one.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_idle_connections_keep_nobody_out_though_the_soft_limit_is_low(kit, serve, tmp_path, idlers):
    limited = ("/bin/sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh", sys.executable, "-m", "whet", "serve")
    server = serve(kit.make_bundle(tmp_path / "echo"), command=limited)
    client = kit.Http(server.http)
    before = client.metric("whet_process_rss_bytes")
    idlers += [raw(server.http) for _ in range(IDLE // 2)]
    idlers += [raw(server.grpc.replace("grpc:", "http:")) for _ in range(IDLE // 2)]
    kit.until(lambda: client.metric("whet_http_connections") >= IDLE // 2)
    assert client.infer(kit.rows(1))[0] == 200
    np.testing.assert_array_equal(over_grpc(server, kit.rows(2)), kit.expected(kit.rows(2)))
    assert client.metric("whet_process_rss_bytes") - before < 64 << 20


def test_past_the_hard_limit_on_files_connections_are_refused_in_words(kit, serve, tmp_path, idlers):
    limited = ("/bin/sh", "-c", 'ulimit -n 256; exec "$@"', "sh", sys.executable, "-m", "whet", "serve")
    server = serve(kit.make_bundle(tmp_path / "echo"), command=limited)
    idlers += [raw(server.http) for _ in range(200)]
    assert idlers[-1].recv(1000).startswith(b"HTTP/1.1 503 ")
    idlers[0].sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
    assert idlers[0].recv(1000).startswith(b"HTTP/1.1 200 ")
    assert "ulimit" in server.log()


@pytest.mark.parametrize("how", ["killed", "segfault"])
def test_a_crashed_worker_is_felt_at_once_and_replaced(kit, serve, tmp_path, how):
    options = {"base_us": "2000"}
    if how == "segfault":
        options |= {"fault": "segfault", "fault_every": "150"}
    server = serve(kit.make_bundle(tmp_path / "echo", options=options, streams=1), "--workers", 2)
    client = kit.Http(server.http)
    with kit.Load(server.http, clients=4) as load:
        kit.until(lambda: load.good > 50)
        if how == "killed":
            os.kill(server.announced["workers"][0], signal.SIGKILL)
        kit.until(lambda: restarts(client) >= 1)
        good = load.good
        kit.until(lambda: load.good > good + 50)
        kit.until(lambda: how == "segfault" or fleet(client) == (1, 0, 2))
    assert load.wrong == 0
    assert all(any(word in what for word in ("reset", "Broken", "Remote", "BadStatus")) for _, what in load.failed), (
        load.failed
    )
    assert load.slowest < 5
    # Each of the other's clients may have been on the worker that died; nobody else may notice.
    assert how == "segfault" or len(load.failed) <= 4


def restarts(client):
    try:
        return client.metric("whet_worker_restarts_total")
    except OSError:  # this question, too, may be on a worker that dies
        return 0


def fleet(client):
    metrics = client.metrics()
    return tuple(metrics[name] for name in ("whet_ready", "whet_degraded", "whet_workers"))


def test_grpc_callers_of_a_killed_worker_are_told_at_once(kit, serve, tmp_path):
    server = serve(kit.make_bundle(tmp_path / "echo", options={"base_us": "800000"}, streams=1), "--workers", 1)
    caught = []

    def ask():
        try:
            over_grpc(server, kit.rows(1))
        except InferenceServerException as error:
            caught.append((error.status(), time.monotonic()))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    kit.until(lambda: kit.Http(server.http).metric("whet_in_flight") >= 1)
    began = time.monotonic()
    os.kill(server.announced["workers"][0], signal.SIGKILL)
    for thread in threads:
        thread.join(10)
    assert [status for status, _ in caught] == ["StatusCode.UNAVAILABLE"] * 2
    assert all(at - began < 1 for _, at in caught)
    kit.until(lambda: alive_again(server), 20)
    assert "SIGKILL" in server.log()


def alive_again(server):
    try:
        with tritonclient.grpc.InferenceServerClient(server.grpc.removeprefix("grpc://")) as rpc:
            return rpc.is_server_ready()
    except InferenceServerException:
        return False


def test_a_runtime_that_fails_is_an_error_with_an_id_and_nothing_of_its_words(kit, serve, tmp_path):
    server = serve(kit.make_bundle(tmp_path / "echo", options={"fault": "fail", "fault_every": "2"}))
    client = kit.Http(server.http)
    answers = [client.infer(kit.rows(1)) for _ in range(4)]
    assert sorted(status for status, *_ in answers) == [200, 200, 500, 500]
    for status, _, document in answers:
        assert status == 200 or "must not reach" not in document["error"]
    assert "must not reach" in server.log()
    assert client.metric("whet_requests_total", code="runtime-failed") == 2


def test_workers_that_die_again_and_again_before_they_serve_stop_the_start(kit, tmp_path):
    # A worker's interpreter reads this first: it dies as it would of a library that cannot be loaded.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'whet.serve.worker' in sys.orig_argv:\n    os.abort()\n"
    )
    bundle = kit.make_bundle(tmp_path / "echo")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [environ().get("PYTHONPATH")])])}
    with pytest.raises(EnvironmentLacks, match=r"exit code 3[^$]*died 3 times"), Server([str(bundle)], env=env):
        pass


def vanish(server, kit, dice):
    one = raw(server.http)
    whole = b"POST /v2/models/echo/infer HTTP/1.1\r\nContent-Length: 99999\r\n\r\n" + bytes(50_000)
    one.sendall(whole[: dice.randrange(1, len(whole))])
    if dice.random() < 0.5:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def babble(server, kit, dice):
    with raw(server.http) as one:
        one.sendall(dice.randbytes(dice.randrange(1, 3000)) + b"\r\n\r\n")
        one.settimeout(0.05)
        with contextlib.suppress(TimeoutError):  # not a whole head yet: the server waits for the rest
            assert one.recv(100).startswith(b"HTTP/1.1 4")


def misfit(server, kit, dice):
    client = kit.Http(server.http)
    document = {
        "inputs": [{"name": "x", "datatype": dice.choice(["UINT8", "FP32", "?"]), "shape": [dice.randrange(4)]}]
    }
    status, _, body = client.ask("POST", "/v2/models/echo/infer", json.dumps(document))
    assert status == 400
    assert b"error" in body


def wander(server, kit, dice):
    path = dice.choice(["/v2/models/%2e%2e/infer", "/v2/models//infer", "/v2/models/" + "x" * 3000, "/%00"])
    assert kit.Http(server.http).ask("GET", path)[0] in (404, 405)


def leave_grpc(server, kit, dice):
    with contextlib.suppress(InferenceServerException):  # now and then the answer is sooner
        over_grpc(server, kit.rows(1), client_timeout=0.0005)


def ask_grpc(server, kit, dice):
    x = kit.rows(*dice.sample(range(1, 250), dice.randrange(1, 6)))
    np.testing.assert_array_equal(over_grpc(server, x), kit.expected(x))


def test_good_clients_are_served_rightly_among_bad_and_vanishing_ones(kit, serve, tmp_path):
    bundle = kit.make_bundle(tmp_path / "echo", options={"base_us": "1000"}, batch_sizes=(1, 4), queue_bound=256)
    server = serve(bundle, "--workers", 2, "--body-timeout-ms", 500, "--header-timeout-ms", 500)
    client = kit.Http(server.http)
    deeds = [vanish, babble, misfit, wander, leave_grpc, ask_grpc]
    failures = []
    stop = time.monotonic() + 4

    def misbehave(seed):
        dice = random.Random(seed)
        while time.monotonic() < stop:
            deed = dice.choice(deeds)
            try:
                deed(server, kit, dice)
            except Exception as error:  # noqa: BLE001  (collected, and asserted to be none)
                failures.append((deed.__name__, repr(error)[:300]))

    with kit.Load(server.http, clients=3) as load:
        threads = [threading.Thread(target=misbehave, args=(seed,)) for seed in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert failures == []
    assert (load.wrong, load.failed) == (0, [])
    assert load.good > 100
    kit.until(lambda: client.metric("whet_in_flight") + client.metric("whet_queue_depth") == 0)
    kit.until(lambda: client.metric("whet_http_connections") <= 2)  # the one that asks, and the one before it
    metrics = client.metrics()
    assert (metrics["whet_ready"], metrics["whet_degraded"], metrics["whet_worker_restarts_total"]) == (1, 0, 0)
    assert "Traceback" not in server.log(), server.log()[:3000]
    assert server.stop() == 0
