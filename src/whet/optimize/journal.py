"""The journal: everything a search measured, in an SQLite database that survives being killed at any point.

Append-only; one row an event. Write-ahead logging with a commit per event, so a SIGKILL loses nothing that was written
and a reader never waits for the writer. Rows are keyed by artifact hash, plan id, host fingerprint and library
versions: what was measured under other versions, or elsewhere, is never mistaken for this.

It lies beside the bundle for one job, or in a shared place for many: then each begins with what the others found best
(:mod:`whet.optimize.lessons`). A disk that fills loses events, never the search: what could not be written is counted.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from whet.errors import BundleError, OutputError

_SCHEMA = """
create table if not exists meta (key text primary key, value text not null);
create table if not exists events (
    id integer primary key autoincrement,
    at text not null,
    run text not null,
    artifact text not null,
    plan text not null,
    host text not null,
    versions text not null,
    kind text not null,
    document text not null
);
create index if not exists events_by_plan on events (host, versions, artifact, plan, kind);
"""
VERSION = "1"


@dataclass(frozen=True, slots=True)
class Key:
    """What measurements must share to be comparable.

    Attributes:
        run: id of the run; a resumed run keeps its id.
        host: fingerprint.
        versions: hash of the library versions and of the load they were measured under.
    """

    run: str
    host: str
    versions: str


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: kind and document, of an artifact under a plan."""

    at: str
    run: str
    artifact: str
    plan: str
    kind: str
    document: dict[str, Any]


class Journal:
    """An open journal. Used by one thread.

    Args:
        path: the database; made when it is not there.
        key: what this run's events are filed under.

    Attributes:
        lost: events a full disk did not take.

    Raises:
        OutputError: it cannot be written.
        BundleError: the file is no journal.
    """

    def __init__(self, path: Path, key: Key) -> None:
        self.path, self.key = path, key
        self.lost = 0
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=10.0)
            self._connection.execute("pragma journal_mode = wal")
            self._connection.execute("pragma synchronous = normal")
            self._connection.executescript(_SCHEMA)
            self._connection.execute("insert or ignore into meta values ('version', ?)", (VERSION,))
            found = self._connection.execute("select value from meta where key = 'version'").fetchone()[0]
        if found != VERSION:
            self.close()
            raise BundleError(f"journal {path} has version {found}, this Whet reads {VERSION}; move it away")

    def begin(self, artifact: str, *, resume: bool) -> bool:
        """File what follows under a run of its own; under the last unfinished run of the artifact to ``resume`` it.

        Returns:
            Whether there was one to go on with.
        """
        short = artifact[:12]
        runs = [event.run for event in self.events("request") if event.run.startswith(f"{short}-")]
        ended = {event.run for event in self.events("end")}
        if resume and runs and runs[-1] not in ended:
            self.key = replace(self.key, run=runs[-1])
            return True
        self.key = replace(self.key, run=f"{short}-{len(set(runs)) + 1}")
        return False

    def add(self, kind: str, document: dict[str, Any], *, artifact: str = "", plan: str = "") -> None:
        """Append an event and commit it; on a full disk it is lost, and counted.

        Raises:
            OutputError: the journal was taken away, or cannot be written for another reason.
        """
        row = (
            datetime.now(UTC).isoformat(),
            self.key.run,
            artifact,
            plan,
            self.key.host,
            self.key.versions,
            kind,
            msgspec.json.encode(document, enc_hook=str).decode(),
        )
        try:
            self._connection.execute(
                "insert into events (at, run, artifact, plan, host, versions, kind, document) values (?,?,?,?,?,?,?,?)",
                row,
            )
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise OutputError(f"cannot write journal {self.path}: {error}; choose another -o") from error
            self.lost += 1
        except sqlite3.DatabaseError as error:
            raise OutputError(f"cannot write journal {self.path}: {error}; choose another -o") from error

    def events(self, *kinds: str, run: str | None = None) -> list[Event]:
        """Return events of this host and these versions, oldest first; of one run where it is given."""
        query = "select at, run, artifact, plan, kind, document from events where host = ? and versions = ?"
        arguments: list[str] = [self.key.host, self.key.versions]
        if run is not None:
            query, arguments = f"{query} and run = ?", [*arguments, run]
        if kinds:
            query, arguments = f"{query} and kind in ({','.join('?' * len(kinds))})", [*arguments, *kinds]
        with self._errors():
            rows = self._connection.execute(f"{query} order by id", arguments).fetchall()
        return [Event(at, by, sha, plan, kind, msgspec.json.decode(text)) for at, by, sha, plan, kind, text in rows]

    def everywhere(self, kind: str) -> list[Event]:
        """Return events of one kind, of all runs, hosts and versions, oldest first: to learn from, not to compare."""
        query = "select at, run, artifact, plan, kind, document from events where kind = ? order by id"
        with self._errors():
            rows = self._connection.execute(query, (kind,)).fetchall()
        return [Event(at, by, sha, plan, kind, msgspec.json.decode(text)) for at, by, sha, plan, kind, text in rows]

    def export(self, path: Path) -> None:
        """Write this run's events to ``path``, one JSON document a line.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            with path.open("wb") as stream:
                for event in self.events(run=self.key.run):
                    stream.write(msgspec.json.encode(event) + b"\n")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}; free space or choose another -o") from error

    def close(self) -> None:
        """Close it; the file stays."""
        self._connection.close()

    def remove(self) -> None:
        """Close it and delete its files: what it holds has found a place in the bundle."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error):
                raise BundleError(f"{self.path} is no journal; move it away, or choose another -o") from error
            raise OutputError(f"cannot write journal {self.path}: {error}; free space or choose another -o") from error
        except OSError as error:
            raise OutputError(f"cannot write journal {self.path}: {error.strerror}; choose another -o") from error
