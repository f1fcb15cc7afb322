"""Calls over a stream socket, one JSON document a line: between supervisor and workers, and on the control socket.

Both ends may call. ``{"id", "op", "args"}`` asks, ``{"id", "result"}`` or ``{"id", "error"}`` answers, ``{"op",
"args"}`` without an id tells and wants no answer. Errors of the tree cross as slug and message.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from whet.errors import NotReady, UsageError, WhetError
from whet.serve.codes import from_wire, known, to_wire

LINE_BYTES = 64 << 20
"""Longest line; a fleet with thousands of models has statistics of some megabytes."""
log = logging.getLogger(__name__)
Handle = Callable[[str, dict[str, Any]], Awaitable[Any]]


class Channel:
    """One end of a control connection. All on the loop's thread."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handle) -> None:
        self._reader, self._writer, self._handle = reader, writer, handle
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._number = 0
        self.closed = False

    async def run(self) -> None:
        """Serve until the other end closes; what was asked and not answered fails then."""
        try:
            while line := await self._reader.readline():
                self._take(msgspec.json.decode(line))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.warning("control connection broke: %s", error)
        finally:
            self.close()

    async def ask(self, op: str, /, **args: Any) -> Any:
        """Call the other end and return its result.

        Raises:
            NotReady: the connection is closed, or closes before the answer.
            WhetError: what the other end raised.
        """
        if self.closed:
            raise NotReady(f"cannot ask for '{op}': the other process is gone; try again")
        self._number += 1
        number, future = self._number, asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            self._send({"id": number, "op": op, "args": args})
            return await future
        finally:
            self._asked.pop(number, None)

    def tell(self, op: str, /, **args: Any) -> None:
        """Call the other end without waiting; a closed connection is no error."""
        if not self.closed:
            self._send({"op": op, "args": args})

    def close(self) -> None:
        """Close; whoever waits for an answer gets an error."""
        if self.closed:
            return
        self.closed = True
        self._writer.close()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(NotReady("the other process ended before it answered; try again"))
        for task in self._working:
            task.cancel()

    def _send(self, document: dict[str, Any]) -> None:
        self._writer.write(msgspec.json.encode(document, enc_hook=str) + b"\n")

    def _take(self, document: dict[str, Any]) -> None:
        if "op" in document:
            task = asyncio.get_running_loop().create_task(self._work(document))
            self._working.add(task)
            task.add_done_callback(self._working.discard)
            return
        future = self._asked.get(document.get("id", 0))
        if future is None or future.done():
            return
        if "error" in document:
            future.set_exception(from_wire(document["error"]))
        else:
            future.set_result(document.get("result"))

    async def _work(self, document: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"id": document.get("id")}
        try:
            answer["result"] = await self._handle(str(document["op"]), dict(document.get("args") or {}))
        except Exception as error:  # noqa: BLE001  (known() logs what is not of the tree)
            answer["error"] = to_wire(known(error))
        if document.get("id") is not None and not self.closed:
            self._send(answer)


async def over(sock: socket.socket, handle: Handle) -> Channel:
    """Return a channel over a connected socket. Run it with :meth:`Channel.run`."""
    reader, writer = await asyncio.open_connection(sock=sock, limit=LINE_BYTES)
    return Channel(reader, writer, handle)


async def call(path: str, op: str, /, **args: Any) -> Any:
    """Ask the supervisor behind the control socket ``path`` once.

    Raises:
        UsageError: nobody listens there.
        WhetError: what the supervisor raised.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES)
    except OSError as error:
        raise UsageError(f"no server listens on control socket {path}: {error.strerror}") from error
    channel = Channel(reader, writer, _refuse)
    running = asyncio.ensure_future(channel.run())
    try:
        return await channel.ask(op, **args)
    finally:
        channel.close()
        await running


async def _refuse(op: str, args: dict[str, Any]) -> None:  # noqa: ARG001  (the shape of a handler)
    raise WhetError(f"this end takes no calls ('{op}')")
