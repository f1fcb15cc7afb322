import json
import sqlite3
import subprocess
import sys

import pytest

from whet.errors import BundleError, OutputError
from whet.optimize.journal import Journal, Key

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


def test_a_full_disk_is_an_error_of_ours(tmp_path):
    journal = Journal(tmp_path / "j.sqlite", KEY)
    journal._connection.execute("pragma max_page_count = 10")
    with pytest.raises(OutputError, match="full"):
        journal.add("block", {"filler": "x" * 400_000})
    journal.close()
