"""The vetting store: one database of append-only events, each chained to the one before by its hash.

SQLite (WAL, synchronous=FULL) beside the project by default, PostgreSQL by URL. An event is
acknowledged only after its commit. What a reading means is `ddeval.vet.reading`'s business.
"""

import fcntl
import hashlib
import json
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from ddeval import __version__
from ddeval.errors import InputError
from ddeval.vet import schema

GENESIS = "0" * 64
"""`prev_hash` of the first event."""

NETWORK_FILE_SYSTEMS = (
    "nfs",
    "nfs4",
    "cifs",
    "smb",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
)
"""SQLite's write-ahead log needs memory shared between processes of one host."""

BUSY_SECONDS = 10.0
CHAIN_LOCK = 0xDDE7A1
"""Key of PostgreSQL's advisory lock: events are appended one at a time, so that the chain has no fork."""


@dataclass(frozen=True)
class ChainReport:
    """What `Store.verify` found."""

    n_events: int
    head: str
    """Hash of the last event: keep it elsewhere, for a rewritten chain is whole again."""
    first_bad: int | None
    """`seq` of the first event that does not follow from the one before; None when all do."""

    @property
    def is_intact(self) -> bool:
        return self.first_bad is None


class Store:
    """A vetting database, opened and brought to the current schema.

    Parameters
    ----------
    url : str or Path
        A path or `sqlite:///path` for SQLite, `postgresql+psycopg://…` for PostgreSQL.

    Raises
    ------
    InputError
        If SQLite would lie on a network file system, or the store is newer than this program.
    """

    def __init__(self, url: str | Path) -> None:
        text = str(url)
        self.path: Path | None = None
        if "://" not in text or text.startswith("sqlite:///"):
            self.path = Path(text.removeprefix("sqlite:///")).resolve()
            _refuse_network_file_system(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                self.path.touch(mode=0o600)
            text = f"sqlite:///{self.path}"
        elif text.startswith("postgresql://"):
            text = text.replace("postgresql://", "postgresql+psycopg://", 1)
        self.engine = sa.create_engine(text, pool_pre_ping=self.path is None)
        if self.path is not None:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        with self.write() as connection:
            found = schema.migrate(connection)
        if found > schema.VERSION:
            raise InputError(
                text,
                f"a store of schema version {found}",
                expected=f"{schema.VERSION} or older",
                todo="Upgrade ddeval.",
            )

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one consistent state and takes no lock."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that commits on leaving; writers take turns, so none waits on a lost race."""
        with self._turn(), self.engine.connect() as connection:
            connection = connection.execution_options(ddeval_write=True)
            with connection.begin():
                if self.path is None:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CHAIN_LOCK)))
                yield connection

    def append(self, connection: sa.Connection, **fields: Any) -> dict[str, Any]:
        """Add one event inside a `write` transaction and return it as stored.

        `fields`: actor, role, batch, case_id, reading_no, revision, kind, old, new, reason,
        blind_level, shown_at, nonce. Time, version, sequence and hashes are the store's own.
        """
        last = connection.execute(
            sa.select(schema.events.c.seq, schema.events.c.hash).order_by(schema.events.c.seq.desc()).limit(1)
        ).first()
        event = {
            "seq": last.seq + 1 if last else 1,
            "id": uuid.uuid4().hex,
            "ts_utc": now_utc(),
            "app_version": __version__,
            "prev_hash": last.hash if last else GENESIS,
            **dict.fromkeys(("old", "new", "reason", "shown_at")),
            **fields,
        }
        event["hash"] = event_hash(event)
        connection.execute(sa.insert(schema.events).values(**event))
        return event

    def events(self, batch: str | None = None) -> pd.DataFrame:
        """All events in order (READINGS), of one batch or of the whole store."""
        query = sa.select(schema.events).order_by(schema.events.c.seq)
        if batch is not None:
            query = query.where(schema.events.c.batch == batch)
        with self.read() as connection:
            return pd.read_sql_query(query, connection)

    def verify(self) -> ChainReport:
        """Recompute the chain: every event's hash from its cells and the hash before it."""
        previous, n, expected_seq = GENESIS, 0, 1
        with self.read() as connection:
            for row in connection.execute(sa.select(schema.events).order_by(schema.events.c.seq)).mappings():
                event = dict(row)
                is_next = event["seq"] == expected_seq and event["prev_hash"] == previous
                if not is_next or event["hash"] != event_hash(event):
                    return ChainReport(n, previous, int(event["seq"]))
                previous, n, expected_seq = event["hash"], n + 1, expected_seq + 1
        return ChainReport(n, previous, None)

    def backup(self, path: Path) -> None:
        """A consistent copy of a SQLite store, made while others write (`cp` of a WAL database is none)."""
        if self.path is None:
            raise InputError(
                "backup",
                "a PostgreSQL store",
                expected="SQLite",
                todo="Use pg_dump: docs/deploy.md shows how.",
            )
        with sqlite3.connect(self.path) as source, sqlite3.connect(path) as target:
            source.backup(target)
        source.close()
        target.close()
        path.chmod(0o600)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite's own waiting is a lottery of sleeps; a lock file makes it a queue."""
        if self.path is None:
            yield
            return
        with self.path.with_name(self.path.name + ".turn").open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield


def now_utc() -> str:
    """The time in UTC to the microsecond, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def event_hash(event: dict[str, Any]) -> str:
    """SHA-256 over every cell of an event but its own hash."""
    cells = {name: event[name] for name in schema.events.c.keys() if name != "hash"}  # noqa: SIM118
    text = json.dumps(cells, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_system_of(path: Path, mounts: str) -> str:
    """Type of the file system that holds `path`, from the text of /proc/mounts; "" when not listed."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if path.is_relative_to(point) and len(point) > best:
            best, kind = len(point), found
    return kind


def _refuse_network_file_system(path: Path) -> None:
    mounts = Path("/proc/mounts")
    kind = file_system_of(path, mounts.read_text()) if mounts.exists() else ""
    if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse.sshfs"):
        raise InputError(
            str(path),
            f"a {kind} file system",
            expected="a local disk (SQLite can lose readings on a network one)",
            todo="Move the store, or use PostgreSQL: --store postgresql://…",
        )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy says BEGIN, see `_begin_sqlite`
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={int(BUSY_SECONDS * 1000)}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    is_writer = connection.get_execution_options().get("ddeval_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")


def is_private(path: Path) -> bool:
    """No one but the owner may read the file."""
    return not path.exists() or not os.stat(path).st_mode & 0o077  # noqa: PTH116
