"""How long a reader waits for an acknowledged reading: many readers, several processes, one store.

    python benchmarks/vet_store.py [--store URL] [--readers 20] [--readings 200] [--processes 8] [--json FILE]

Each write is one committed event (SQLite: synchronous=FULL) of the hash chain, with no think time at
all: at five seconds a case twenty readers need four writes a second. The peer in the same run is a
plain SQLite insert with the same durability and no chain, one process.
"""

import argparse
import json
import multiprocessing
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np

from ddeval.vet.store import Store


def write_many(url: str, reader: str, n: int) -> list[float]:
    store = Store(url)
    taken = []
    for i in range(n):
        start = time.perf_counter()
        with store.write() as connection:
            store.append(
                connection,
                actor=reader,
                role="reader",
                batch="bench",
                case_id=f"c{i}",
                reading_no=1,
                revision=0,
                kind="reading",
                new='{"diagnoses": ["eczema"]}',
                blind_level="blind",
                nonce=f"{reader}-{i}",
            )
        taken.append(time.perf_counter() - start)
    store.close()
    return taken


def plain_sqlite(folder: Path, n: int) -> list[float]:
    connection = sqlite3.connect(folder / "plain.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE readings (id TEXT PRIMARY KEY, answer TEXT)")
    taken = []
    for i in range(n):
        start = time.perf_counter()
        connection.execute("INSERT INTO readings VALUES (?, ?)", (str(i), '{"diagnoses": ["eczema"]}'))
        taken.append(time.perf_counter() - start)
    connection.close()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store")
    parser.add_argument("--readers", type=int, default=20)
    parser.add_argument("--readings", type=int, default=200)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        url = options.store or str(Path(folder) / "vet.db")
        Store(url).close()
        jobs = [(url, f"reader{r}", options.readings) for r in range(options.readers)]
        start = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            latencies = np.concatenate(pool.starmap(write_many, jobs, chunksize=1))
        wall = time.perf_counter() - start
        store = Store(url)
        report = store.verify()
        expected = options.readers * options.readings
        rows = {
            "ours, chained": latencies,
            "plain SQLite, alone": np.array(plain_sqlite(Path(folder), options.readings)),
        }
        store.close()

    print(
        f"{report.n_events}/{expected} events stored, chain intact: {report.is_intact}, {wall:.1f} s in all"
    )
    print(f"{'':22}{'median':>10}{'p95':>10}{'p99':>10}{'most':>10}   ms")
    figures = {}
    for name, taken in rows.items():
        quantiles = [float(q) * 1e3 for q in np.quantile(taken, [0.5, 0.95, 0.99, 1.0])]
        figures[name] = dict(zip(("median_ms", "p95_ms", "p99_ms", "max_ms"), quantiles, strict=True))
        print(f"{name:22}" + "".join(f"{q:10.1f}" for q in quantiles))
    if options.json:
        options.json.write_text(
            json.dumps({"n_events": report.n_events, "wall_s": wall, **figures}, indent=1)
        )


if __name__ == "__main__":
    main()
