"""The thin shell that puts a placement into force: CPU mask and memory policy of the calling thread.

Both belong to a thread and are inherited by the threads and processes it starts. So a supervisor wraps the start of a
worker in :func:`inherited`, and the worker's interpreter has its place from its first instruction; a process that
places itself calls :func:`set_affinity` and :func:`set_memory` before it starts any thread. A refusal by the kernel is
a note for the log, never an error: a service on unpinned cores is better than none.

:func:`room_for` does the same for open files: many systems start a process with room for 1024.
"""

import os
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from whet.host.files import format_list

if TYPE_CHECKING:
    import ctypes

Policy = Literal["bind", "preferred"]
"""``bind``: memory of these nodes only, else out of memory; ``preferred``: of these nodes while there is any."""

# From linux/mempolicy.h. MPOL_PREFERRED takes one node; several need MPOL_PREFERRED_MANY, Linux 5.15.
_DEFAULT, _PREFERRED, _BIND, _PREFERRED_MANY = 0, 1, 2, 5

# (set_mempolicy, get_mempolicy): glibc has no wrappers, libnuma is not everywhere.
_SYSCALLS = {"x86_64": (238, 239), "aarch64": (237, 236)}

_THREADS = Path("/proc/self/task")
_MASK_BITS = 1024
"""NUMA nodes a mask can name; no kernel has more (MAX_NUMNODES)."""


@contextmanager
def confined() -> Iterator[None]:
    """Keep the calling thread, and what it starts in the block, on half of its CPUs: the rest stay free for others.

    At the end the thread and all threads of the process that were started meanwhile may use its CPUs again; a lower
    priority could not be taken back like that. With one CPU, or where the kernel refuses, nothing happens.
    """
    mask = os.sched_getaffinity(0)
    if len(mask) < 2 or set_affinity(sorted(mask)[: len(mask) // 2]) is not None:
        yield
        return
    before = set(_THREADS.iterdir())
    try:
        yield
    finally:
        set_affinity(mask)
        for thread in set(_THREADS.iterdir()) - before:
            with suppress(OSError):  # it has ended
                os.sched_setaffinity(int(thread.name), mask)


SPARE_FILES = 128
"""Open files a process needs beside its connections: libraries, models, logs, pipes."""


def room_for(connections: int) -> int:
    """Raise the soft limit on open files so that ``connections`` fit; return how many do under the hard limit.

    At the soft limit accepting fails again and again and nobody is told; a bound below it refuses in words.
    """
    wanted = connections + SPARE_FILES
    soft, hard = (
        wanted if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    if soft < min(wanted, hard):
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return max(1, min(connections, soft - SPARE_FILES))


def set_affinity(cpus: Iterable[int]) -> str | None:
    """Restrict the calling thread to ``cpus``; return ``None``, or a note saying why the mask stays as it was."""
    wanted = tuple(sorted(set(cpus)))
    try:
        os.sched_setaffinity(0, wanted)
    except (OSError, ValueError, OverflowError) as error:
        return f"CPU mask {format_list(wanted)} was not set: {_reason(error)}; the scheduler chooses the CPUs"
    return None


def set_memory(nodes: Iterable[int], policy: Policy = "preferred") -> str | None:
    """Take the calling thread's future memory from NUMA ``nodes``; no nodes restores the default policy.

    Pages already touched stay where they are.

    Returns:
        None, or a note saying why the policy stays as it was (containers often forbid the call).
    """
    wanted = tuple(sorted(set(nodes)))
    if any(not 0 <= node < _MASK_BITS for node in wanted):
        return f"memory policy for nodes {wanted} was not set: node numbers lie between 0 and {_MASK_BITS - 1}"
    mode = _BIND if policy == "bind" else _PREFERRED if len(wanted) == 1 else _PREFERRED_MANY
    error = _set_policy(mode if wanted else _DEFAULT, wanted)
    if error is None:
        return None
    return f"memory policy {policy} for nodes {format_list(wanted)} was not set: {error}; memory comes from anywhere"


def get_memory() -> tuple[int, tuple[int, ...]] | None:
    """Return the calling thread's memory policy as (mode number of linux/mempolicy.h, nodes), or None if unknown."""
    import ctypes

    numbers = _SYSCALLS.get(os.uname().machine)
    if numbers is None:
        return None
    mode, mask = ctypes.c_int(), _mask(())
    if _syscall(numbers[1], ctypes.byref(mode), mask, ctypes.c_ulong(_MASK_BITS + 1), None, ctypes.c_ulong(0)):
        return None
    bits = int.from_bytes(bytes(mask), sys.byteorder)
    return mode.value, tuple(node for node in range(_MASK_BITS) if bits >> node & 1)


@contextmanager
def inherited(cpus: Iterable[int], nodes: Iterable[int] = (), policy: Policy = "preferred") -> Iterator[list[str]]:
    """Give the calling thread a place for as long as the block runs, so that processes started in it inherit it.

    Start one process per block, from a thread that does nothing else meanwhile. The former mask and policy come back
    at the end, also after an exception.

    Args:
        cpus: logical CPUs of the process to start.
        nodes: NUMA nodes it takes memory from; none leaves the memory policy alone.
        policy: how strictly.

    Yields:
        Notes on what the kernel refused; empty when everything is in force.
    """
    mask, memory = os.sched_getaffinity(0), get_memory()
    nodes = tuple(nodes)
    notes = [set_affinity(cpus), set_memory(nodes, policy) if nodes else None]
    try:
        yield [note for note in notes if note is not None]
    finally:
        set_affinity(mask)
        if nodes:
            _set_policy(*(memory or (_DEFAULT, ())))


def _set_policy(mode: int, nodes: tuple[int, ...]) -> str | None:
    """Call set_mempolicy(2); return None or the kernel's reason."""
    import ctypes

    numbers = _SYSCALLS.get(os.uname().machine)
    if numbers is None:
        return f"the number of set_mempolicy is not known for {os.uname().machine or 'this machine'}"
    # The kernel reads one bit less than it is told (get_nodes in mm/mempolicy.c).
    mask, bits = (_mask(nodes), _MASK_BITS + 1) if nodes else (None, 0)
    error = _syscall(numbers[0], ctypes.c_int(mode), mask, ctypes.c_ulong(bits))
    return os.strerror(error) if error else None


def _mask(nodes: tuple[int, ...]) -> "ctypes.Array[ctypes.c_ulong]":
    """Return the kernel's bit mask, an array of unsigned longs."""
    import ctypes

    bits = sum(1 << node for node in nodes)
    words = ctypes.c_ulong * (_MASK_BITS // (8 * ctypes.sizeof(ctypes.c_ulong)))
    return words.from_buffer_copy(bits.to_bytes(_MASK_BITS // 8, sys.byteorder))


def _syscall(number: int, *arguments: object) -> int:
    """Call the kernel; return 0 or the error number."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *arguments) else 0


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
