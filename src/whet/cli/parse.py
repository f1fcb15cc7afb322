"""Values of options that are more than a number or a word; each failure says what was given and what is wanted."""

import re

from whet.errors import UsageError

_UNITS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """Read a duration such as ``60s``, ``2m``, ``1.5h``, ``250ms`` or ``60`` and return seconds.

    Raises:
        UsageError: not a positive duration.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    if match is None or match[2] not in _UNITS or float(match[1]) <= 0:
        raise UsageError(f"'{text}' is no duration; write it as 60s, 2m or 1h")
    return float(match[1]) * _UNITS[match[2]]


def named_paths(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """Read ``NAME=PATH`` pairs.

    Raises:
        UsageError: no ``=`` or an empty side.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name or not path:
            raise UsageError(f"{option} '{text}' is no pair; write NAME=PATH")
        pairs[name] = path
    return pairs
