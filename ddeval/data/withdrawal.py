"""Withdrawal: what must go when a patient asks, and who still holds it?

A tombstone beside the manifest keeps the patient out from then on, whatever table is imported later. It
holds a hash of the id and the date, nothing else. Thumbnails and cached copies are deleted; runs and reports
that hold the patient are named, since only their owner can decide between deleting a number and making it
again. The photographs themselves lie where the team keeps them and are not touched.
"""

import base64
import contextlib
import datetime as dt
import hashlib
import html
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from ddeval import io
from ddeval.data.images import shown_name, thumbnail_name
from ddeval.errors import InputError

TOMBSTONES = "withdrawn.json"


@dataclass(frozen=True)
class Withdrawal:
    """What was found of a patient, and what was done."""

    n_images: int
    """Rows of the manifest."""
    files: list[str]
    """Their image files as the manifest names them: still to be deleted by whoever keeps them."""
    purged: list[str]
    """Thumbnails that were deleted."""
    n_copies: int
    """Other copies that were deleted: of the vetting app, and of photographs from a bucket."""
    runs: list[str]
    """Run folders whose tables still hold one of the images."""
    reports: list[str]
    """Report files that show or name one of the images."""


def withdraw(
    patient_id: str,
    manifest: Path,
    rows: pd.DataFrame,
    *,
    image_roots: Iterable[Path],
    runs: Path,
    reports: Path,
    shown: Path | None = None,
    on: dt.date,
    dry_run: bool = False,
) -> Withdrawal:
    """Write the tombstone, delete the patient's thumbnails, and name the runs and reports left.

    The rows of the manifest file itself are the caller's to remove (`ddeval.data.manifest`), last, so
    that a withdrawal that was cut short can be repeated.

    Parameters
    ----------
    rows : DataFrame
        The patient's rows of the manifest.
    image_roots : paths
        Where the photographs may lie: of those in a bucket the cache may hold copies.
    runs, reports : Path
        Folders to search, with everything below them; in a bucket they are fetched first.
    shown : Path, optional
        Folder of the copies that the vetting app shows.
    on : date
        Written into the tombstone.
    """
    if rows.empty and not _has_tombstone(patient_id, manifest.parent):
        raise InputError(
            str(manifest),
            f"no image of patient {patient_id!r}",
            expected="a patient_id of the manifest",
            todo="Check the id; it is compared as text.",
        )
    ids = [str(image_id) for image_id in rows["image_id"]]
    runs, reports = io.local_folder(runs), io.local_folder(reports)
    copies = [copy for path in _in_a_bucket(rows, image_roots) for copy in io.copies(path)]
    if shown is not None:
        named = [
            shown / shown_name(image_id, is_full=is_full) for image_id in ids for is_full in (True, False)
        ]
        copies += [path for path in named if path.is_file()]
    thumbnails = _thumbnails(ids, runs)
    embedded = [base64.b64encode(path.read_bytes()).decode() for path in thumbnails]
    found = Withdrawal(
        n_images=len(ids),
        files=rows["image"].dropna().tolist() if "image" in rows.columns else [],
        purged=[str(path) for path in thumbnails],
        n_copies=len(copies),
        runs=_runs_with(ids, runs),
        reports=_reports_with([*ids, *embedded], reports),
    )
    if not dry_run:
        _write_tombstone(patient_id, manifest.parent, on)
        for path in thumbnails:
            io.remove(path)
        for path in copies:
            path.unlink(missing_ok=True)
    return found


def is_withdrawn(frame: pd.DataFrame, folder: Path) -> pd.Series:
    """Which rows belong to a patient with a tombstone in `folder`."""
    gone = _tombstones(folder)
    if "patient_id" not in frame.columns or not gone:
        return pd.Series(False, index=frame.index)
    return frame["patient_id"].map(patient_sha256, na_action="ignore").isin(set(gone))


def has_tombstones(folder: Path) -> bool:
    """Whether a patient has withdrawn from the manifests of this folder."""
    return bool(_tombstones(folder))


def patient_sha256(patient_id: str) -> str:
    return hashlib.sha256(f"patient:{patient_id}".encode()).hexdigest()


def _tombstones(folder: Path) -> list[str]:
    path = io.local(folder / TOMBSTONES, missing_ok=True)
    if not path.is_file():
        return []
    try:
        return [str(entry["patient_sha256"]) for entry in io.read_json(path)["withdrawn"]]
    except (TypeError, KeyError) as error:
        raise InputError(
            str(path),
            "no list of tombstones",
            expected='{"withdrawn": [{"patient_sha256": …, "on": …}]}',
            todo="Restore the file: without it, withdrawn patients would come back.",
        ) from error


def _has_tombstone(patient_id: str, folder: Path) -> bool:
    return patient_sha256(patient_id) in _tombstones(folder)


def _write_tombstone(patient_id: str, folder: Path, on: dt.date) -> None:
    if _has_tombstone(patient_id, folder):
        return
    path = folder / TOMBSTONES
    entries = io.read_json(path)["withdrawn"] if path.is_file() else []
    entry = {"patient_sha256": patient_sha256(patient_id), "on": on.isoformat()}
    io.write_json(path, {"withdrawn": [*entries, entry]})


def _in_a_bucket(rows: pd.DataFrame, roots: Iterable[Path]) -> list[Path]:
    """The photographs of these rows that lie in a bucket, below an allowed folder."""
    roots, found = tuple(roots), []
    for image in rows["image"].dropna() if "image" in rows.columns else []:
        for root in roots:  # each by itself: which of them holds it need not be asked
            with contextlib.suppress(InputError):
                found.append(io.resolve(str(image), [root]))
    return [path for path in found if io.in_bucket(path)]


def _thumbnails(ids: Iterable[str], runs: Path) -> list[Path]:
    names = {thumbnail_name(image_id) for image_id in ids}
    return sorted(path for path in runs.rglob("thumbnails/*.webp") if path.name in names)


def _runs_with(ids: Iterable[str], runs: Path) -> list[str]:
    """Folders directly below `runs` in which any table names one of the images."""
    wanted = set(ids)
    found = set()
    for path in sorted(runs.rglob("*.parquet")):
        schema = pq.read_schema(path)
        if "image_id" in schema.names:
            held = pq.read_table(path, columns=["image_id"]).column("image_id").to_pylist()
            if wanted & set(map(str, held)):
                found.add(runs / path.relative_to(runs).parts[0])
    return sorted(map(str, found))


def _reports_with(marks: Iterable[str], reports: Path) -> list[str]:
    """Files below `reports` in which one of the marks stands, as written or as HTML escapes it."""
    marks = [form for mark in marks for form in {mark, html.escape(mark)}]
    found = []
    for path in sorted(reports.rglob("*")):
        if path.suffix in (".html", ".json", ".csv", ".md") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            if any(mark in text for mark in marks):
                found.append(str(path))
    return found
