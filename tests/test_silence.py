"""No process of ours forks a child or opens a socket because it imported something."""

import shutil
import subprocess
import sys

import pytest

CODE = """
from whet.quiet import silence_telemetry
silence_telemetry()
import openvino, onnxruntime, onnx, numpy
import whet.engine, whet.host, whet.models.importers, whet.serve.app, whet.optimize.run, whet.load.bench
from whet.engine import load_runtime
load_runtime("openvino"); load_runtime("onnxruntime")
"""
HOOK = """
import sys
def watch(event, args):
    if event in ("os.fork", "os.forkpty", "subprocess.Popen", "os.posix_spawn", "os.exec", "socket.connect",
                 "socket.bind", "socket.getaddrinfo"):
        sys.stderr.write(f"SEEN {event} {args}\\n")
sys.addaudithook(watch)
"""


def test_imports_fork_nothing_and_open_no_socket():
    done = subprocess.run([sys.executable, "-c", HOOK + CODE], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "SEEN" not in done.stderr, done.stderr


def test_the_watch_would_see_a_fork_and_a_socket():
    noisy = "import os, socket\nif os.fork() == 0: os._exit(0)\nsocket.socket().bind(('127.0.0.1', 0))"
    done = subprocess.run([sys.executable, "-c", HOOK + noisy], capture_output=True, text=True, timeout=60, check=True)
    assert "SEEN os.fork" in done.stderr
    assert "SEEN socket.bind" in done.stderr


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed; native forks go unseen")
def test_imports_fork_nothing_natively():
    argv = ["strace", "-f", "-e", "trace=connect,bind,fork,vfork,execve", sys.executable, "-c", CODE]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    calls = [
        line for line in done.stderr.splitlines() if any(f"{name}(" in line for name in ("connect", "bind", "fork"))
    ]
    assert calls == []
    assert done.stderr.count("execve(") == 1
