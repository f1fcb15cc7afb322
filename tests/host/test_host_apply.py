import os
import subprocess
import sys

import pytest

from whet.host import apply, inherited, set_affinity, set_memory

SHOW = "import os; from whet.host.apply import get_memory; print(sorted(os.sched_getaffinity(0)), get_memory())"


def in_child(code):
    """Run code in a process of its own, so that no test changes the mask of the others."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_process_places_itself():
    cpu = max(os.sched_getaffinity(0))
    code = f"from whet.host import set_affinity\nprint(set_affinity([{cpu}]))\n{SHOW}"
    assert in_child(code).splitlines()[:2] == ["None", f"[{cpu}] (0, ())"]


def test_a_started_process_inherits_the_place_and_the_starter_gets_its_own_back():
    mask, policy = os.sched_getaffinity(0), apply.get_memory()
    cpu = max(mask)
    with inherited([cpu], [0], "bind") as notes:
        assert os.sched_getaffinity(0) == {cpu}
        seen = in_child(SHOW)
    assert os.sched_getaffinity(0) == mask
    assert apply.get_memory() == policy
    if not notes:
        assert seen == f"[{cpu}] (2, (0,))"


def test_the_place_comes_back_after_an_exception():
    mask = os.sched_getaffinity(0)
    with pytest.raises(RuntimeError), inherited([min(mask)]):
        raise RuntimeError
    assert os.sched_getaffinity(0) == mask


@pytest.mark.parametrize("cpus", [[100_000], [], [-1], [1 << 40]])
def test_a_mask_the_kernel_refuses_is_a_note(cpus):
    mask = os.sched_getaffinity(0)
    note = set_affinity(cpus)
    assert note.startswith("CPU mask ")
    assert "the scheduler chooses" in note
    assert os.sched_getaffinity(0) == mask


def test_policies_reach_the_kernel_and_the_default_comes_back():
    code = (
        "from whet.host import set_memory\nfrom whet.host.apply import get_memory\n"
        "print(set_memory([0], 'bind'), get_memory(), set_memory([0]), get_memory(), set_memory([]), get_memory())"
    )
    seen = in_child(code)
    if "not set" in seen:
        pytest.skip(f"this kernel or container forbids memory policies: {seen}")
    assert seen == "None (2, (0,)) None (1, (0,)) None (0, ())"


@pytest.mark.parametrize("nodes", [[1023], [5000], [-1]])
def test_nodes_that_do_not_exist_are_a_note(nodes):
    policy = apply.get_memory()
    assert "was not set" in set_memory(nodes, "bind")
    assert apply.get_memory() == policy


def test_a_machine_whose_call_numbers_are_unknown_is_a_note(monkeypatch):
    monkeypatch.setattr(apply, "_SYSCALLS", {})
    assert "is not known for" in set_memory([0])
    assert apply.get_memory() is None


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "fit", "then"),
    [
        (256, 4096, 1000, 1000, 1128),  # raised as far as needed
        (256, 512, 1000, 384, 512),  # as far as allowed
        (4096, 4096, 1000, 1000, 4096),  # never lowered
        (64, 64, 1000, 1, 64),
    ],
)
def test_files_make_room_for_connections_as_far_as_the_hard_limit_allows(soft, hard, wanted, fit, then):
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from whet.host import room_for
print(room_for({wanted}), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    assert in_child(code) == f"{fit} {then} {hard}"


def test_threads_started_in_confinement_are_free_afterwards():
    code = """
import os, threading
from whet.host import confined
end = threading.Event()
masks = {}

def run(name):
    masks[name] = os.sched_getaffinity(0)
    end.wait()

whole = os.sched_getaffinity(0)
with confined():
    inside = os.sched_getaffinity(0)
    thread = threading.Thread(target=run, args=("started",), daemon=True)
    thread.start()
    while "started" not in masks:
        pass
print(len(inside) == max(1, len(whole) // 2), masks["started"] == inside, os.sched_getaffinity(0) == whole,
      os.sched_getaffinity(thread.native_id) == whole)
end.set()
"""
    assert in_child(code) == "True True True True"


def test_confinement_ends_with_an_exception_too():
    code = """
import os
from whet.host import confined
whole = os.sched_getaffinity(0)
try:
    with confined():
        raise ValueError
except ValueError:
    print(os.sched_getaffinity(0) == whole)
"""
    assert in_child(code) == "True"
