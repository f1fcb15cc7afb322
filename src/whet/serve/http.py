"""The HTTP server of one loop."""

import asyncio
import email.utils

from whet.serve.connection import Connection
from whet.serve.exchange import Handler, Limits
from whet.serve.server import SocketServer

SCRATCH_BYTES = 16 << 10
"""Read buffer for heads, shared by a loop's connections; small, so that most of a body is read where it stays."""


class HttpServer(SocketServer):
    """The HTTP connections of one loop."""

    def __init__(self, handler: Handler, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(Connection, limits, loop, SCRATCH_BYTES)
        self.handler = handler
        self.date = b""

    def tick(self) -> None:
        """Write the date that every answer bears."""
        self.date = b"Date: %b\r\n" % email.utils.formatdate(usegmt=True).encode()
