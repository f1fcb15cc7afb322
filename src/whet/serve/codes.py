"""What a kind of error is called on the wire: one table per transport, and the words that go with it.

Every class of the tree stands in both tables; a test walks the tree. Transports ask here and nowhere else.
"""

import logging
import math
import uuid
from typing import Any

from whet import errors
from whet.errors import QueueFull, RuntimeFailed, WhetError

log = logging.getLogger(__name__)

# kind of error -> HTTP status, name of the gRPC status
_CODES: dict[type[WhetError], tuple[int, str]] = {
    errors.WhetError: (500, "INTERNAL"),
    errors.UsageError: (400, "INVALID_ARGUMENT"),
    errors.TargetsNotMet: (500, "INTERNAL"),
    errors.InputError: (400, "INVALID_ARGUMENT"),
    errors.ModelError: (400, "INVALID_ARGUMENT"),
    errors.Unsupported: (501, "UNIMPLEMENTED"),
    errors.DataError: (400, "INVALID_ARGUMENT"),
    errors.BundleError: (400, "FAILED_PRECONDITION"),
    errors.TensorError: (400, "INVALID_ARGUMENT"),
    errors.TooLarge: (413, "INVALID_ARGUMENT"),
    errors.EnvironmentLacks: (500, "FAILED_PRECONDITION"),
    errors.MissingExtra: (501, "UNIMPLEMENTED"),
    errors.AddressInUse: (500, "FAILED_PRECONDITION"),
    errors.OutputError: (500, "INTERNAL"),
    errors.PlanRefused: (400, "FAILED_PRECONDITION"),
    errors.RuntimeFailed: (500, "INTERNAL"),
    errors.CallFailed: (502, "UNAVAILABLE"),
    errors.Unreachable: (502, "UNAVAILABLE"),
    errors.TimedOut: (504, "UNAVAILABLE"),
    errors.WrongAnswer: (502, "INTERNAL"),
    errors.ServingError: (503, "UNAVAILABLE"),
    errors.NotFound: (404, "NOT_FOUND"),
    errors.NotReady: (503, "UNAVAILABLE"),
    errors.QueueFull: (429, "RESOURCE_EXHAUSTED"),
    errors.DeadlineExceeded: (504, "DEADLINE_EXCEEDED"),
    errors.Cancelled: (499, "CANCELLED"),
    errors.Forbidden: (403, "PERMISSION_DENIED"),
}
HTTP: dict[type[WhetError], int] = {kind: http for kind, (http, _) in _CODES.items()}
"""Kind of error -> HTTP status."""
GRPC: dict[type[WhetError], str] = {kind: grpc for kind, (_, grpc) in _CODES.items()}
"""Kind of error -> name of the gRPC status."""
GRPC_NUMBERS = {
    "OK": 0,
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}
"""Name of a gRPC status -> its number on the wire (google/rpc/code.proto)."""
SLUGS: dict[str, type[WhetError]] = {kind.slug: kind for kind in _CODES}
"""Slug -> kind; how an error crosses a process boundary."""


def _nearest(kind: type[WhetError]) -> type[WhetError]:
    return next(base for base in kind.__mro__ if base in _CODES)


def http_status(error: WhetError) -> int:
    """Return the HTTP status of an error."""
    return HTTP[_nearest(type(error))]


def grpc_status(error: WhetError) -> str:
    """Return the name of an error's gRPC status."""
    return GRPC[_nearest(type(error))]


def http_headers(error: WhetError) -> bytes:
    """Return the header lines an error brings: when to come again. HTTP counts whole seconds."""
    return b"Retry-After: %d\r\n" % max(1, math.ceil(error.retry_after_s)) if isinstance(error, QueueFull) else b""


def grpc_trailers(error: WhetError) -> tuple[tuple[str, str], ...]:
    """Return the trailing metadata an error brings: when to come again, as gRPC's own retry policy reads it."""
    if isinstance(error, QueueFull):
        return (("grpc-retry-pushback-ms", str(max(1, math.ceil(error.retry_after_s * 1e3)))),)
    return ()


def known(error: BaseException) -> WhetError:
    """Return ``error`` if it is of the tree; else log it under an id and return an error that names only the id."""
    if isinstance(error, WhetError):
        return error
    mark = uuid.uuid4().hex[:12]
    log.error("unexpected failure %s", mark, exc_info=error)
    return RuntimeFailed(f"the server failed on this request; its log has the cause under {mark}")


def to_wire(error: WhetError) -> dict[str, Any]:
    """Return an error as a value that crosses the control socket."""
    return {"slug": _nearest(type(error)).slug, "message": str(error)}


def from_wire(document: dict[str, Any]) -> WhetError:
    """Return the error :func:`to_wire` was given, as far as it crossed."""
    kind = SLUGS.get(document.get("slug", ""), WhetError)
    error = kind.__new__(kind)
    error.args = (document.get("message", ""),)
    if isinstance(error, QueueFull):
        error.retry_after_s = 1.0
    return error
