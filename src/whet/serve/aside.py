"""Decompression beside the loop: zlib releases the GIL, and a bomb must not stop the loop."""

import asyncio
import logging
from collections.abc import Callable

from whet.errors import RuntimeFailed, TensorError, WhetError
from whet.serve.bodies import inflate

log = logging.getLogger(__name__)


def inflate_aside(
    loop: asyncio.AbstractEventLoop,
    body: tuple[memoryview, bytes, int],
    then: Callable[[memoryview], None],
    failed: Callable[[WhetError], None],
) -> None:
    """Inflate on a thread of the loop's executor; ``then`` or ``failed`` is called on the loop.

    Args:
        loop: of the worker.
        body: compressed, its content coding (one of ``CODINGS``), and the most bytes it may become.
        then: takes what came out.
        failed: takes what was wrong with it.
    """

    def done(future: asyncio.Future[memoryview]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            then(future.result())
        elif isinstance(error, TensorError):
            failed(error)
        else:
            log.error("decompression failed", exc_info=error)
            failed(RuntimeFailed("decompressing the request failed"))

    loop.run_in_executor(None, inflate, *body).add_done_callback(done)
