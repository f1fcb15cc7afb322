"""Which CPUs a process under a quota keeps to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.host.quietest import MOVE_GAIN, quietest, read_busy, taken_by_others, widths

loads = st.dictionaries(st.integers(0, 40), st.floats(0, 1), min_size=1, max_size=12)


def test_work_is_everything_but_idle_and_waiting_for_storage(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(
        "cpu  60 0 40 900 100 0 0 30 0 0\ncpu0 50 0 30 500 100 5 5 10 7 0\ncpu12 10 0 10 400 0\nintr 5\nctxt 9\n"
    )
    busy = read_busy(tmp_path)
    assert busy == {0: 1.0, 12: 0.2}  # at 100 ticks a second
    assert read_busy(tmp_path / "nowhere") == {}


def test_own_work_is_not_others():
    assert taken_by_others({0: 1.9, 1: 0.1, 2: 1.0}, {0: 1.8}, 2.0) == pytest.approx({0: 0.05, 1: 0.05, 2: 0.5})
    assert taken_by_others({0: 1.0, 1: 9.0}, {0: 2.0}, 2.0) == {0: 0.0, 1: 1.0}
    assert taken_by_others({0: 1.0}, {}, 0.0) == {0: 0.0}


def test_the_idlest_are_chosen_and_left_only_for_much_idler_ones():
    assert quietest({0: 0.9, 1: 0.0, 2: 0.5, 3: 0.1}, (), 2) == (1, 3)
    assert quietest({0: 0.2, 1: 0.0}, (0,), 1) == (0,)
    assert quietest({0: 0.2 + MOVE_GAIN, 1: 0.0}, (0,), 1) == (1,)
    assert quietest({0: 0.9, 1: 0.9, 2: 0.0, 3: 0.8}, (0, 1), 2) == (1, 2)


def test_processes_on_an_idle_host_choose_different_cpus():
    idle = dict.fromkeys(range(4), 0.0)
    assert {quietest(idle, (), 1, salt) for salt in range(100, 104)} == {(0,), (1,), (2,), (3,)}


def test_two_processes_on_one_cpu_part_when_the_first_of_them_looks():
    both = {0: 1.0, 1: 0.0}
    assert quietest(both, (0,), 1) == (1,)
    assert quietest({0: 0.0, 1: 1.0}, (0,), 1) == (0,)  # the other has gone: nothing to flee from


@given(loads, st.sets(st.integers(0, 40)), st.integers(1, 6), st.integers(0, 99))
def test_as_many_as_asked_all_allowed_and_none_much_busier_than_one_left_out(taken, kept, count, salt):
    chosen = quietest(taken, kept, count, salt)
    assert len(set(chosen)) == len(chosen) == min(count, len(taken))
    assert set(chosen) <= taken.keys()
    left = taken.keys() - set(chosen)
    if left:
        assert max(taken[cpu] for cpu in chosen) - min(taken[cpu] for cpu in left) < MOVE_GAIN
    assert quietest(taken, chosen, count, salt) == chosen


@pytest.mark.parametrize(
    ("cpus", "quota", "expected"),
    [([1], 1.0, [1]), ([1], 0.5, [1]), ([1], 1.5, [2]), ([1, 1], 2.5, [2, 1]), ([2], 3.0, [3])],
)
def test_a_fraction_of_a_quota_is_one_more_cpu(cpus, quota, expected):
    assert widths(cpus, quota) == expected
