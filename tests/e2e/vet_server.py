"""A vetting server of its own process, on a small embedded batch: what the browser tests talk to."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ddeval import config
from ddeval.data.conditions import read_conditions
from ddeval.data.fields import read_schema
from ddeval.vet.accounts import invite, use_link
from ddeval.vet.batches import open_batch
from ddeval.vet.store import Store

PASSWORD = "seven quiet violins"
GIVEN = "Zoster"  # a label no answer of these tests uses: it must never reach a browser
SECRETS = ("secret-stratum", "secret-reason", GIVEN, "inclusion", "SECRET-GPS")


def make_project(folder: Path, *, n_cases: int, n_photographs: int = 2) -> None:
    """Photographs with a marker in their metadata, a manifest, a store with readers and one open batch."""
    images = folder / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    exif = Image.Exif()
    exif[0x010E] = "SECRET-GPS 52.1 N"
    for i in range(n_cases):
        for k in range(n_photographs):
            name = f"c{i:05}-{k}.jpg"
            if i < 200:
                small = rng.integers(60, 220, (6, 8, 3), dtype=np.uint8)
                Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(
                    images / name, exif=exif
                )
            file = name if i < 200 else f"c{i % 200:05}-{k}.jpg"
            rows.append(
                {
                    "image_id": f"c{i:05}-{k}",
                    "image": f"images/{file}",
                    "label": GIVEN,
                    "case_id": f"c{i:05}",
                    "split": "test",
                    "q.itch": "severe",
                    "q.fever": "no",
                }
            )
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    store = Store(folder / "vet.db")
    for code, role in (("anna", "reader"), ("ben", "reader"), ("cleo", "adjudicator"), ("root", "admin")):
        use_link(store, invite(store, code, role=role), PASSWORD)  # type: ignore[arg-type]
    queue = pd.DataFrame({"case_id": [f"c{i:05}" for i in range(n_cases)], "kind": "random"})
    queue = queue.assign(
        stratum="secret-stratum",
        inclusion_probability=0.5,
        given_label=GIVEN,
        label_basis="single",
        reason="secret-reason",
    )
    open_batch(store, queue, name="b", split="test", seed=3, manifest_sha256="m")
    store.close()


def serve(folder: Path, port: int, public_url: str = "") -> None:
    from apps.vet.desk import Desk
    from apps.vet.server import Address
    from apps.vet.server import serve as run
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
    run(
        desk,
        Address(port=port, public_url=public_url, trusted_proxies=("127.0.0.0/8",) if public_url else ()),
    )


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
