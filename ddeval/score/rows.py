"""Rows: which images of a manifest are scored, and what can be said of them before any model runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ddeval import io
from ddeval.data.manifest import manifest_sha256, read_manifest
from ddeval.errors import InputError
from ddeval.score import folder

CALIBRATION = "calibration"
"""Scored with the split that is judged, so that a temperature or a threshold can be fitted on it."""

GROUP_KINDS = {"patient": "patients", "lesion": "lesions", "case": "cases", "image": "images"}


def rows_of(
    frame: pd.DataFrame, split: str, *, where: str, note: Callable[[str], None] = lambda line: None
) -> tuple[pd.DataFrame, list[str]]:
    """Rows of `split` and of the calibration split, in manifest order, and the splits that are judged.

    `all`, or a manifest without splits, gives every row and no split names.
    """
    splits = frame["split"] if "split" in frame.columns else pd.Series(None, index=frame.index, dtype=object)
    if split == "all" or splits.isna().all():
        if split != "all":
            note("the manifest has no splits: every image is scored")
        return frame.assign(split=splits).reset_index(drop=True), []
    counts = splits.value_counts()
    if split not in counts:
        found = ", ".join(f"{name} {n:,}" for name, n in counts.items())
        raise InputError(
            where,
            f"no image of split {split!r} ({found})",
            expected="images to score",
            todo="Pass --split, or --split all.",
        )
    kept = frame[splits.isin([split, CALIBRATION])]
    return kept.reset_index(drop=True), [split]


def group_unit(groups: pd.Series) -> str:
    """What the groups are, in words: `patients`, or `patients, else images` where some have no patient."""
    kinds = set(groups.str.partition(":")[0])
    return ", else ".join(name for kind, name in GROUP_KINDS.items() if kind in kinds)


def synthetic(rows: pd.DataFrame) -> bool:
    """Whether every image says in `source` that it is synthetic, as the embedded data set does."""
    return "source" in rows.columns and bool(rows["source"].eq("synthetic").all())


def manifest_path(run: Path, facts: dict[str, Any]) -> Path:
    """Where the run found its manifest, up to date; a relative path is inside the run folder."""
    return io.local(run / io.place(facts["manifest"]["path"]), missing_ok=True)


def unchanged_manifest(path: Path, sha256: str, *, run: Path) -> pd.DataFrame:
    """The manifest the run was made from; an InputError where its content is another now."""
    if not path.is_file():
        raise InputError(
            f"{run}/{folder.RUN_FILE}",
            f"the manifest {path}, which is not there",
            expected="the manifest of the run",
            todo="Put it back there, or pass where it lies now with --data to a command that has it.",
        )
    frame = read_manifest(path, allow_leaks=True)
    if manifest_sha256(frame) != sha256:
        raise InputError(
            str(path),
            f"sha256 {manifest_sha256(frame)[:12]}…",
            expected=f"{sha256[:12]}…, the manifest {run.name} was made from",
            todo="Score again; corrected labels belong into an overlay (`ddeval vet freeze`).",
        )
    return frame
