"""Lets nobody inside a process change the CPU masks of its threads; whoever started it still can.

OpenVINO's thread pool (oneTBB with hwloc) reads the process's mask once and puts every stream thread back on it for
each inference, so a mask that is narrowed or moved later would not hold, and one that is narrow from the start could
not be left again. A seccomp filter makes ``sched_setaffinity`` do nothing and say that it did.
"""

import ctypes
import os
import struct

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
# Machine -> (AUDIT_ARCH_* of linux/audit.h, number of sched_setaffinity).
_MACHINES = {"x86_64": (0xC000003E, 203), "aarch64": (0xC00000B7, 122)}
# From linux/bpf_common.h and linux/seccomp.h; the offsets are those of struct seccomp_data.
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_AT_NUMBER, _AT_ARCH = 0, 4
_ALLOW, _SAY_ZERO = 0x7FFF0000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def hold_masks() -> str | None:
    """From now on ignore ``sched_setaffinity`` of the calling thread and of every thread and process it starts.

    Returns:
        None, or a note saying why it is not so.
    """
    known = _MACHINES.get(os.uname().machine)
    if known is None:
        return f"CPU masks are not held: the kernel's call is not known for {os.uname().machine or 'this machine'}"
    arch, number = known
    steps = (
        (_LOAD, 0, 0, _AT_ARCH),
        (_JUMP_EQUAL, 0, 3, arch),
        (_LOAD, 0, 0, _AT_NUMBER),
        (_JUMP_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, _SAY_ZERO),
        (_RETURN, 0, 0, _ALLOW),
    )
    program = _Program(len(steps), b"".join(struct.pack("=HBBI", *step) for step in steps))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    for option, first, second in (
        (_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero),  # a filter needs it from whoever is not privileged
        (_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(program)),
    ):
        if libc.prctl(option, first, second, zero, zero):
            return f"CPU masks are not held: the kernel refuses the filter ({os.strerror(ctypes.get_errno())})"
    return None
