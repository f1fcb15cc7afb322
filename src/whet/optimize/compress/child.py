"""A process of its own for a toolkit: one request on its standard input, lines of answers on its standard output.

Its memory, imports, crashes and threads end with it. It dies with its parent, and on time.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from whet.errors import OutputError
from whet.host.apply import inherited
from whet.settings import environ

_PR_SET_PDEATHSIG = 1


def converse(
    module: str, request: bytes, heard: Callable[[bytes], None], *, cpus: Iterable[int], limit_s: float, log: Path
) -> tuple[int, float]:
    """Run ``python -m module``, send it the request, and hear every line it answers.

    Args:
        module: calls :func:`serve`.
        request: what it reads.
        heard: told of every line.
        cpus: mask of the process.
        limit_s: it is ended when it takes longer; 0 for no limit.
        log: file for what the toolkit prints.

    Returns:
        (exit code, seconds it took).

    Raises:
        OutputError: no process, or no space.
    """
    began = time.monotonic()
    try:
        with log.open("wb") as stream, inherited(cpus):
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(os.getpid()), repr(limit_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=environ(),
                start_new_session=True,
            )
    except OSError as error:
        raise OutputError(f"cannot start {module}: {error.strerror or error}; check memory and space") from error
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(request)
        process.stdin.close()
        for line in process.stdout:
            heard(line)
        code = process.wait()
    except BrokenPipeError:
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    return code, time.monotonic() - began


def serve(do: Callable[[bytes, Callable[[bytes], None]], None], refusal: Callable[[Exception], bytes]) -> None:
    """Be such a process: read the request, do it, write lines, end without the toolkits' own tidying up.

    Args:
        do: given the request and a function that writes one line.
        refusal: the last line, when ``do`` raised.
    """
    parent, limit_s = int(sys.argv[1]), float(sys.argv[2])
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    signal.setitimer(signal.ITIMER_REAL, limit_s)  # the default action of SIGALRM ends the process, whatever it does

    def write(line: bytes) -> None:
        answers.write(line + b"\n")

    try:
        do(sys.stdin.buffer.read(), write)
    except Exception as error:  # noqa: BLE001  (a toolkit may raise anything; it becomes a named refusal)
        write(refusal(error))
    answers.close()
    sys.stderr.flush()
    os._exit(0)
