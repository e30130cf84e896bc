"""A split with planted label errors, a model not trained on it, and readers who read a queue blind."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from ddeval import io
from ddeval.data.manifest import manifest_sha256, read_manifest
from ddeval.score.file_run import execute_file, prepare_file
from ddeval.score.foreign import read_file
from ddeval.vet import reading
from ddeval.vet.adjudication import next_hearing, record_adjudication
from ddeval.vet.batches import close_batch, open_batch
from ddeval.vet.consensus import Answer
from ddeval.vet.export import freeze
from ddeval.vet.reading import next_case, record_reading
from ddeval.vet.store import Store

CLASSES = ("eczema", "psoriasis", "acne", "tinea", "other")
CLASS_OF = {name: name for name in CLASSES}


class Planted(NamedTuple):
    """Where things lie, and the truth."""

    manifest: Path
    run: Path
    true_label: dict[str, str]
    """By case_id."""
    right: pd.DataFrame
    """`case_id, is_right` of every image labelled with a target in truth: the closed set's answer."""


def planted_run(
    folder: Path, *, n_cases: int = 400, seed: int = 0, name: str = "model", has_pictures: bool = False
) -> Planted:
    """A manifest of cases with one or two images, 10 % of labels wrong, and a model right on 85 %.

    With pictures, the manifest names a PNG of noise for each image; the eighth is the first once more.
    """
    rng = np.random.default_rng(seed)
    K = len(CLASSES)
    truth = rng.choice(K, size=n_cases, p=[0.4, 0.25, 0.15, 0.1, 0.1])
    wrong = rng.random(n_cases) < 0.10
    given = np.where(wrong, (truth + rng.integers(1, K, n_cases)) % K, truth)
    size = rng.integers(1, 3, n_cases)
    case = np.repeat(np.arange(n_cases), size)
    ids = [f"c{c:04d}-{k}" for c, n in enumerate(size) for k in range(n)]
    margin = rng.normal(2.2, 2.0, len(case))  # of the true class
    logits = rng.normal(0.0, 0.7, (len(case), K))
    logits[np.arange(len(case)), truth[case]] += margin
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    manifest = pd.DataFrame(
        {
            "image_id": ids,
            "case_id": [f"c{c:04d}" for c in case],
            "patient_id": [f"p{c // 2:04d}" for c in case],
            "label": [CLASSES[g] for g in given[case]],
            "split": "test",
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    if has_pictures:
        manifest["image"] = manifest["image_id"] + ".png"
        for path in manifest["image"]:
            blobs = Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8))
            blobs.resize((48, 48), Image.Resampling.BICUBIC).save(folder / path)
        manifest.loc[7, "image"] = manifest.loc[0, "image"]
    io.write_csv(folder / "manifest.csv", manifest)
    table = pd.DataFrame(probs, columns=list(CLASSES))
    table.insert(0, "image_id", ids)
    io.write_csv(folder / f"{name}.csv", table)
    file = read_file(folder / f"{name}.csv")
    job = prepare_file(file, folder / "manifest.csv", runs=folder / "runs", other_class="other")
    closed = probs[:, :-1].argmax(axis=1)
    target = truth[case] < K - 1
    right = pd.DataFrame({"case_id": manifest["case_id"], "is_right": closed == truth[case]})[target]
    named = {f"c{c:04d}": CLASSES[t] for c, t in enumerate(truth)}
    return Planted(folder / "manifest.csv", execute_file(job), named, right)


def read_queue(
    planted: Planted,
    queue: Path,
    store: Store,
    *,
    name: str = "queue",
    reads: Callable[[np.random.Generator, str], Answer] | None = None,
    seed: int = 0,
) -> None:
    """Two readers and an adjudicator work through a queue by the real store; the batch is closed.

    `reads` gives a reader's answer from the true label; right always where None.
    """
    rng = np.random.default_rng(seed)
    say = reads or (lambda rng, label: Answer((label,)))
    frame = io.read_parquet(queue)[0]
    sha256 = manifest_sha256(read_manifest(planted.manifest))
    batch = open_batch(store, frame, name=name, split="test", seed=seed, manifest_sha256=sha256)
    reading.DWELL_SECONDS = 0.0
    for reader in ("ann", "bob"):
        while (screen := next_case(store, batch, reader)) is not None:
            answer = say(rng, planted.true_label[screen.case_id])
            record_reading(store, batch, reader, screen.nonce, answer)
    while (hearing := next_hearing(store, batch, "cleo", class_of=CLASS_OF)) is not None:
        answer = say(rng, planted.true_label[hearing.case_id])
        record_adjudication(store, batch, "cleo", hearing.nonce, answer)
    close_batch(store, name, actor="admin")


def frozen_labels(
    planted: Planted, store: Store, folder: Path, *, batches: tuple[str, ...] = ("queue",)
) -> Path:
    """The overlay of closed batches."""
    manifest = read_manifest(planted.manifest)
    return freeze(store, batches, manifest=manifest, class_of=CLASS_OF, folder=folder)
