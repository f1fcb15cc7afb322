"""Under a quota narrower than the mask a worker keeps to as many CPUs as it has cores; nothing inside undoes that."""

import os
import sys
from pathlib import Path

import pytest

from whet.serve import seats

ALLOWED = tuple(sorted(os.sched_getaffinity(0)))


def masks(pid):
    return {tuple(sorted(os.sched_getaffinity(int(task.name)))) for task in Path(f"/proc/{pid}/task").iterdir()}


@pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two CPUs")
def test_a_worker_under_a_quota_of_one_cpu_keeps_to_one_and_can_be_moved_as_a_whole(kit, serve, group, tmp_path):
    folder, limit = group
    limit(1.0, period_us=100_000)
    inside = ("/bin/sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$@"', "sh")
    bundle = kit.make_bundle(tmp_path / "echo", streams=2)
    server = serve(bundle, command=(*inside, sys.executable, "-m", "whet", "serve"))
    (worker,) = server.announced["workers"]
    (kept,) = masks(worker)
    assert len(kept) == 1
    assert "Seccomp:\t2" in Path(f"/proc/{worker}/status").read_text()  # it cannot leave by itself
    (other,) = (cpu for cpu in ALLOWED[:2] if cpu not in kept) if kept[0] in ALLOWED[:2] else ALLOWED[:1]
    seats.move(worker, (other,))
    with kit.Load(server.http) as load:
        kit.until(lambda: load.good > 20)
    assert masks(worker) == {(other,)}
    assert not load.failed
    assert not load.wrong


def test_without_a_quota_the_mask_is_left_alone(kit, serve, tmp_path):
    server = serve(kit.make_bundle(tmp_path / "echo"))
    (worker,) = server.announced["workers"]
    assert masks(worker) == {ALLOWED}
