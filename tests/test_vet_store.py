"""The vetting store: nothing acknowledged is lost, nothing is rewritten unseen, on SQLite and PostgreSQL."""

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest
import sqlalchemy as sa

from ddeval import tables
from ddeval.errors import InputError
from ddeval.vet import schema
from ddeval.vet.store import GENESIS, Store, file_system_of, is_private

MODES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.e2e)]


@pytest.fixture(params=MODES)
def url(request, tmp_path):
    """A new, empty database of either kind."""
    if request.param == "sqlite":
        return str(tmp_path / "vet.db")
    server = request.getfixturevalue("postgresql")
    name = f"t{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(
        server.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return server.rsplit("/", 1)[0] + f"/{name}"


@pytest.fixture
def open_store():
    """`Store`, closed again when the test is over."""
    opened = []

    def open_(url):
        opened.append(Store(url))
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


def add(store, i, *, actor="ann", kind="reading", new="{}"):
    with store.write() as connection:
        return store.append(
            connection,
            actor=actor,
            role="reader",
            batch="b",
            case_id=f"c{i}",
            reading_no=1,
            revision=0,
            kind=kind,
            new=new,
            blind_level="blind",
            nonce=f"{actor}-{i}-{kind}",
        )


def test_events_are_the_readings_table_in_order(url, open_store):
    store = open_store(url)
    for i in range(5):
        add(store, i, new=json.dumps({"ünïcode": "Ekzem – 湿疹"}, ensure_ascii=False))
    frame = store.events()
    tables.check(frame, tables.READINGS, where="events")
    assert frame["seq"].tolist() == [1, 2, 3, 4, 5]
    assert frame["prev_hash"].tolist() == [GENESIS, *frame["hash"][:-1]]
    assert store.verify().n_events == 5
    assert store.verify().head == frame["hash"].iloc[-1]


def test_an_empty_store_verifies(url, open_store):
    report = open_store(url).verify()
    assert (report.is_intact, report.n_events, report.head) == (True, 0, GENESIS)


@pytest.mark.parametrize("statement", ["UPDATE events SET new = 'x' WHERE seq = 1", "DELETE FROM events"])
def test_the_database_refuses_to_change_an_event(url, statement, open_store):
    store = open_store(url)
    add(store, 0)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), store.write() as connection:
        connection.exec_driver_sql(statement)
    assert store.verify().n_events == 1


def test_one_reader_cannot_answer_one_reading_twice(url, open_store):
    store = open_store(url)
    add(store, 0)
    with pytest.raises(sa.exc.IntegrityError), store.write() as connection:
        store.append(
            connection,
            actor="ann",
            role="reader",
            batch="b",
            case_id="c0",
            reading_no=1,
            revision=0,
            kind="reading",
            blind_level="blind",
            nonce="another",
        )
    assert len(store.events()) == 1


def test_a_failed_transaction_leaves_nothing_and_the_next_one_works(url, open_store):
    store = open_store(url)

    class Stop(Exception):
        pass

    def fail_after_writing():
        with store.write() as connection:
            connection.execute(sa.insert(schema.meta).values(key="half", value="written"))
            raise Stop

    with pytest.raises(Stop):
        fail_after_writing()
    with store.read() as connection:
        assert connection.execute(sa.select(schema.meta.c.key)).scalars().all() == ["schema_version"]
    assert store.events().empty
    add(store, 1)
    assert store.verify().n_events == 1


def test_a_second_opening_finds_the_same_store_and_schema(url, open_store):
    add(open_store(url), 0)
    store = open_store(url)
    assert store.verify().n_events == 1
    with store.read() as connection:
        assert schema.version(connection) == schema.VERSION


@pytest.mark.parametrize("n", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_edited_byte_is_found(tmp_path, open_store, n):
    """One character of one cell of one event at a time, by a hand that knows SQL: found every time."""
    store = open_store(tmp_path / "vet.db")
    for i in range(n):
        add(store, i, new='{"diagnoses": ["eczema"]}')
    store.close()
    rng = np.random.default_rng(0)
    columns = [c for c in schema.events.c.keys() if c not in ("old", "reason", "shown_at")]  # noqa: SIM118
    store = open_store(tmp_path / "vet.db")
    raw = sqlite3.connect(tmp_path / "vet.db", isolation_level=None)
    raw.execute("DROP TRIGGER events_no_update")
    missed = []
    for seq in range(1, n + 1):
        column = columns[rng.integers(len(columns))]
        before = raw.execute(f"SELECT {column} FROM events WHERE seq = ?", (seq,)).fetchone()[0]
        after = before + 1000 if isinstance(before, int) else chr(ord(before[0]) ^ 1) + before[1:]
        raw.execute(f"UPDATE events SET {column} = ? WHERE seq = ?", (after, seq))
        if store.verify().is_intact:
            missed.append((seq, column))
        where = after if column == "seq" else seq
        raw.execute(f"UPDATE events SET {column} = ? WHERE seq = ?", (before, where))
    raw.close()
    assert missed == []
    assert open_store(tmp_path / "vet.db").verify().is_intact


def test_a_removed_event_is_found(tmp_path, open_store):
    store = open_store(tmp_path / "vet.db")
    for i in range(3):
        add(store, i)
    raw = sqlite3.connect(tmp_path / "vet.db", isolation_level=None)
    raw.execute("DROP TRIGGER events_no_delete")
    raw.execute("DELETE FROM events WHERE seq = 2")
    raw.close()
    assert store.verify().first_bad == 3


def test_a_backup_taken_while_others_write_is_whole(tmp_path, open_store):
    store = open_store(tmp_path / "vet.db")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        running = pool.apply_async(write_many, (str(tmp_path / "vet.db"), "bob", 60))
        for k in range(5):
            time.sleep(0.05)
            store.backup(tmp_path / f"copy{k}.db")
        running.get(60)
    counts = [open_store(tmp_path / f"copy{k}.db").verify() for k in range(5)]
    assert all(report.is_intact for report in counts)
    assert store.verify().n_events == 60
    assert is_private(tmp_path / "copy0.db")


def write_many(url, actor, n):
    """Latencies of n acknowledged writes, in seconds."""
    store = Store(url)
    taken = []
    for i in range(n):
        start = time.perf_counter()
        add(store, i, actor=actor)
        taken.append(time.perf_counter() - start)
    store.close()
    return taken


def test_readers_in_several_processes_lose_and_double_nothing(url, open_store):
    """4 processes, 4 readers, 40 readings each: 160 events, one chain."""
    open_store(url).close()
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(write_many, [(url, f"reader{r}", 40) for r in range(4)])
    store = open_store(url)
    events = store.events()
    assert len(events) == 160
    assert not events.duplicated(["case_id", "actor", "reading_no"]).any()
    assert store.verify().is_intact


@pytest.mark.slow
def test_twenty_readers_from_eight_processes_lose_and_double_nothing(url, open_store):
    """20 readers x 200 readings: 4,000 of 4,000, none twice (benchmarks/vet_store.py times the writes)."""
    open_store(url).close()
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        pool.starmap(write_many, [(url, f"reader{r}", 200) for r in range(20)], chunksize=1)
    store = open_store(url)
    assert len(store.events()) == 4000
    assert not store.events().duplicated(["case_id", "actor", "reading_no"]).any()
    assert store.verify().is_intact


WRITER = """
import sys
from tests.test_vet_store import add
from ddeval.vet.store import Store
store = Store(sys.argv[1])
start = store.verify().n_events
for i in range(start, start + 10_000):
    add(store, i, actor=f"ann{start}")
    print(i, flush=True)
"""


@pytest.mark.parametrize("n_kills", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path, n_kills, open_store):
    """SIGKILL at random points: every reading said to be stored is there, and the chain holds."""
    path = tmp_path / "vet.db"
    open_store(path).close()
    rng = np.random.default_rng(1)
    acknowledged = 0
    for _ in range(n_kills):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, cwd=os.path.curdir, text=True
        )
        for _ in range(int(rng.integers(1, 12))):
            writer.stdout.readline()
            acknowledged += 1
        time.sleep(float(rng.random()) * 0.01)
        writer.send_signal(signal.SIGKILL)
        acknowledged += len(writer.stdout.read().splitlines())
        writer.wait()
        writer.stdout.close()
    report = open_store(path).verify()
    assert report.is_intact
    assert acknowledged <= report.n_events <= acknowledged + n_kills


def test_the_files_of_a_new_store_are_the_owners_alone(tmp_path, open_store):
    open_store(tmp_path / "vet.db")
    assert is_private(tmp_path / "vet.db")


def test_a_network_file_system_is_recognised_by_its_mount(tmp_path):
    mounts = (
        "/dev/sda / ext4 rw 0 0\nserver:/x /mnt/share nfs4 rw 0 0\n//s/y /mnt/share/deep\\040er cifs rw 0 0\n"
    )
    assert file_system_of(tmp_path, mounts) == "ext4"
    assert file_system_of(tmp_path.__class__("/mnt/share/vet.db"), mounts) == "nfs4"
    assert file_system_of(tmp_path.__class__("/mnt/share/deep er/vet.db"), mounts) == "cifs"


def test_sqlite_on_a_network_file_system_is_refused(monkeypatch, tmp_path, open_store):
    monkeypatch.setattr("ddeval.vet.store.file_system_of", lambda path, mounts: "nfs4")
    with pytest.raises(InputError, match=r"found a nfs4 file system; expected a local disk"):
        open_store(tmp_path / "vet.db")


def test_a_store_from_a_newer_program_is_refused(tmp_path, open_store):
    store = open_store(tmp_path / "vet.db")
    with store.write() as connection:
        connection.execute(sa.update(schema.meta).values(value="99"))
    with pytest.raises(InputError, match="schema version 99; expected 2 or older"):
        open_store(tmp_path / "vet.db")


def test_a_store_of_the_first_version_is_brought_to_this_one_with_its_events(tmp_path, open_store):
    """Version 1 had no pairs and no rank or prediction of an item."""
    store = open_store(tmp_path / "vet.db")
    for i in range(3):
        add(store, i)
    with store.write() as connection:
        connection.exec_driver_sql("DROP TABLE pairs")
        for column in ("rank", "predicted_label"):
            connection.exec_driver_sql(f"ALTER TABLE items DROP COLUMN {column}")
        connection.execute(sa.update(schema.meta).values(value="1"))
    store.close()
    newer = open_store(tmp_path / "vet.db")
    with newer.read() as connection:
        assert schema.version(connection) == 2
        columns = {column["name"] for column in sa.inspect(connection).get_columns("items")}
        assert sa.inspect(connection).has_table("pairs")
    assert {"rank", "predicted_label"} <= columns
    assert newer.verify().n_events == 3
    assert newer.verify().is_intact
