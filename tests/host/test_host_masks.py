"""A process whose masks are held cannot change them; its parent can."""

import json
import os
import subprocess
import sys

import pytest

ALLOWED = sorted(os.sched_getaffinity(0))
CHILD = """
import json, os, sys, threading
from whet.host.masks import hold_masks
first = sorted(os.sched_getaffinity(0))
note = hold_masks()
def narrow():
    os.sched_setaffinity(0, first[:1])
    seen.append(sorted(os.sched_getaffinity(0)))
seen = []
narrow()
thread = threading.Thread(target=narrow)
thread.start()
thread.join()
print(json.dumps([note, seen]), flush=True)
sys.stdin.readline()
print(json.dumps(sorted(os.sched_getaffinity(0))), flush=True)
"""


@pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two CPUs")
def test_nobody_inside_can_change_a_mask_and_the_parent_can():
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        note, seen = json.loads(child.stdout.readline())
        assert note is None
        assert seen == [ALLOWED, ALLOWED]
        os.sched_setaffinity(child.pid, ALLOWED[1:2])
        child.stdin.write("\n")
        child.stdin.flush()
        assert json.loads(child.stdout.readline()) == ALLOWED[1:2]


def test_an_unknown_machine_is_a_note(monkeypatch):
    from whet.host import masks

    monkeypatch.setattr(masks, "_MACHINES", {})
    assert "not held" in masks.hold_masks()
