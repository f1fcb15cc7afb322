import contextlib
import json
import sqlite3
import subprocess
import sys

import pytest
from speed_surface import space

from whet.errors import BundleError, OutputError
from whet.optimize.journal import Event, Journal, Key
from whet.optimize.lessons import ordered, proposed
from whet.optimize.space import Space, label
from whet.plan import Plan

KEY = Key("run", "host", "versions")


def test_events_come_back_in_order_and_by_kind(tmp_path):
    journal = Journal(tmp_path / "j.sqlite", KEY)
    journal.add("block", {"n": 1}, plan="p")
    journal.add("failed", {"why": "x"}, plan="q")
    journal.add("block", {"n": 2}, plan="p")
    assert [event.document["n"] for event in journal.events("block")] == [1, 2]
    assert len(journal.events()) == 3
    journal.export(tmp_path / "j.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["block", "failed", "block"]
    journal.close()


@pytest.mark.parametrize("other", [Key("run", "other", "versions"), Key("run", "host", "newer")])
def test_other_hosts_and_versions_are_never_mistaken_for_these(tmp_path, other):
    one = Journal(tmp_path / "j.sqlite", KEY)
    one.add("block", {})
    two = Journal(tmp_path / "j.sqlite", other)
    assert two.events() == []
    one.close()
    two.close()


def test_what_was_written_survives_a_kill(tmp_path):
    script = (
        "import os, sys, signal; from pathlib import Path; from whet.optimize.journal import Journal, Key\n"
        "j = Journal(Path(sys.argv[1]), Key('run', 'host', 'versions'))\n"
        "for i in range(200): j.add('block', {'n': i})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "j.sqlite"
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    journal = Journal(path, KEY)
    assert [event.document["n"] for event in journal.events()] == list(range(200))
    journal.add("block", {"n": 200})
    assert len(journal.events()) == 201
    journal.remove()
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / "j.sqlite").write_bytes(b"a shopping list, long enough to be read as a page" * 100)
    with pytest.raises(BundleError, match="is no journal"):
        Journal(tmp_path / "j.sqlite", KEY)


def test_a_journal_of_another_version_is_refused(tmp_path):
    Journal(tmp_path / "j.sqlite", KEY).close()
    with sqlite3.connect(tmp_path / "j.sqlite") as connection:
        connection.execute("update meta set value = '9'")
    connection.close()
    with pytest.raises(BundleError, match="version 9"):
        Journal(tmp_path / "j.sqlite", KEY)


def test_a_full_disk_loses_events_and_counts_them_but_the_search_goes_on(tmp_path):
    journal = Journal(tmp_path / "j.sqlite", KEY)
    pages = journal._connection.execute("pragma page_count").fetchone()[0]
    journal._connection.execute(f"pragma max_page_count = {pages + 2}")
    for _ in range(3):
        journal.add("block", {"filler": "x" * 400_000})
    assert journal.lost == 3
    journal._connection.execute("pragma max_page_count = 1000000")  # somebody made room
    journal.add("block", {"n": 1})
    assert [event.document for event in journal.events()] == [{"n": 1}]
    journal.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_really_fills_costs_events_and_nothing_else(small_disk):
    journal = Journal(small_disk / "j.sqlite", KEY)
    journal.add("block", {"n": 0})
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    for n in range(20):
        journal.add("block", {"n": n, "filler": "x" * 10_000})
    assert 0 < journal.lost <= 20
    (small_disk / "ballast").unlink()  # somebody made room
    journal.add("block", {"n": 99})
    kept = [event.document["n"] for event in journal.events()]
    assert (kept[0], kept[-1]) == (0, 99)
    assert len(kept) == 22 - journal.lost
    journal.close()


def test_a_journal_that_was_taken_away_is_an_error_of_ours(tmp_path):
    journal = Journal(tmp_path / "j.sqlite", KEY)
    journal._connection.execute("drop table events")
    with pytest.raises(OutputError, match=r"cannot write journal .*no such table"):
        journal.add("block", {})
    journal.close()


def test_every_search_has_a_run_of_its_own_and_resume_takes_the_unfinished_one(tmp_path):
    artifact = "a" * 64

    def search(*, resume: bool, ends: bool) -> tuple[str, bool]:
        journal = Journal(tmp_path / "j.sqlite", KEY)
        found = journal.begin(artifact, resume=resume)
        journal.add("request", {})
        if ends:
            journal.add("end", {})
        journal.close()
        return journal.key.run, found

    short = artifact[:12]
    assert search(resume=True, ends=True) == (f"{short}-1", False)
    assert search(resume=False, ends=False) == (f"{short}-2", False)
    assert search(resume=True, ends=True) == (f"{short}-2", True)
    assert search(resume=True, ends=False) == (f"{short}-3", False)


def lesson(artifact: str, cores: int, *, isa: str = "avx2", streams: int = 2, batch: int = 8, **more: object) -> Event:
    features = space(cores).features(plan_of(space(cores), streams=streams, batch=batch))
    host = {"arch": "x86_64", "cores": cores, "physical": cores, "isa": [isa]}
    document = {"level": "application", "host": host, "objective": "throughput", "features": features, **more}
    return Event("", "run", artifact, "p", "lesson", document)


def plan_of(found: Space, *, streams: int, batch: int) -> Plan:
    plain = [plan for plan in found.plans if plan.runtime == "openvino" and label(plan, "f32").count(" ") == 3]
    return next(p for p in plain if (p.streams, p.max_batch, p.precision) == (streams, batch, "f32"))


def test_lessons_of_this_model_and_host_come_first_and_far_hosts_teach_nothing():
    host = {"arch": "x86_64", "cores": 2, "physical": 2, "isa": ["avx2"]}
    events = [
        lesson("other", 2, batch=2),
        lesson("same", 2, batch=4),
        lesson("same", 4, streams=4, batch=16),
        lesson("same", 2, batch=1, objective="latency"),
        lesson("same", 2, isa="neon", batch=1),
    ]
    found = ordered(events, host, "same", "throughput")
    assert [one["features"]["batch"] for one in found] == [4.0, 2.0, 16.0]


def test_what_used_all_cores_there_uses_all_cores_here():
    host = {"arch": "x86_64", "cores": 2, "physical": 2, "isa": ["avx2"]}
    lessons = ordered([lesson("same", 4, streams=4, batch=16)], host, "same", "throughput")
    here = space(2)
    plans = proposed(lessons, "application", here, here.plans)
    assert [(plan.streams, plan.threads, plan.max_batch) for plan in plans] == [(2, 1, 16)]
    assert proposed(lessons, "system", here, here.plans) == []
