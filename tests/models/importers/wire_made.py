"""Protocol-buffer messages written by hand, as the tests of the importers need them."""


def varint(value):
    out = b""
    value &= (1 << 64) - 1
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def part(number, body):
    """A field that holds bytes: a string, a message, packed numbers."""
    return varint(number << 3 | 2) + varint(len(body)) + body
