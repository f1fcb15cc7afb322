"""Strangers' readers run apart: whatever they do ends as one line of our own."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from whet.errors import EnvironmentLacks, MissingExtra, ModelError, UsageError
from whet.models.importers.isolated import GIGABYTE, Limits, call, one_line, run_program

HERE = "test_isolated_targets"


@pytest.fixture
def target(tmp_path, monkeypatch):
    """Write a function into an importable module and return its name; the child finds it by PYTHONPATH."""

    def write(body: str) -> str:
        (tmp_path / f"{HERE}.py").write_text(f"def run(request):\n    {body}\n")
        return f"{HERE}:run"

    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return write


def test_bytes_go_in_and_come_out_whatever_is_printed(target):
    name = target("print('noise'); import sys; sys.stderr.write('more'); return request[::-1]")
    assert call(name, b"abc") == b"cba"


def test_variables_reach_the_child(target):
    name = target("import os; return os.environ['WHET_PROBE'].encode()")
    assert call(name, b"", environment={"WHET_PROBE": "a b=c"}) == b"a b=c"


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("raise ValueError('first line\\nsecond')", ModelError, "ValueError: first line"),
        ("from whet.errors import UsageError; raise UsageError('mine')", UsageError, "^mine$"),
        (
            "from whet.errors import MissingExtra; raise MissingExtra('This', 'torch')",
            MissingExtra,
            "^This needs.*torch",
        ),
        ("import os; os._exit(3)", ModelError, "failed: it printed nothing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", ModelError, "crashed .SIGSEGV."),
        ("import os; os.abort()", ModelError, "SIGABRT"),
        ("return bytearray(900 << 20)", ModelError, "more than 0.5 GB|ended by"),
    ],
    ids=["foreign", "ours", "missing extra", "exit", "crash", "abort", "memory"],
)
def test_every_end_is_one_line(target, body, kind, said):
    limits = Limits(seconds=60, memory_bytes=GIGABYTE // 2)
    with pytest.raises(kind, match=said) as raised:
        call(target(body), b"", limits)
    assert "\n" not in str(raised.value)


def test_time_is_up_for_the_child_and_whatever_it_started(target, tmp_path):
    mark = tmp_path / "pid"
    starts = "import subprocess; p = subprocess.Popen(['sleep', '60'])"
    body = f"{starts}; open({str(mark)!r}, 'w').write(str(p.pid)); p.wait()"
    with pytest.raises(ModelError, match="longer than 3 s"):
        call(target(body), b"", Limits(seconds=3))
    grandchild = int(mark.read_text())
    for _ in range(100):
        stat = Path(f"/proc/{grandchild}/stat")
        # A killed process may stay as a zombie until whoever adopted it looks.
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    os.kill(grandchild, signal.SIGKILL)
    pytest.fail("the grandchild outlived the limit")


def test_a_program_that_fails_says_its_last_line():
    with pytest.raises(EnvironmentLacks, match="exit code 4: the reason"):
        run_program(
            [sys.executable, "-c", "import sys; print('x\\nthe reason', file=sys.stderr); sys.exit(4)"], Limits()
        )
    with pytest.raises(EnvironmentLacks, match="cannot be run"):
        run_program(["/no/such/program"], Limits())


def test_foreign_messages_lose_their_noise():
    text = "Exception from src/a.cpp:84:\nCheck 'x' failed at b.cpp:3:\nThe reason.\nmore"
    assert one_line(text) == "The reason."
    assert one_line("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : No Add(1)") == "No Add(1)"
    source = "Message: /onnxruntime_src/a/b.cc:360 void* A::B(size_t, bool, C*) Failed to allocate"
    assert one_line(source) == "Message: Failed to allocate"
    assert len(one_line("a" * 1000)) == 300
