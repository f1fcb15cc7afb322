"""The HTTP server of one loop: its connections, their timeouts, and how it drains."""

import asyncio
import email.utils

from whet.serve.connection import LINGER_S, Connection
from whet.serve.exchange import Handler, Limits

SCRATCH_BYTES = 16 << 10
"""Read buffer for heads, shared by a loop's connections; small, so that most of a body is read where it stays."""
SWEEP_S = 0.25


class HttpServer:
    """The connections of one loop. Give :meth:`protocol` to ``loop.create_server``."""

    def __init__(self, handler: Handler, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.handler = handler
        self.limits = limits
        self.loop = loop
        self.connections: set[Connection] = set()
        self.draining = False
        self.scratch = bytearray(SCRATCH_BYTES)
        self.date = b""
        self._idle: asyncio.Future[None] | None = None
        self._sweeper = loop.call_soon(self._sweep)

    def protocol(self) -> asyncio.BufferedProtocol:
        """Return the protocol of a new connection."""
        return Connection(self)

    async def drain(self, timeout_s: float) -> bool:
        """Finish what is in flight, close every connection, and stop. The listener is the caller's to close first.

        Returns:
            Whether everything was answered in time.
        """
        self.draining = True
        soon = self.loop.time() + LINGER_S
        for connection in self.connections:
            if connection.idle:
                connection.deadline = min(connection.deadline, soon)
        self._idle = self.loop.create_future()
        if not self.connections:
            self._idle.set_result(None)
        done, _ = await asyncio.wait([self._idle], timeout=timeout_s)
        for connection in list(self.connections):
            connection.abort()
        self._sweeper.cancel()
        return bool(done)

    def gone(self, connection: "Connection") -> None:
        """Forget a closed connection."""
        self.connections.discard(connection)
        if self._idle is not None and not self.connections and not self._idle.done():
            self._idle.set_result(None)

    def _sweep(self) -> None:
        """Close what is past its deadline; one timer for all connections, so that a request costs none."""
        now = self.loop.time()
        self.date = b"Date: %b\r\n" % email.utils.formatdate(usegmt=True).encode()
        for connection in [connection for connection in self.connections if connection.deadline < now]:
            connection.expire()
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)
