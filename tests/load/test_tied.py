"""A command that is tied to the process that started it ends with it, however that ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STORY = """
import subprocess, sys
from whet.load.tied import command
child = subprocess.Popen(command(("sleep", "60")), start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        name, state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").partition("(")[2].partition(")")[::2]
        return "" if state.split()[0] == "Z" else name
    return ""


def wait_until(is_true, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_true():
            return True
        time.sleep(0.02)
    return False


def test_a_killed_parent_takes_its_child_along():
    parent = subprocess.Popen([sys.executable, "-c", STORY], stdout=subprocess.PIPE)
    try:
        child = int(parent.stdout.readline())
        assert wait_until(lambda: name_of(child) == "sleep")
        os.kill(parent.pid, signal.SIGKILL)
        assert wait_until(lambda: not name_of(child))
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_a_parent_that_is_gone_already_starts_nothing():
    line = [sys.executable, "-m", "whet.load.tied", "1", "echo", "started"]
    ended = subprocess.run(line, check=False, capture_output=True)
    assert (ended.returncode, ended.stdout) == (1, b"")
