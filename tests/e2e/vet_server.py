"""A vetting server of its own process, on a small embedded batch: what the browser tests talk to.

`App` is a running server that can be killed and started again within a second: a parent that has loaded
everything once forks the process that serves.
"""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pandas as pd
from PIL import Image

from ddeval import config
from ddeval.data.conditions import read_conditions
from ddeval.data.fields import read_schema
from ddeval.vet.accounts import invite, use_link
from ddeval.vet.batches import open_batch
from ddeval.vet.reading import answers
from ddeval.vet.store import Store

PASSWORD = "seven quiet violins"
GIVEN = "Zoster"  # a label no answer of these tests uses: it must never reach a browser
SECRETS = ("secret-stratum", "secret-reason", GIVEN, "inclusion", "SECRET-GPS", "secret-model")
PEOPLE = (
    ("anna", "reader"),
    ("ben", "reader"),
    ("cleo", "adjudicator"),
    ("root", "admin"),
)


def make_project(
    folder: Path, *, n_cases: int, n_photographs: int = 2, n_files: int = 200, n_practice: int = 0
) -> None:
    """Photographs with a marker in their metadata, a manifest, a store with readers and one open batch."""
    images = folder / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    exif = Image.Exif()
    exif[0x010E] = "SECRET-GPS 52.1 N"
    for i in range(n_cases):
        for k in range(n_photographs):
            file = images / f"c{i % n_files:05}-{k}.jpg"
            if i < n_files:
                small = rng.integers(60, 220, (6, 8, 3), dtype=np.uint8)
                large = Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC)
                large.save(file, exif=exif, comment=b"SECRET-GPS patient")
            rows.append(
                {
                    "image_id": f"c{i:05}-{k}",
                    "image": f"images/{file.name}",
                    "label": GIVEN,
                    "case_id": f"c{i:05}",
                    "split": "test",
                    "q.itch": "severe",
                    "q.fever": "no",
                }
            )
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    store = Store(folder / "vet.db")
    for code, role in PEOPLE:
        use_link(store, invite(store, code, role=role, email=f"{code}@clinic.example"), PASSWORD)  # type: ignore[arg-type]
    practice = [f"c{i:05}" for i in range(n_practice)]
    queue = pd.DataFrame({"case_id": [f"c{i:05}" for i in range(n_practice, n_cases)], "kind": "random"})
    queue = queue.assign(
        stratum="secret-stratum",
        inclusion_probability=0.5,
        given_label=GIVEN,
        label_basis="single",
        reason="secret-reason",
        predicted_label="secret-model",
    )
    pairs = pd.DataFrame(
        {"image_id_a": ["c00000-0"], "image_id_b": ["c00001-0"], "similarity": [0.99], "kind": ["near"]}
    )
    settings: dict[str, Any] = {"practice_cases": practice} if practice else {}
    open_batch(
        store, queue, name="b", split="test", seed=3, manifest_sha256="m", settings=settings, pairs=pairs
    )
    store.close()


class App:
    """A running server that can be killed and started again."""

    def __init__(self, folder: Path, *, public_url: str = "", oidc_issuer: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.prefix = "/" + public_url.split("/", 3)[3] if public_url.count("/") > 2 else ""
        self.parent = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.e2e.vet_server",
                str(folder),
                str(self.port),
                public_url,
                oidc_issuer,
            ],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.start()

    def start(self) -> None:
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.write("serve\n")
        self.parent.stdin.flush()
        self.pid = int(self.parent.stdout.readline())
        wait_until_up(self.url + self.prefix)

    def kill(self) -> None:
        """SIGKILL, as a power cut would; returns when the process is gone."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.parent.stdout is not None
        assert self.parent.stdout.readline() == "gone\n"

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.parent.kill()
        self.parent.communicate()

    def answers(self, reader: str) -> pd.DataFrame:
        store = Store(self.folder / "vet.db")
        try:
            found = answers(store, "b")
            return found[found["actor"] == reader]
        finally:
            store.close()

    def n_events(self, reader: str) -> int:
        raw = sqlite3.connect(self.folder / "vet.db")
        try:
            return int(raw.execute("SELECT count(*) FROM events WHERE actor = ?", (reader,)).fetchone()[0])
        finally:
            raw.close()


def wait_until_up(url: str) -> None:
    """Return when the server at that address answers; a busy machine may need a while to start one."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/_stcore/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.02)
    raise TimeoutError("the server did not start in 60 s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(folder: Path, port: int, public_url: str = "", oidc_issuer: str = "") -> None:
    from apps.vet.desk import Desk
    from apps.vet.server import Address
    from apps.vet.server import serve as run
    from apps.vet.sign_on import SignOn
    from ddeval.data.manifest import read_manifest

    desk = Desk(
        store=Store(folder / "vet.db"),
        manifest=read_manifest(folder / "manifest.csv"),
        image_roots=(folder,),
        conditions=read_conditions(config.config_file("conditions.yaml", where="conditions")),
        schema=read_schema(config.config_file("feature_schema.json", where="schema")),
        cache=folder / "cache",
        is_synthetic=True,
    )
    sign_on = SignOn(oidc_issuer, "vet", "a secret of the tests") if oidc_issuer else None
    proxies = ("127.0.0.1/32",) if public_url else ()
    run(desk, Address(port=port, public_url=public_url, trusted_proxies=proxies, sign_on=sign_on))


def fork_servers(*arguments: str) -> None:
    """Load everything once, then fork a server for every line read; say its process, and when it has gone."""
    import streamlit  # noqa: F401
    import uvicorn  # noqa: F401

    import apps.vet.server  # noqa: F401
    import ddeval.data.manifest
    import ddeval.vet.standing  # noqa: F401

    folder, port, *rest = arguments
    while sys.stdin.readline():
        child = os.fork()
        if child == 0:
            serve(Path(folder), int(port), *rest)
            os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    fork_servers(*sys.argv[1:])
