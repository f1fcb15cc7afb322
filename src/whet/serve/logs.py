"""Logging of server processes: one line an event on standard error, for people or for programs."""

import logging
import sys
from datetime import UTC, datetime

import msgspec


class _Text(logging.Formatter):
    def __init__(self, who: str) -> None:
        super().__init__(f"%(asctime)s.%(msecs)03d {who} %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")


class _Json(logging.Formatter):
    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "process": self._who,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(document).decode()


def configure(who: str, level: str, form: str) -> None:
    """Send this process's log to standard error.

    Args:
        who: the process, shown on every line (``supervisor``, ``worker 0``).
        level: lowest level shown.
        form: ``text`` or ``json``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(who) if form == "json" else _Text(who))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("asyncio", "hpack"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
