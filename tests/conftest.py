"""Fixtures every test may use."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REAL_DATA = Path(os.environ.get("DDEVAL_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data; the test is skipped by name where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real data not found at {REAL_DATA} (set DDEVAL_REAL_DATA)")
    return REAL_DATA


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory) -> Iterator[str]:
    """URL of a real PostgreSQL server on loopback, started for this run from Debian's package."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("not found: postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    as_owner: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        as_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"

    def pg(program: str, *arguments: str) -> None:
        subprocess.run(
            [*as_owner, str(programs[-1] / program), *arguments], check=True, capture_output=True, cwd=folder
        )

    pg("initdb", "--pgdata", str(data), "--username", "ddeval", "--auth", "trust", "--encoding", "UTF8")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    pg("pg_ctl", "start", "--wait", "-D", str(data), "-l", str(folder / "log"), "-o", options)
    try:
        yield f"postgresql://ddeval@127.0.0.1:{port}/postgres"
    finally:
        pg("pg_ctl", "stop", "-D", str(data), "-m", "immediate")
        shutil.rmtree(folder, ignore_errors=True)
