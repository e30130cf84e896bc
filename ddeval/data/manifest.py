"""The manifest: which images are there, and what is said about each of them?

`read_manifest` gives a frame with the columns of `ddeval.tables.MANIFEST`, text exactly as written, and
the unit of independence `group`. It opens no image (`ddeval.data.images`) and maps no foreign columns
(`ddeval.data.mapping`); what is odd but usable is told by `ddeval.data.checks`.
"""

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ddeval import io, tables
from ddeval.data import withdrawal
from ddeval.data.fields import SEPARATOR
from ddeval.data.splits import leaks
from ddeval.errors import InputError

logger = logging.getLogger(__name__)

DERIVED = ("group",)
"""Columns made on reading; a file that brings one of its own is refused."""
_NUMBERS = tuple(c.name for c in tables.MANIFEST.columns if c.kind == "float")
_TEXTS = tuple(c.name for c in tables.MANIFEST.columns if c.kind == "str")
_IDS = ("image_id", "case_id", "patient_id", "lesion_id")


def read_manifest(
    path: Path | str, *, image_roots: Iterable[Path] | None = None, allow_leaks: bool = False
) -> pd.DataFrame:
    """The manifest in a CSV or Parquet file, checked, one row an image.

    Every cell is text as it stands in the file ("001" and "NA" survive) or None; only `age` is a
    number. Columns the design does not name are kept. Images without a file or a label are kept too;
    rows of a withdrawn patient are left out and logged.

    Parameters
    ----------
    path : Path
        `.parquet` is read as Parquet, anything else as CSV.
    image_roots : paths, optional
        Where images may lie. Given, every path in `image` must lie under one of them.
    allow_leaks : bool
        Whether a patient, lesion or case may stand in two splits.

    Returns
    -------
    DataFrame
        Columns of the file, and `group` (see `ddeval.tables.group_of`).

    Raises
    ------
    InputError
        Names the first bad row and counts all; `manifest_problems` lists them.
    """
    path = io.local(path)
    frame = read_table(path)
    tables.refuse(
        manifest_problems(frame),
        where=str(path),
        place=placer(path),
        todo="`ddeval data check` lists every such row.",
    )
    frame = without_withdrawn(frame, path)
    if image_roots is not None:
        image_files(frame, image_roots, where=str(path))
    if not allow_leaks:
        _refuse_leaks(frame, path)
    return with_group(frame)


def read_table(path: Path) -> pd.DataFrame:
    """The cells of a manifest file as text or None, unchecked; an InputError where it is no table."""
    path = io.local(path)
    is_parquet = path.suffix == ".parquet"
    frame = as_text(io.read_parquet(path)[0], where=str(path)) if is_parquet else io.read_csv(path)
    if frame.empty:
        raise InputError(str(path), "no rows", expected="one row an image", todo="Check the export.")
    own = [name for name in DERIVED if name in frame.columns]
    if own:
        raise InputError(
            str(path),
            f"a column {own[0]!r}",
            expected="that name unused: ddeval fills it from patient_id, lesion_id, case_id",
            todo="Rename the column.",
        )
    return frame


def with_group(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with `age` as numbers and the column `group`; for a manifest made in memory."""
    numbers = {name: pd.to_numeric(frame[name]).astype(float) for name in _NUMBERS if name in frame.columns}
    return frame.assign(**numbers, group=tables.group_of(frame))


def manifest_problems(frame: pd.DataFrame) -> pd.DataFrame:
    """Every cell that breaks the manifest's rules, one row each: `row`, `column`, `found`, `expected`.

    Beside the limits of `ddeval.tables.MANIFEST`: skin types are I to VI or a range such as II-III;
    ids, labels and paths have no space at an end and no control character (a line break in an id
    would forge a line of a log).
    """
    found = [tables.problems(frame, tables.MANIFEST)]
    for name in _TEXTS:
        if name in frame.columns:
            texts = frame[name].reset_index(drop=True).dropna()
            texts = texts[texts.map(lambda v: isinstance(v, str)).astype(bool)]
            wrong = texts.str.contains(r"^\s|\s$|[\x00-\x1f\x7f]", regex=True).astype(bool)
            found.append(_problem_rows(texts[wrong], "no space at an end, no line break"))
    if "skin_type" in frame.columns:
        types = frame["skin_type"].reset_index(drop=True).dropna()
        expected = f"one of {', '.join(tables.SKIN_TYPES)}, a range such as II-III, or empty"
        is_known = types.isin((*tables.SKIN_TYPES, *tables.SKIN_TYPE_RANGES))
        found.append(_problem_rows(types[~is_known], expected))
    return pd.concat(found, ignore_index=True).sort_values("row", kind="stable", ignore_index=True)


def manifest_sha256(frame: pd.DataFrame) -> str:
    """Hash of what a manifest says: not of the order of its rows or columns, nor of empty columns."""
    ordered = frame.sort_values("image_id", kind="stable")
    digest = hashlib.sha256()
    for name in sorted(set(map(str, frame.columns)) - set(DERIVED)):
        held = ordered[name].notna()
        if held.any():
            cells = [
                v if known else None for v, known in zip(ordered[name].astype(object), held, strict=True)
            ]
            digest.update(json.dumps([name, cells], ensure_ascii=False).encode(errors="surrogatepass"))
    return digest.hexdigest()


def image_files(frame: pd.DataFrame, roots: Iterable[Path], *, where: str = "manifest") -> pd.Series:
    """The file of each row of `image` (None where it names none), every one under an allowed root.

    The files need not exist. Raises an InputError that names the first path outside and counts all.
    """
    allowed = tuple(io.place(root).resolve() for root in roots)
    files, refused = [], []
    images = frame["image"] if "image" in frame.columns else [None] * len(frame)
    if len(allowed) > 1:  # which root holds an image is asked of a bucket once for all
        plain = [image for image in images if not (pd.isna(image) or "//" in image or ".." in image)]
        io.there(root / image for image in plain for root in allowed)
    for image in images:
        try:
            files.append(None if pd.isna(image) else io.resolve(image, allowed, where=where))
        except InputError as error:
            refused.append(error)
    if refused:
        first = refused[0]
        count = f" ({len(refused)} such rows)" if len(refused) > 1 else ""
        raise InputError(first.where, first.found + count, expected=first.expected, todo=first.todo)
    return pd.Series(files, index=frame.index, dtype=object, name="image_file")


def write_manifest(path: Path, frame: pd.DataFrame) -> None:
    """A manifest as `.parquet`, or else as CSV, without the columns made on reading."""
    frame = frame.drop(columns=list(DERIVED), errors="ignore")
    if path.suffix == ".parquet":
        io.write_parquet(path, frame)
    else:
        io.write_csv(path, frame)


def withdraw_patient(
    path: Path,
    patient_id: str,
    *,
    runs: Path,
    reports: Path,
    on: dt.date,
    image_roots: Iterable[Path] = (),
    shown: Path | None = None,
    dry_run: bool = False,
) -> withdrawal.Withdrawal:
    """`withdrawal.withdraw`, and the patient's rows removed from the manifest file.

    `image_roots` are where photographs may lie, the manifest's folder where empty.
    """
    path = io.local(path)
    frame = read_table(path)
    if "patient_id" not in frame.columns:
        raise InputError(
            str(path),
            "no column patient_id",
            expected="the manifest's patients",
            todo="Without it nobody can say which images are the patient's.",
        )
    is_theirs = frame["patient_id"] == patient_id
    found = withdrawal.withdraw(
        patient_id, path, frame[is_theirs], image_roots=tuple(image_roots) or [path.parent],
        runs=runs, reports=reports, shown=shown, on=on, dry_run=dry_run,
    )  # fmt: skip
    if not dry_run and is_theirs.any():
        write_manifest(path, frame[~is_theirs])
    return found


def without_withdrawn(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The rows of patients without a tombstone in the folder of `path`; logs how many that takes."""
    gone = withdrawal.is_withdrawn(frame, path.parent)
    if gone.any():
        n_patients = frame.loc[gone, "patient_id"].nunique()
        logger.warning("%s: %d images of %d withdrawn patients left out", path, gone.sum(), n_patients)
    return frame[~gone].reset_index(drop=True)


def placer(path: Path) -> Callable[[int], str]:
    """How a row of a manifest file is named in a message: by line in CSV, by number in Parquet."""
    if path.suffix == ".parquet":
        return lambda row: f"row {row}"
    return lambda row: f"line {io.line_of_row(path, row)}"


def _refuse_leaks(frame: pd.DataFrame, path: Path) -> None:
    found = leaks(frame)
    if found.empty:
        return
    first = found.iloc[0]
    more = f" ({len(found)} such patients, lesions or cases)" if len(found) > 1 else ""
    raise InputError(
        str(path),
        f"{first['kind']} {first['id']!r} in the splits {first['splits']}{more}",
        expected="every patient, lesion and case in one split",
        todo="`ddeval data split` makes such splits; `ddeval data check` lists the leaks.",
    )


def _problem_rows(cells: pd.Series, expected: str) -> pd.DataFrame:
    found = [repr(cell) for cell in cells]
    return pd.DataFrame({"row": cells.index, "column": cells.name, "found": found, "expected": expected})


def as_text(frame: pd.DataFrame, *, where: str) -> pd.DataFrame:
    """A typed table as text. An id stored as a float is refused: it once was another text."""
    columns = {}
    for name in map(str, frame.columns):
        cells = frame[name]
        if name in _IDS and pd.api.types.is_float_dtype(cells) and cells.notna().any():
            raise InputError(
                where,
                f"{name} stored as {cells.dtype}",
                expected="text (or whole numbers)",
                todo="Store ids as text when the table is made: 001 and 1 are two patients.",
            )
        columns[name] = pd.Series([_cell_text(v) for v in cells], index=cells.index, dtype=object)
    return pd.DataFrame(columns)


def _cell_text(value: Any) -> str | None:
    if isinstance(value, list | tuple | np.ndarray):
        return SEPARATOR.join(map(str, value)) or None
    if value is None or pd.isna(value) or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def with_cases(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest with a `case_id` in every row: a photograph that names no case is a case of its own."""
    own = manifest["image_id"]
    case_id = manifest["case_id"].fillna(own) if "case_id" in manifest else own
    return manifest.assign(case_id=case_id.astype(object))
