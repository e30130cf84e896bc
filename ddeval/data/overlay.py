"""The label overlay: vetted labels laid over a manifest, which itself is never edited.

An overlay holds one split, one row a vetted image, confirmed ones too, and is numbered when it is
frozen (`ddeval.vet.export` writes it). This module reads one and says what each image's label is
under it; `v0` is the manifest without an overlay.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ddeval import io, tables
from ddeval.errors import InputError

EXCLUDED = ("cannot_tell", "poor_image", "off_topic", "duplicate", "reported")
"""Outcomes after which an image has no label: it leaves the numbers and is counted beside them."""


@dataclass(frozen=True)
class Overlay:
    """One frozen overlay."""

    frame: pd.DataFrame
    """LABELS; `labels` is a list of {"label", "weight"}, heaviest first, `first_answers` the class or exit
    that each blind reader of the case put first (no column in overlays frozen before it was written)."""
    version: str
    split: str
    metadata: dict[str, Any]
    """Hashes of manifest and class list, head hash of the store, policy, readers."""
    sha256: str


def read_overlay(path: Path) -> Overlay:
    """The overlay in a Parquet file; an InputError says what does not fit."""
    frame, metadata = io.read_parquet(path)
    missing = {"overlay_version", "split"} - metadata.keys()
    if missing:
        raise InputError(
            str(path),
            f"a file without {' and '.join(sorted(missing))} in its metadata",
            expected="a label overlay",
            todo="Make one with `ddeval vet freeze`.",
        )
    tables.check(frame, tables.LABELS, where=str(path))
    split = str(metadata["split"])
    foreign = frame[frame["split"] != split]
    if len(foreign):
        raise InputError(
            str(path),
            f"image {foreign['image_id'].iloc[0]!r} of another split ({len(foreign)} such)",
            expected=f"images of split {split!r} alone",
            todo="Freeze each split into its own overlay.",
        )
    return Overlay(frame, str(metadata["overlay_version"]), split, metadata, io.file_sha256(path))


def frozen(folder: Path, split: str) -> dict[int, Path]:
    """The frozen overlays of a split, `<split>-v<number>.parquet`, by number from the first to the last."""
    found = {
        int(match[1]): path
        for path in folder.glob(f"{split}-v*.parquet")
        if (match := re.fullmatch(rf"{split}-v(\d+)", path.stem))
    }
    return dict(sorted(found.items()))


def find_overlay(version: str, *, split: str, folder: Path) -> Path:
    """Path of an overlay given by path, by name (`test-v2`) or by number (`v2`) in `folder`."""
    if Path(version).suffix == ".parquet":
        return Path(version)
    name = version if re.fullmatch(r"[a-z]+-v\d+", version) else f"{split}-{version}"
    path = folder / f"{name}.parquet"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.parquet")) if folder.is_dir() else []
        raise InputError(
            f"--labels {version}",
            f"no overlay {path}",
            expected=f"one of v0, {', '.join(known)}" if known else "v0 (nothing is frozen yet)",
            todo="Freeze one with `ddeval vet freeze`, or pass the path of its file.",
        )
    return path


def apply_overlay(manifest: pd.DataFrame, overlay: Overlay) -> pd.DataFrame:
    """The manifest with `label` as vetted, and `label_outcome` saying why.

    A kept, compatible or unresolved image keeps its given label, a relabelled one takes the heaviest
    class of the consensus, and an image with one of the `EXCLUDED` outcomes has none (None). Images
    the overlay does not hold keep theirs, with an empty outcome.

    Raises
    ------
    InputError
        If the overlay holds images the manifest lacks, or was made over other given labels.
    """
    rows = overlay.frame.set_index("image_id")
    known = rows.index.isin(manifest["image_id"])
    if not known.all():
        raise InputError(
            f"overlay {overlay.split}-{overlay.version}",
            f"image {rows.index[~known][0]!r}, which the manifest lacks ({int((~known).sum())} such)",
            expected="images of this manifest",
            todo="Pass the manifest the overlay was made for with --data.",
        )
    frame = manifest.copy()
    vetted = frame["image_id"].map(rows["outcome"])
    given = frame["image_id"].map(rows["given_label"])
    moved = vetted.notna() & given.notna() & (given != frame["label"])
    if moved.any():
        first = frame[moved].iloc[0]
        raise InputError(
            f"overlay {overlay.split}-{overlay.version}",
            f"given label {given[moved].iloc[0]!r} of image {first['image_id']!r}, in the manifest "
            f"{first['label']!r} ({int(moved.sum())} such)",
            expected="the labels the readers' verdicts were derived from",
            todo="Pass the manifest the overlay was made for with --data.",
        )
    heaviest = rows["labels"].map(lambda labels: labels[0]["label"] if len(labels) else None)
    relabelled = vetted == "relabel"
    frame.loc[relabelled, "label"] = frame.loc[relabelled, "image_id"].map(heaviest)
    frame.loc[vetted.isin(EXCLUDED), "label"] = None
    frame["label_outcome"] = vetted.astype(object).where(vetted.notna(), "")
    return frame


def soft_labels(overlay: Overlay) -> dict[str, dict[str, float]]:
    """Class weights of every image the overlay gives any, by image_id: what training may learn from."""
    return {
        row["image_id"]: {entry["label"]: float(entry["weight"]) for entry in row["labels"]}
        for row in overlay.frame[["image_id", "labels"]].to_dict("records")
        if len(row["labels"])
    }


def changes(before: Overlay, after: Overlay) -> pd.DataFrame:
    """Images whose outcome or labels differ between two overlays: `image_id, field, before, after`."""
    sides = [o.frame.set_index("image_id")[["outcome", "labels"]] for o in (before, after)]
    ids = sides[0].index.union(sides[1].index)
    rows = []
    for image_id in ids:
        cells = [side.loc[image_id] if image_id in side.index else None for side in sides]
        for field in ("outcome", "labels"):
            old, new = ("" if cell is None else _said(cell[field]) for cell in cells)
            if old != new:
                rows.append({"image_id": image_id, "field": field, "before": old, "after": new})
    return pd.DataFrame(rows, columns=["image_id", "field", "before", "after"])


def _said(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    return ", ".join(f"{entry['label']} {entry['weight']:.2f}" for entry in cell)
