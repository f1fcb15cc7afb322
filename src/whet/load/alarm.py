"""Waking an event loop at a precise instant.

An event loop's own timers end on the next whole millisecond (epoll's timeout), which would send every request of an
open loop up to 1 ms late and show as latency. A timerfd (timerfd_create(2)) wakes the loop within tens of
microseconds, without spinning.
"""

import asyncio
import ctypes
import os
import time

from whet.errors import EnvironmentLacks

_ABSOLUTE = 1  # TFD_TIMER_ABSTIME


class _Spec(ctypes.Structure):
    """``struct itimerspec``: interval (zero: rings once) and first ring, each in seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("ring_s", ctypes.c_long),
        ("ring_ns", ctypes.c_long),
    )


class Alarm:
    """One alarm of the running loop; one waiter at a time. Times are ``time.monotonic()`` seconds."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise EnvironmentLacks(f"timerfd_create failed: {os.strerror(ctypes.get_errno())}; Whet needs Linux")
        self._waiting: asyncio.Future[None] | None = None
        self._loop.add_reader(self._file, self._ring)

    async def until(self, when_s: float) -> None:
        """Return at ``when_s`` or as soon after as the loop is free; at once if it has passed."""
        if when_s <= time.monotonic():
            return
        seconds, rest = divmod(when_s, 1.0)
        spec = _Spec(0, 0, int(seconds), int(rest * 1e9))
        self._waiting = self._loop.create_future()
        self._libc.timerfd_settime(self._file, _ABSOLUTE, ctypes.byref(spec), None)
        await self._waiting

    def close(self) -> None:
        """Give the file descriptor back."""
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def _ring(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            return
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
