"""The launcher against scripts that behave, die, dawdle and refuse to stop."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from whet.errors import EnvironmentLacks, NotReady, UsageError
from whet.load.launcher import Server

SCRIPT = """
import http.server, json, os, signal, subprocess, sys, threading, time
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
mode = sys.argv[1]
assert options["--http-port"] == options["--grpc-port"] == "0"
if mode == "dies":
    print("the model is broken", file=sys.stderr); sys.exit(3)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        ready = mode != "dawdles" and Handler.asked > 2
        self.send_response(200 if self.path == "/v2/health/ready" and ready else 503); self.end_headers()
    def log_message(self, *args): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
said = {"http": f"http://127.0.0.1:{server.server_port}", "grpc": "grpc://127.0.0.1:5", "child": child.pid,
        "cpus": sorted(os.sched_getaffinity(0)), "mark": os.environ.get("MARK")}
with open(options["--announce"], "w") as stream:
    stream.write(json.dumps(said)[:10]); stream.flush(); time.sleep(0.1); stream.seek(0); stream.write(json.dumps(said))
def stop(*_):
    if mode != "stubborn":
        child.kill(); threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, stop)
server.serve_forever()
"""


@pytest.fixture
def launch(tmp_path):
    script = tmp_path / "server.py"
    script.write_text(SCRIPT)
    return lambda mode, **options: Server([mode], command=[sys.executable, str(script)], **options)


def gone(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":  # nobody reaps orphans here
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def test_a_server_is_ready_inside_and_gone_outside(launch):
    with launch("behaves", env={"MARK": "here"}) as server:
        pid, child = server.pid, server.announced["child"]
        assert server.http.startswith("http://127.0.0.1:")
        assert server.grpc == "grpc://127.0.0.1:5"
        assert server.announced["mark"] == "here"
        assert os.getpgid(child) == pid
    assert gone(pid)
    assert gone(child)
    with pytest.raises(UsageError, match="not started"):
        _ = server.pid


def test_the_async_form_does_the_same(launch):
    async def story():
        async with launch("behaves") as server:
            return server.pid

    assert gone(asyncio.run(story()))


def test_its_cpus_are_set_before_it_runs_and_ours_are_restored(launch):
    ours = os.sched_getaffinity(0)
    with launch("behaves", cpus=[min(ours)]) as server:
        assert server.announced["cpus"] == [min(ours)]
        assert os.sched_getaffinity(0) == ours
    with pytest.raises(UsageError, match="cannot run where it should: CPU mask"), launch("behaves", cpus=[100_000]):
        pass


def test_one_that_dies_says_why(launch):
    with (
        pytest.raises(EnvironmentLacks, match=r"exit code 3 before it was ready:\nthe model is broken"),
        launch("dies"),
    ):
        pass


def test_one_that_is_never_ready_is_stopped(launch):
    server = launch("dawdles", ready_s=1.0)
    with pytest.raises(NotReady, match="not ready within 1 s"):
        server.start()
    assert gone(server.announced["child"])


def test_one_that_will_not_stop_is_killed_with_its_children(launch):
    with launch("stubborn", stop_s=0.3) as server:
        pid, child = server.pid, server.announced["child"]
    assert gone(pid)
    assert gone(child)


def test_an_exception_inside_stops_it(launch):
    server = launch("behaves")
    with pytest.raises(ZeroDivisionError), server:
        raise ZeroDivisionError
    assert gone(server.announced["child"])


def test_a_crash_leaves_no_children(launch):
    with launch("behaves") as server:
        os.kill(server.pid, signal.SIGKILL)
    assert gone(server.announced["child"])


def test_stopping_twice_is_harmless(launch):
    server = launch("behaves").start()
    assert server.stop() == 0
    assert server.stop() is None
