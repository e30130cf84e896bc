"""Copies: which photographs of train and val show a picture that the judging splits hold?

No patient stands in two splits, but one photograph may: filed twice, under two patients, cut or compressed
again. What is learnt from it would be tested on itself, so it is left out of training, counted, and listed in
`training/copies.csv`. Files, pixels and structure are compared (`ddeval.audit.pictures`); no model is asked.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ddeval.audit.pictures import copies, fingerprints
from ddeval.config import TrainConfig
from ddeval.data.manifest import image_files, manifest_sha256
from ddeval.io import read_csv, write_csv
from ddeval.score.run import Progress
from ddeval.train import state

FILE = "copies.csv"
JUDGING = ("calibration", "test")
"""Splits whose pictures must not be learnt from."""
LEARNT_FROM = ("train", "val")
"""Splits a training run reads; the others only prove that they are apart."""
COLUMNS = ("image_id", "split", "copy_of", "copy_split", "kind", "similarity")


def copies_of_judged(
    manifest: pd.DataFrame,
    image_roots: Sequence[Path],
    *,
    progress: Progress,
    workers: int = 0,
    where: str = "manifest",
) -> pd.DataFrame:
    """`COLUMNS`, a row a photograph of train or val that shows one of test or calibration, in manifest order.

    A photograph that cannot be read is compared with nothing.
    """
    splits = manifest["split"] if "split" in manifest.columns else pd.Series(None, index=manifest.index)
    sides = [manifest[splits.isin(names)].reset_index(drop=True) for names in (LEARNT_FROM, JUDGING)]
    if not len(sides[0]) or not len(sides[1]):
        return no_copies()
    with progress("comparing with the test split", len(sides[0]) + len(sides[1])) as tick:
        files = [image_files(side, image_roots, where=where) for side in sides]
        n_threads = workers or os.cpu_count() or 1
        prints = [fingerprints(side, n_threads=n_threads, tick=tick) for side in files]
    found = copies(*prints)
    learnt, judged = (
        side.iloc[found[at]].reset_index(drop=True) for side, at in zip(sides, ("row", "of_row"), strict=True)
    )
    return pd.DataFrame(
        {
            "image_id": learnt["image_id"],
            "split": learnt["split"],
            "copy_of": judged["image_id"],
            "copy_split": judged["split"],
            "kind": found["kind"],
            "similarity": np.round(found["similarity"].astype(float), 4),
        }
    )


def known_copies(
    manifest: pd.DataFrame,
    recipe: TrainConfig,
    image_roots: Sequence[Path],
    out: Path,
    *,
    progress: Progress,
    where: str,
) -> pd.DataFrame:
    """`copies_of_judged` as the recipe wants it; the list in `out` where the run began there."""
    if recipe.copies_of_test == "learn":
        return no_copies()
    begun = state.begun_with(out) or {}
    path = out / state.FOLDER / FILE
    if path.is_file() and begun.get("manifest_sha256") == manifest_sha256(manifest):
        return read_csv(path)
    return copies_of_judged(manifest, image_roots, progress=progress, workers=recipe.workers, where=where)


def no_copies() -> pd.DataFrame:
    return pd.DataFrame(columns=list(COLUMNS))


def write_copies(folder: Path, found: pd.DataFrame) -> None:
    """Keep the list beside the run's state, so that a run that goes on need not look again."""
    write_csv(folder / FILE, found)
