"""Runs a function in a process of its own, with a time limit and a memory limit: where strangers' readers run.

Model files are untrusted and their readers are foreign code: a damaged file may make one loop, swell or crash
natively. Here that ends as one line of our own, and the libraries it loaded leave with the process.

The function takes bytes and returns bytes
(JSON at both ends), read from standard input and written to a file, because foreign code prints.
"""

import importlib
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from whet import errors
from whet.errors import EnvironmentLacks, ModelError, WhetError

GIGABYTE = 1 << 30
_BOOT = f"from {__name__} import main; main()"
_ORT_PREFIX = re.compile(r"^\s*\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_ORT_SOURCE = re.compile(r"/onnxruntime_src/\S+ .*?\) (?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one isolated call.

    Attributes:
        seconds: wall clock; then the child and everything it started are killed.
        memory_bytes: private writable memory of the child (RLIMIT_DATA); 0 takes nine tenths of what the machine has
            free when the call begins, at least 2 GB. Address space is bounded at 64 times that plus 64 GB: runtimes
            reserve address space by gigabytes without using it, so a tight RLIMIT_AS would refuse healthy models.
    """

    seconds: float = 600.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """How the child says that its function raised.

    Attributes:
        kind: class name in :mod:`whet.errors`, or empty for a foreign exception.
        message: one line.
        extra: of MissingExtra.
    """

    kind: str
    message: str
    extra: str = ""


def call(
    target: str,
    request: bytes,
    limits: Limits = Limits(),
    environment: Mapping[str, str] | None = None,
    python: Path | None = None,
) -> bytes:
    """Return ``target(request)``, computed in a fresh process.

    Args:
        target: ``module:function``, a function of bytes that returns bytes.
        request: what it takes.
        limits: time and memory.
        environment: variables added to the child's environment.
        python: interpreter to use instead of this one; it must see the ``whet`` package's requirements itself.

    Raises:
        WhetError: of the class the function raised.
        ModelError: it raised anything else, crashed, or went past a limit; the message is one line.
    """
    interpreter = str(python or sys.executable)
    # env(1) sets the variables, so that only whet.settings reads the environment.
    assigned = [f"{name}={value}" for name, value in (environment or {}).items()]
    memory = limits.memory_bytes or default_memory()
    with tempfile.TemporaryDirectory(prefix="whet-isolated-") as folder:
        answer, refusal = Path(folder, "answer"), Path(folder, "refusal")
        command = [interpreter, "-P", "-c", _BOOT, target, str(answer), str(refusal), str(memory)]
        complaint = _run(["env", *assigned, *command], request, limits, memory)
        if refusal.exists():
            raise _revive(msgspec.json.decode(refusal.read_bytes(), type=Failure))
        if complaint or not answer.exists():
            raise ModelError(complaint or "the reader ended without an answer; the file is probably damaged")
        return answer.read_bytes()


def run_program(command: list[str], limits: Limits, cwd: Path | None = None) -> str:
    """Run a foreign program to its end and return the last line it wrote to standard error.

    Inside :func:`call` it inherits that call's memory limit, and ends with it.

    Raises:
        EnvironmentLacks: it is not there, failed, or went past the time limit; carries its last line.
    """
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=limits.seconds, check=False)
    except subprocess.TimeoutExpired:
        raise EnvironmentLacks(f"'{command[0]}' took longer than {limits.seconds:g} s and was stopped") from None
    except OSError as error:
        raise EnvironmentLacks(f"'{command[0]}' cannot be run: {error.strerror}") from error
    last = last_line(done.stderr)
    if done.returncode:
        # What follows -c is a program, which says nothing to people.
        said = " ".join(command[: command.index("-c") if "-c" in command else 4])
        raise EnvironmentLacks(f"'{said}' failed with exit code {done.returncode}: {last}")
    return last


def default_memory() -> int:
    """Return nine tenths of the memory that is free now, in bytes, at least 2 GB."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        available = 4 * GIGABYTE
    return max(available * 9 // 10, 2 * GIGABYTE)


def one_line(text: object, limit: int = 300) -> str:
    """Return the first telling line of a foreign message: no blank lines, no source positions, bounded."""
    noise = ("Exception from", "Check '", "FrontEnd API failed", "Traceback", 'File "', "Summary:")
    lines = [_ORT_SOURCE.sub("", _ORT_PREFIX.sub("", line)).strip() for line in str(text).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(noise)] or lines or ["no reason given"]
    first = telling[0].removeprefix("-- ")
    return first if len(first) <= limit else first[: limit - 3] + "..."


def last_line(data: bytes) -> str:
    """Return the last line that is not blank, or a phrase that says there is none."""
    lines = [line.strip() for line in data.decode(errors="replace").splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else "it printed nothing"


def _run(command: list[str], request: bytes, limits: Limits, memory: int) -> str:
    """Run the child; return a complaint about how it ended, or an empty string."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        try:
            _, said = child.communicate(request, timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            return f"reading it took longer than {limits.seconds:g} s and was stopped"
        finally:
            _kill_group(child.pid)
    if child.returncode >= 0:
        return "" if child.returncode == 0 else f"its reader failed: {last_line(said)}"
    name = signal.Signals(-child.returncode).name
    if name in {"SIGKILL", "SIGABRT"}:
        return f"its reader was ended by {name}, most often for want of memory (limit {memory / GIGABYTE:.1f} GB)"
    return f"its reader crashed ({name}); the file is damaged, or of a kind this library cannot read"


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _revive(failure: Failure) -> WhetError:
    if failure.extra:
        revived = errors.MissingExtra("", failure.extra)
        revived.args = (failure.message,)
        return revived
    kind = getattr(errors, failure.kind, None) if failure.kind else None
    if isinstance(kind, type) and issubclass(kind, WhetError):
        return kind(failure.message)
    return ModelError(failure.message)


def _limit(memory: int) -> None:
    for which, wanted in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_AS, 64 * memory + 64 * GIGABYTE)):
        hard = resource.getrlimit(which)[1]
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (bound, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _child(target: str, answer: Path, refusal: Path, memory: int) -> None:
    _limit(memory)
    request = sys.stdin.buffer.read()
    try:
        module, _, name = target.partition(":")
        function: Callable[[bytes], bytes] = getattr(importlib.import_module(module), name)
        result = function(request)
    except errors.MissingExtra as error:
        failure = Failure(type(error).__name__, str(error), error.extra)
    except WhetError as error:
        failure = Failure(type(error).__name__, str(error))
    except MemoryError:
        failure = Failure("ModelError", f"reading it needs more than {memory / GIGABYTE:.1f} GB of memory")
    except Exception as error:  # noqa: BLE001  (the boundary: whatever a foreign reader raises becomes one line)
        failure = Failure("", one_line(f"{type(error).__name__}: {error}"))
    else:
        answer.write_bytes(result)
        return
    refusal.write_bytes(msgspec.json.encode(failure))


def main() -> None:
    """What the child runs: target, answer file, refusal file and memory bound are its arguments."""
    target, answer, refusal, memory = sys.argv[1:]
    _child(target, Path(answer), Path(refusal), int(memory))
