"""The wire reader: what the encoding says, and damage that is named."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import ModelError
from whet.models.importers import wire


def walk(data):
    return list(wire.fields(memoryview(data), "'file'"))


def encode(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


@given(st.integers(0, (1 << 64) - 1))
def test_a_whole_number_survives(value):
    data = encode(value)
    assert wire.varint(memoryview(data), 0, "x") == (value, len(data))
    signed = value - (1 << 64) if value >> 63 else value
    assert wire.integer(value, "x") == signed
    assert wire.integers(memoryview(data * 3), "x") == [signed] * 3


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=0, max_size=300), st.booleans())
def test_packed_and_unpacked_floats_are_the_same(numbers, packed):
    raw = struct.pack(f"<{len(numbers)}f", *numbers)
    unpacked = b"".join(b"\x2d" + raw[i : i + 4] for i in range(0, len(raw), 4))
    data = b"\x2a" + encode(len(raw)) + raw if packed else unpacked
    chunks = [value for number, _, value in walk(data + b"\x08\x01") if number == 5]
    np.testing.assert_array_equal(wire.numbers(chunks, "<f4", "x"), np.asarray(numbers, np.float32))


def test_a_run_of_unpacked_floats_is_one_field_and_ends_where_it_ends():
    run = b"".join(b"\x2d" + struct.pack("<f", i) for i in range(1000))
    found = walk(run + b"\x35" + b"\0\0\0\0" + run[:5] + b"\x08\x07")
    assert [(number, len(value) if isinstance(value, memoryview) else value) for number, _, value in found] == [
        (5, 4000),
        (6, 4),
        (5, 4),
        (1, 7),
    ]


def test_numbers_are_views_of_the_file():
    data = bytearray(b"\x2a\x08" + struct.pack("<2f", 1, 2))
    ((_, _, value),) = walk(data)
    array = wire.numbers([value], "<f4", "x")
    data[2:6] = struct.pack("<f", 9)
    assert array.tolist() == [9, 2]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x2a\x05ab", "field 5 at byte 0 claims 5 bytes, 2 are left"),
        (b"\x2a" + b"\xff" * 9 + b"\x01", "claims"),
        (b"\x08" + b"\xff" * 10, "no whole number at byte 1"),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "no whole number"),
        (b"\x80", "no whole number at byte 0"),
        (b"\x0b", "impossible tag 11"),
        (b"\x00\x01", "impossible tag 0"),
        (b"\x2d\x00\x00", "claims 4 bytes, 2 are left"),
    ],
)
def test_damage_is_named(data, said):
    with pytest.raises(ModelError, match=said):
        walk(data)


def test_a_field_of_another_kind_is_damage():
    for action in (lambda: wire.message(3, "x"), lambda: wire.integer(memoryview(b"ab"), "x")):
        with pytest.raises(ModelError, match="damaged"):
            action()
    with pytest.raises(ModelError, match="3 bytes of 4-byte numbers"):
        wire.numbers([memoryview(b"abc")], "<f4", "x")


def test_text_that_is_no_utf8_stays_distinct():
    assert wire.text(memoryview(b"a\xff\xc3\xa9"), "x") == "a\\xffé"


@pytest.mark.parametrize("dims", [(10**6, 10**6), (-1, 3), (1,) * 33, (0, 1 << 40, 1 << 40), (1 << 63, 2)])
def test_an_absurd_shape_is_refused(dims):
    with pytest.raises(ModelError, match="claims a tensor"):
        wire.element_count(dims, "x")


def test_a_shape_is_counted():
    assert [wire.element_count(dims, "x") for dims in ((), (0, 5), (2, 3), (1 << 31,))] == [1, 0, 6, 1 << 31]
