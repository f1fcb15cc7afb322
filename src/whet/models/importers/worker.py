"""The isolated half of an import: convert one file and settle the result. Bytes in, bytes out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from whet.models.importers.base import Format, Options
from whet.models.importers.settle import Settled, settle


@dataclass(frozen=True, slots=True)
class Request:
    """What the child is asked.

    Attributes:
        path: the model, or ``module:function``.
        format: the row that recognised it.
        options: what the user said.
        workdir: where to write; the caller's, so that files survive the child.
    """

    path: str
    format: Format
    options: Options
    workdir: str


def run(request: bytes) -> bytes:
    """Convert and settle; the target of :func:`whet.models.importers.isolated.call`."""
    asked = decode(request, Request)
    workdir = Path(asked.workdir)
    converted = asked.format.convert(Path(asked.path), asked.options, workdir)
    return encode(settle(converted, asked.options, workdir))


def encode(value: object) -> bytes:
    """Return ``value`` as JSON, paths as strings."""
    return msgspec.json.encode(value, enc_hook=str)


def decode(data: bytes, kind: type[Any]) -> Any:
    """Read back what :func:`encode` wrote."""
    return msgspec.json.decode(data, type=kind, dec_hook=lambda wanted, value: wanted(value))


def answer(data: bytes) -> Settled:
    """Read the child's answer."""
    settled: Settled = decode(data, Settled)
    return settled
