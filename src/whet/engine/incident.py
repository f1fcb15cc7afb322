"""Where strangers' exceptions end: in the log under an id, which is all that a caller is told."""

import logging
import uuid

from whet.errors import RuntimeFailed, WhetError

log = logging.getLogger("whet.engine")


def failure(error: BaseException, what: str) -> WhetError:
    """Return ``error`` if it is of our tree; else log it under a fresh id and return one that carries only the id."""
    if isinstance(error, WhetError):
        return error
    incident = uuid.uuid4().hex[:12]
    log.error("%s failed, incident %s", what, incident, exc_info=error)
    return RuntimeFailed(f"{what} failed in the runtime; its words are in the log under incident {incident}")
