"""HTTP/2 frames as bytes (RFC 9113). Pure."""

import struct
from collections.abc import Iterator
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD = struct.Struct(">HBBBI")
"""High 16 and low 8 bits of the payload's length, type, flags, stream."""
HEAD_BYTES = FRAME_HEAD.size
NUMBER = struct.Struct(">I")
LEAST_MAX_FRAME, MOST_MAX_FRAME = 1 << 14, (1 << 24) - 1
FIRST_WINDOW = (1 << 16) - 1
MOST_WINDOW = MOST_ID = (1 << 31) - 1
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITISED = 0x4, 0x8, 0x20


class Kind(IntEnum):
    """Types of frames (section 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Error codes (section 7) that are sent here."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    """Settings (section 6.5.2) that are read or sent here."""

    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Violation(Exception):  # noqa: N818  (an error of the peer's, never of Whet's: it ends the connection)
    """The peer broke the protocol; the connection ends with ``code``.

    Attributes:
        code: told to the peer.
    """

    def __init__(self, code: Code, words: str) -> None:
        super().__init__(words)
        self.code = code


def head(kind: Kind, flags: int, stream: int, length: int) -> bytes:
    """Return the head of a frame whose payload has ``length`` bytes."""
    return FRAME_HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def frame(kind: Kind, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    return head(kind, flags, stream, len(payload)) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(Kind.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *item) for item in values.items()))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield the settings of a SETTINGS frame in order, unknown ones included.

    Raises:
        Violation: the payload is no list of settings, or a value is out of its range.
    """
    if len(payload) % 6:
        raise Violation(Code.FRAME_SIZE_ERROR, "a SETTINGS frame is cut off")
    for name, value in struct.iter_unpack(">HI", payload):
        if name == Setting.INITIAL_WINDOW_SIZE and value > MOST_WINDOW:
            raise Violation(Code.FLOW_CONTROL_ERROR, f"an initial window of {value} is past {MOST_WINDOW}")
        if name == Setting.MAX_FRAME_SIZE and not LEAST_MAX_FRAME <= value <= MOST_MAX_FRAME:
            raise Violation(Code.PROTOCOL_ERROR, f"a maximum frame size of {value} is out of range")
        yield name, value


def window_update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, NUMBER.pack(increment))


def reset(stream: int, code: Code) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(Kind.RST_STREAM, 0, stream, NUMBER.pack(code))


def go_away(last: int, code: Code, words: str = "") -> bytes:
    """Return a GOAWAY frame: streams after ``last`` were not and will not be looked at."""
    return frame(Kind.GOAWAY, 0, 0, NUMBER.pack(last) + NUMBER.pack(code) + words.encode()[:200])


def number(payload: bytes) -> int:
    """Return the 31-bit number that is a whole payload.

    Raises:
        Violation: the payload is of another size.
    """
    if len(payload) != NUMBER.size:
        raise Violation(Code.FRAME_SIZE_ERROR, f"a payload of 4 bytes has {len(payload)}")
    return int(NUMBER.unpack(payload)[0]) & MOST_ID


def unpadded(flags: int, payload: bytes) -> bytes:
    """Return the payload of a HEADERS frame without padding and priority.

    Raises:
        Violation: it is shorter than its padding.
    """
    start, end = 0, len(payload)
    if flags & PADDED:
        start, end = 1, end - (payload[0] if payload else 0)
    if flags & PRIORITISED:
        start += 5
    if start > end:
        raise Violation(Code.PROTOCOL_ERROR, "a HEADERS frame is shorter than its padding")
    return payload[start:end]
