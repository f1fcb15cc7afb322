"""Ports, taken before anything slow begins, so that one in use is found out at once."""

import contextlib
import errno
import socket
from collections.abc import Iterator

from whet.errors import AddressInUse

BACKLOG = 1024
"""Connections that may wait to be accepted."""


@contextlib.contextmanager
def http(host: str, port: int) -> Iterator[socket.socket]:
    """Yield the listening HTTP socket that workers inherit.

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
            raise AddressInUse(f"HTTP port {where} {why}; choose another with --http-port") from error
        yield sock


@contextlib.contextmanager
def grpc(host: str, port: int, *, share_port: bool) -> Iterator[int]:
    """Yield the gRPC port, which was free a moment ago. Workers that share it find it reserved while this is held.

    gRPC itself would share a port that another program serves in silence; the plain bind done here does not.
    A single worker has the port for itself alone, so nothing can be held for it.

    Raises:
        AddressInUse: somebody else has the port, or it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as held:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                address = probe.getsockname()
            if share_port:
                reserved = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
                reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                reserved.bind(address)  # bound, never listening: no connection is ever given to it
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror}"
            raise AddressInUse(f"gRPC port {host}:{port} {why}; choose another with --grpc-port") from error
        yield address[1]
