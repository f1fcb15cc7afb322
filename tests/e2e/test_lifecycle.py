"""Starting, stopping, swapping, reloading: what a server does when it is told, under load."""

import asyncio
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from whet.errors import NotFound, UsageError
from whet.serve import control

SLOW = {"base_us": "400000"}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def call(server, op, **args):
    return asyncio.run(control.call(server.announced["control"], op, **args))


def start_and_fail(*args):
    """Return (exit code, what it said) of a server that cannot start."""
    done = subprocess.run(
        [sys.executable, "-m", "whet", "serve", *map(str, args)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_sigterm_answers_what_is_in_flight_and_exits_with_0(kit, serve, tmp_path):
    server = serve(kit.make_bundle(tmp_path / "slow", options=SLOW, streams=1))
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(kit.Http(server.http).infer(kit.rows(3)))) for _ in range(3)
    ]

    def over_grpc():
        with tritonclient.grpc.InferenceServerClient(server.grpc.removeprefix("grpc://")) as rpc:
            one = tritonclient.grpc.InferInput("x", [1, 6], "UINT8")
            one.set_data_from_numpy(kit.rows(4))
            answers.append((200, {}, rpc.infer("echo", [one]).as_numpy("y").tolist()))

    threads.append(threading.Thread(target=over_grpc))
    for thread in threads:
        thread.start()
    kit.until(lambda: kit.Http(server.http).metric("whet_queue_depth") >= 2)
    workers = server.announced["workers"]
    assert server.stop() == 0
    for thread in threads:
        thread.join(10)
    assert [answer[0] for answer in answers] == [200] * 4
    assert not any(alive(pid) for pid in workers)


def test_a_closed_loop_loses_nothing_to_sigterm_but_the_connection(kit, serve, tmp_path):
    server = serve(kit.make_bundle(tmp_path / "echo", options={"base_us": "2000"}))
    with kit.Load(server.http, clients=4) as load:
        kit.until(lambda: load.good > 50)
        began = time.monotonic() - load._began
        assert server.stop() == 0
    # After the stop nobody listens, which clients see as a refused connection; never a reset or a cut answer.
    assert load.wrong == 0
    assert all("refused" in what and at >= began for at, what in load.failed)


def test_drain_time_is_a_bound_even_for_a_runtime_that_hangs(kit, serve, tmp_path):
    server = serve(kit.make_bundle(tmp_path / "stuck", options={"fault": "hang"}, streams=1), "--drain-ms", 300)
    client, failures = kit.Http(server.http), []

    def ask():
        try:
            failures.append(client.infer(kit.rows(1)))
        except (OSError, http.client.HTTPException) as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    kit.until(lambda: client.metric("whet_in_flight") == 1)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 9
    thread.join(5)
    assert isinstance(failures[0], Exception) or failures[0][0] >= 500


def test_a_killed_supervisor_takes_its_workers_along(kit, serve, tmp_path):
    server = serve(kit.make_bundle(tmp_path / "echo"), "--workers", 2)
    workers = server.announced["workers"]
    assert len(workers) == 2
    os.kill(server.pid, signal.SIGKILL)
    kit.until(lambda: not any(alive(pid) for pid in workers))


def test_ports_in_use_are_named_and_nothing_is_left_running(kit, tmp_path):
    bundle = kit.make_bundle(tmp_path / "echo")
    for flag, other in (("--http-port", "--grpc-port"), ("--grpc-port", "--http-port")):
        with socket.socket() as taken:
            # A gRPC server shares its port with whoever asks to share it; that must be found out all the same.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            code, said = start_and_fail(bundle, flag, port, other, 0)
        assert code == 4
        assert f"127.0.0.1:{port} is in use" in said
        assert flag in said
        assert "Traceback" not in said


NO_START = {
    "nothing to serve": ((), 2, "name a bundle"),
    "a source that is not there": (("{tmp}/nowhere",), 3, "nowhere"),
    "an empty repository": (("{tmp}/empty",), 3, "empty"),
    "a file that is no model": (("{tmp}/text",), 3, "text"),
    "a damaged bundle": (("{tmp}/damaged",), 3, "damaged"),
    "more workers than cores": (("{tmp}/echo", "--workers", "999"), 3, "999 workers"),
    "a weight for nobody": (("{tmp}/echo", "--cpu-weights", "nobody=2"), 3, "nobody"),
    "one name for two": (("{tmp}/echo", "{tmp}/echo", "--name", "x"), 2, "--name"),
    "one model twice": (("{tmp}/echo", "{tmp}/echo"), 2, "twice"),
    "an announcement nowhere": (("{tmp}/echo", "--announce", "/proc/nowhere/file"), 4, "--announce"),
}


@pytest.mark.parametrize(("args", "code", "words"), NO_START.values(), ids=NO_START)
def test_a_server_that_cannot_start_says_why_and_leaves_nothing(kit, tmp_path, args, code, words):
    kit.make_bundle(tmp_path / "echo")
    damaged = kit.make_bundle(tmp_path / "damaged")
    (damaged / "bundle.json").write_text("{")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    args = [arg.format(tmp=tmp_path) for arg in args]
    got, said = start_and_fail(*args, "--http-port", 0, "--grpc-port", 0, "--cache-dir", tmp_path / "cache")
    assert (got, words in said) == (code, True), said
    assert "Traceback" not in said


def test_a_model_that_cannot_be_opened_stops_the_start(kit, tmp_path):
    bundle = kit.make_bundle(tmp_path / "echo", options={"unheard_of": "1"})
    code, said = start_and_fail(bundle, "--http-port", 0, "--grpc-port", 0)
    assert code == 3
    assert "unheard_of" in said
    assert "Traceback" not in said


def repository(kit, root, version, *, name="echo", **knobs):
    """Put a version into a repository folder."""
    return kit.make_bundle(root / name / str(version), post_scale=version, options={"base_us": "1000"}, **knobs)


def test_versions_are_swapped_under_load_without_a_failure(kit, serve, tmp_path):
    root = tmp_path / "repository"
    repository(kit, root, 1)
    server = serve(root, "--repository-control", "--workers", 2)
    with (
        tritonclient.http.InferenceServerClient(server.http.removeprefix("http://")) as client,
        kit.Load(server.http, clients=4) as load,
    ):
        for version in range(2, 8):
            repository(kit, root, version)
            client.load_model("echo")
            assert client.is_model_ready("echo", str(version))
            assert not client.is_model_ready("echo", str(version - 1))
        kit.until(lambda: load.good > 200)
    assert (load.wrong, load.failed) == (0, [])
    states = {one["version"]: one["state"] for one in kit.Http(server.http).json("POST", "/v2/repository/index")[1]}
    assert states["7"] == "READY"
    assert set(states.values()) == {"READY", "UNAVAILABLE"}


def test_a_version_that_fails_leaves_the_one_before_in_service(kit, serve, tmp_path):
    root = tmp_path / "repository"
    repository(kit, root, 1)
    repository(kit, root, 1, name="other")
    server = serve(root, "--repository-control")
    client = kit.Http(server.http)
    bad = repository(kit, root, 2)
    next((bad / "plans").iterdir()).write_text("{")
    with kit.Load(server.http, clients=2) as load:
        status, document = client.json("POST", "/v2/repository/models/echo/load", {})
        assert (status, "damaged" in document["error"]) == (400, True)
        shutil.rmtree(bad)
        kit.make_bundle(bad, post_scale=2, options={"unheard_of": "1"})
        status, document = client.json("POST", "/v2/repository/models/echo/load", {})
        assert (status, "unheard_of" in document["error"]) == (400, True)
        kit.until(lambda: load.good > 20)
    assert (load.wrong, load.failed) == (0, [])
    assert client.json("GET", "/v2/models/echo")[1]["versions"] == ["1"]
    assert client.json("GET", "/v2/health/ready")[0] == 200


def test_models_are_unloaded_and_loaded_by_stock_clients(kit, serve, tmp_path):
    root = tmp_path / "repository"
    repository(kit, root, 3)
    repository(kit, root, 1, name="other")
    server = serve(root, "--repository-control", "--admin-token", "hunter2")
    client = kit.Http(server.http)
    token = {"Authorization": "Bearer hunter2"}
    with (
        tritonclient.http.InferenceServerClient(server.http.removeprefix("http://")) as http,
        tritonclient.grpc.InferenceServerClient(server.grpc.removeprefix("grpc://")) as rpc,
    ):
        with pytest.raises(InferenceServerException, match="token"):
            http.unload_model("echo")
        with pytest.raises(InferenceServerException, match="token"):
            rpc.unload_model("echo", headers={"authorization": "Bearer nonsense"})
        http.unload_model("echo", headers=token)
        assert client.infer(kit.rows(1))[0] == 503
        assert client.infer(kit.rows(1), "other")[0] == 200
        assert client.json("GET", "/v2/health/ready")[0] == 200
        assert not rpc.is_model_ready("echo")
        rpc.load_model("echo", headers={"authorization": "Bearer hunter2"})
        assert client.infer(kit.rows(1))[0] == 200
        with pytest.raises(InferenceServerException, match="repository alone"):
            http.load_model("echo", headers=token, config="{}")
        with pytest.raises(InferenceServerException, match="there is nothing at"):
            http.load_model("../echo", headers=token)
        with pytest.raises(InferenceServerException, match="none of the sources"):
            http.load_model("newcomer", headers=token)
        with pytest.raises(InferenceServerException, match="not loaded"):
            http.unload_model("nobody", headers=token)
    assert "hunter2" not in server.log()


def test_sighup_serves_what_the_sources_hold_now(kit, serve, tmp_path):
    root = tmp_path / "repository"
    repository(kit, root, 1)
    server = serve(root)
    repository(kit, root, 2)
    repository(kit, root, 1, name="new")
    with kit.Load(server.http, clients=2) as load:
        os.kill(server.pid, signal.SIGHUP)
        kit.until(lambda: kit.Http(server.http).infer(kit.rows(2), "new")[0] == 200)
        kit.until(lambda: kit.Http(server.http).json("GET", "/v2/models/echo")[1].get("versions") == ["2"])
        shutil.rmtree(root / "new")
        os.kill(server.pid, signal.SIGHUP)
        kit.until(lambda: kit.Http(server.http).infer(kit.rows(2), "new")[0] == 503)
        (root / "echo" / "2" / "bundle.json").write_text("{")
        os.kill(server.pid, signal.SIGHUP)
        kit.until(lambda: "stays as it is" in server.log())
    assert (load.wrong, load.failed) == (0, [])


@pytest.mark.parametrize("workers", [1, 2])
def test_every_worker_is_replaced_without_a_lost_request(kit, serve, tmp_path, workers):
    server = serve(kit.make_bundle(tmp_path / "echo", options={"base_us": "1000"}), "--workers", workers)
    before = {one["pid"] for one in call(server, "status")["workers"]}
    with kit.Load(server.http, clients=4, reconnect=True) as load:
        kit.until(lambda: load.good > 20)
        call(server, "restart")
        kit.until(lambda: load.good > 100)
    after = {one["pid"] for one in call(server, "status")["workers"]}
    assert (load.wrong, load.failed) == (0, [])
    assert len(after) == workers
    assert not before & after
    with tritonclient.grpc.InferenceServerClient(server.grpc.removeprefix("grpc://")) as rpc:
        assert rpc.is_server_ready()
    assert call(server, "status")["fleet"]["restarts"] == 0


def test_the_control_socket_answers_and_refuses_in_words(kit, plain):
    status = call(plain, "status")
    assert status["fleet"]["ready"] is True
    assert [one["name"] for one in status["models"]] == ["echo"]
    assert Path(plain.announced["control"]).stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="unknown"):
        call(plain, "explode")
    with pytest.raises(UsageError, match="arguments"):
        call(plain, "load", wrong=1)
    with pytest.raises(NotFound, match="nobody"):
        call(plain, "unload", name="nobody")
    with pytest.raises(UsageError, match="no server"):
        asyncio.run(control.call("/nowhere.sock", "status"))


def test_numbers_of_two_workers_are_one(kit, serve, tmp_path):
    server = serve(kit.make_bundle(tmp_path / "echo", options={"base_us": "1000"}), "--workers", 2)
    client = kit.Http(server.http)
    for _ in range(40):
        assert client.infer(kit.rows(1))[0] == 200
    assert client.metric("whet_requests_total", code="ok") == 40
    assert client.metric("whet_model_workers") == 2
    statistics = client.json("GET", "/v2/models/stats")[1]["model_stats"]
    assert [(one["name"], one["inference_count"]) for one in statistics] == [("echo", 40)]
    assert np.isclose(client.metric("whet_compute_seconds_count"), 40)
