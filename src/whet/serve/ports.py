"""Ports, taken before anything slow begins, so that one in use is found out at once."""

import contextlib
import errno
import socket
from collections.abc import Iterator

from whet.errors import AddressInUse

BACKLOG = 1024
"""Connections that may wait to be accepted."""


@contextlib.contextmanager
def listening(what: str, host: str, port: int) -> Iterator[socket.socket]:
    """Yield a listening socket that workers inherit: every one of them accepts from it.

    Args:
        what: it is for, ``HTTP`` or ``gRPC``.
        host: address to listen on.
        port: to listen on; 0 takes a free one.

    Raises:
        AddressInUse: somebody else has the port, or it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen(BACKLOG)
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror}"
            where = f"{host}:{port}"
            raise AddressInUse(f"{what} port {where} {why}; choose another with --{what.lower()}-port") from error
        yield sock
