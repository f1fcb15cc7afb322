"""What the servers of both transports share: the connections of one loop, their timeouts, and how they drain."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from whet.serve.exchange import Limits

SWEEP_S = 0.25


class Socket(Protocol):
    """One connection, as its server sees it.

    Attributes:
        deadline: loop time at which :meth:`expire` is due, or infinity.
    """

    deadline: float

    def expire(self) -> None:
        """The deadline has passed."""
        ...

    def wind_down(self) -> None:
        """Take no further requests, and close once those in flight are answered."""
        ...

    def abort(self) -> None:
        """Close now."""
        ...


class SocketServer:
    """The connections of one loop. Give :meth:`protocol` to ``loop.create_server``.

    Args:
        make: a new connection.
        limits: bounds of what a client may do.
        loop: of the worker.
        scratch_bytes: size of the read buffer that all connections share.
    """

    def __init__(
        self, make: Callable[[Any], Any], limits: Limits, loop: asyncio.AbstractEventLoop, scratch_bytes: int
    ) -> None:
        self._make = make
        self.limits = limits
        self.loop = loop
        self.connections: set[Any] = set()
        self.draining = False
        self.scratch = bytearray(scratch_bytes)
        self._idle: asyncio.Future[None] | None = None
        self._sweeper = loop.call_soon(self._sweep)

    def protocol(self) -> asyncio.BufferedProtocol:
        """Return the protocol of a new connection."""
        made: asyncio.BufferedProtocol = self._make(self)
        return made

    async def drain(self, timeout_s: float) -> bool:
        """Finish what is in flight, close every connection, and stop. The listener is the caller's to close first.

        Returns:
            Whether everything was answered in time.
        """
        self.draining = True
        for connection in list(self.connections):
            connection.wind_down()
        self._idle = self.loop.create_future()
        if not self.connections:
            self._idle.set_result(None)
        done, _ = await asyncio.wait([self._idle], timeout=timeout_s)
        for connection in list(self.connections):
            connection.abort()
        self._sweeper.cancel()
        return bool(done)

    def gone(self, connection: Any) -> None:
        """Forget a closed connection."""
        self.connections.discard(connection)
        if self._idle is not None and not self.connections and not self._idle.done():
            self._idle.set_result(None)

    def tick(self) -> None:
        """Called a few times a second."""

    def _sweep(self) -> None:
        """Close what is past its deadline; one timer for all connections, so that a request costs none."""
        self.tick()
        now = self.loop.time()
        for connection in [connection for connection in self.connections if connection.deadline < now]:
            connection.expire()
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)
