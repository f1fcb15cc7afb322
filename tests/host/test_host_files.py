import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.host.files import Tree, brief_list, format_list, kilobytes, parse_list, parse_size


@given(st.sets(st.integers(0, 4095)))
def test_what_is_formatted_as_a_list_is_read_back(numbers):
    ordered = tuple(sorted(numbers))
    assert parse_list(format_list(ordered)) == ordered


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("\n", ()),
        ("0", (0,)),
        ("0-3,8", (0, 1, 2, 3, 8)),
        ("8,0-1", (0, 1, 8)),
        ("0-3,2-4", (0, 1, 2, 3, 4)),
        ("0-7:2/4", (0, 1, 4, 5)),
    ],
)
def test_kernel_lists(text, expected):
    assert parse_list(text) == expected


@pytest.mark.parametrize("text", ["a", "3-1", "-1", "1-", "0-99999999999", "0-4:1/0", "0x3", "1 2"])
def test_what_is_no_list_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_list(text)


def test_long_lists_are_cut_for_people_and_short_ones_are_not():
    assert brief_list(tuple(range(0, 80, 2))) == "0,2,4,6,8,10,...,76,78"
    assert brief_list(tuple(range(80))) == "0-79"


@pytest.mark.parametrize(
    ("text", "expected"), [("32768K", 32 << 20), ("1M", 1 << 20), ("64", 64), ("", None), ("x", None)]
)
def test_sizes(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("12 kB", 12288), ("7", 7168), ("12 MB", None), ("", None), (None, None)]
)
def test_kilobytes(text, expected):
    assert kilobytes(text) == expected


def test_unreadable_files_are_empty_answers(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge").write_text("9" * 5000)
    os.mkfifo(tmp_path / "pipe")
    tree = Tree(tmp_path)
    for name in ("absent", "folder", "folder/absent", "binary/below", "nul\0name"):
        assert tree.text(name) is None
        assert tree.number(name) is None
        assert tree.numbers(name) is None
        assert tree.pairs(name) == {}
        assert tree.names(f"{name}/x") == []
    assert tree.number("huge") is None
    assert tree.text("pipe") == ""
    assert tree.notes == []


def test_a_malformed_list_is_remarked_once(tmp_path):
    (tmp_path / "online").write_text("zero to three\n")
    tree = Tree(tmp_path)
    assert tree.numbers("online") is None
    assert tree.numbers("online") is None
    assert tree.notes == ["/online holds no list of numbers: 'zero to three'"]
