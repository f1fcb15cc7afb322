"""The gRPC server of one loop."""

import asyncio

from whet.serve.exchange import Limits
from whet.serve.h2.connection import Connection
from whet.serve.h2.stream import Handler
from whet.serve.server import SocketServer

SCRATCH_BYTES = 256 << 10
"""Read buffer shared by a loop's connections: a picture's worth in one call of the kernel."""
_SPREAD, _STEPS = 0.2, 8
"""Connections made together do not all reconnect together: ages differ by up to a fifth, in this many steps."""


class GrpcServer(SocketServer):
    """The gRPC connections of one loop.

    Args:
        handler: given every call whose message is whole.
        limits: bounds of what a client may do; ``idle_s`` is not among them: gRPC channels lie idle for long.
        loop: of the worker.
        age_s: age at which a connection is asked to reconnect, so that it may reach another worker; None for never.
    """

    def __init__(
        self, handler: Handler, limits: Limits, loop: asyncio.AbstractEventLoop, age_s: float | None = None
    ) -> None:
        super().__init__(Connection, limits, loop, SCRATCH_BYTES)
        self.handler = handler
        self._age_s = age_s
        self._made = 0

    @property
    def age_s(self) -> float | None:
        """Age at which the next connection is asked to reconnect, seconds, or None."""
        if self._age_s is None:
            return None
        self._made += 1
        return self._age_s * (1 - _SPREAD / 2 + _SPREAD * (self._made % _STEPS) / _STEPS)
