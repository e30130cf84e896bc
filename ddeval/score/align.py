"""A predictions file joined to a manifest: by image id, one to one, never by position.

Where a file brings its own labels, a manifest can be made from it instead (`own_manifest`). What was
assumed on the way (a file ending taken off, a class name in another case, rows left out) is a note.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from ddeval import io, tables
from ddeval.data.manifest import with_cases
from ddeval.errors import InputError
from ddeval.score.foreign import PredictionsFile
from ddeval.score.predictions import Link, Predictions, floored_log

IMAGE_SUFFIXES = r"\.(?:jpe?g|png|webp|tiff?)$"


def align(
    file: PredictionsFile,
    manifest: pd.DataFrame,
    *,
    splits: Sequence[str] = (),
    link: Link = "softmax",
    other_class: str | None = None,
) -> tuple[Predictions, list[str]]:
    """The file's rows in manifest order with the manifest's groups, and notes on what was done.

    Parameters
    ----------
    manifest : DataFrame
        MANIFEST with `group`.
    splits : list of str
        Keep images of these splits; all where empty.

    Raises
    ------
    InputError
        If the file has no ids, an id twice, an id the manifest lacks, or no image of the splits.
    """
    notes = list(file.notes)
    ids = _matched_ids(file, manifest, notes)
    position = pd.Series(np.arange(len(ids)), index=pd.Index(ids))
    kept = manifest[manifest["split"].isin(splits)] if splits else manifest
    at = position.reindex(kept["image_id"])
    found = at.notna().to_numpy()
    if not found.any():
        raise InputError(
            str(file.path),
            f"{len(ids)} predictions, none of an image in split {' or '.join(splits)}",
            expected="predictions of the split to be scored",
            todo="Pass --split all, or the split that was predicted.",
        )
    if (~found).any():
        notes.append(f"images of the manifest without a prediction, not scored: {int((~found).sum()):,}")
    if len(ids) > found.sum():
        notes.append(f"predictions of other splits, not scored: {len(ids) - int(found.sum()):,}")
    names = _matched_names(file, manifest, notes)
    if other_class is not None and other_class not in names:
        raise InputError(
            "--other-class", f"{other_class!r}", expected=f"one of {', '.join(names)}", todo="Correct it."
        )

    rows = at[found].to_numpy().astype(np.int64)
    values = file.values[rows]
    top = values.max(axis=1, keepdims=True)
    ties = int(((values == top).sum(axis=1) > 1).sum())
    if ties:
        notes.append(f"images with a tie for the top class, which counts as wrong: {ties:,}")
    frame = kept[found].reset_index(drop=True)
    has_probs = file.kind == "pred_probs"
    sha256 = io.file_sha256(file.path)
    return (
        Predictions(
            id_frame(frame),
            floored_log(values) if has_probs else values.astype(np.float32),
            names,
            link,
            other_class,
            values if has_probs else None,
            io.value_sha256([sha256, frame["image_id"].tolist(), names, file.kind, link, other_class]),
            {"source": "predictions file", "sha256": sha256, "values": file.kind},
        ),
        notes,
    )


def id_frame(manifest: pd.DataFrame) -> pd.DataFrame:
    """The id columns of PREDICTIONS; an image without a case is a case of its own."""
    return pd.DataFrame(
        {
            "image_id": manifest["image_id"].astype(object),
            "case_id": with_cases(manifest)["case_id"],
            "group": manifest["group"].astype(object),
            "split": manifest["split"].astype(object) if "split" in manifest else None,
        }
    ).reset_index(drop=True)


def own_manifest(file: PredictionsFile) -> pd.DataFrame:
    """A manifest from the labels a predictions file brings, for a file scored without one.

    Whole-number labels index the class names; without names, classes are called by their number.
    """
    if file.labels is None:
        raise InputError(
            str(file.path),
            "no labels",
            expected="labels in the file or a manifest",
            todo="Pass the manifest with --data MANIFEST.",
        )
    labels, file = file.labels, named(file)
    names = file.class_names or ()
    if pd.api.types.is_numeric_dtype(labels):
        wrong = ~(labels.between(0, len(names) - 1) & (labels % 1 == 0))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"{file.path} row {row + file.first_line}",
                f"label {labels.iloc[row]:g} ({int(wrong.sum())} such rows)",
                expected=f"a whole number from 0 to {len(names) - 1}",
                todo="Labels index class_names, from 0.",
            )
        labels = labels.map(lambda k: names[int(k)])
    columns = {"image_id": file.image_ids, "label": labels}
    if file.groups is not None:
        columns["patient_id"] = file.groups.astype(str)
    frame = pd.DataFrame(columns).astype(object)
    tables.check(frame, tables.MANIFEST, where=str(file.path), first_line=file.first_line)
    return frame


def named(file: PredictionsFile) -> PredictionsFile:
    """The file with an id for every row and a name for every class."""
    ids = file.image_ids
    if ids is None:
        ids = pd.Series([f"row-{i:07d}" for i in range(len(file.values))])
    names = file.class_names or tuple(str(k) for k in range(file.values.shape[1]))
    return replace(file, image_ids=ids, class_names=names)


def _matched_ids(file: PredictionsFile, manifest: pd.DataFrame, notes: list[str]) -> pd.Series:
    """The file's ids as the manifest writes them.

    Where not one id stands in the manifest as written, but every one does without its image ending
    (.jpg, .png, ...), the ending is taken off and a note says so.
    """
    if file.image_ids is None:
        raise InputError(
            str(file.path),
            "no image ids",
            expected="a column image_id (array image_ids in npz)",
            todo="Add it, or name it with --id-column: rows are never joined by position.",
        )
    ids = file.image_ids
    known = ids.isin(manifest["image_id"])
    if not known.any():
        short = ids.str.replace(IMAGE_SUFFIXES, "", case=False, regex=True)
        if short.isin(manifest["image_id"]).all():
            notes.append("image ids matched without their file ending")
            ids, known = short, short.isin(manifest["image_id"])
    if not known.all():
        row = int(np.flatnonzero(~known)[0])
        raise InputError(
            f"{file.path} row {row + file.first_line}",
            f"image id {ids.iloc[row]!r}, which the manifest lacks ({int((~known).sum()):,} such ids)",
            expected=f"ids of the manifest, such as {_example(ids, manifest)}",
            todo="Write the manifest's ids, pass the manifest of these with --data, or remove the rows.",
        )
    twice = ids.duplicated()
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        raise InputError(
            f"{file.path} row {row + file.first_line}",
            f"image id {ids.iloc[row]!r} a second time ({int(twice.sum()):,} such rows)",
            expected="each image once",
            todo="Remove the copies.",
        )
    return ids


def _example(ids: pd.Series, manifest: pd.DataFrame) -> str:
    """An id of the manifest; where the file gives names of photographs, the id of one of them."""
    if not len(manifest):
        return "none: it has no rows"
    files = manifest.get("image", pd.Series(dtype=object)).dropna().map(lambda f: str(f).rsplit("/", 1)[-1])
    known = files[files.isin(ids.map(lambda i: i.rsplit("/", 1)[-1]))]
    if known.empty:
        return repr(manifest["image_id"].iloc[0])
    return f"{manifest['image_id'].loc[known.index[0]]!r}, which is the photograph {known.iloc[0]}"


def _matched_names(file: PredictionsFile, manifest: pd.DataFrame, notes: list[str]) -> tuple[str, ...]:
    """Class names as the manifest spells them: exactly, else ignoring case where that is one-to-one."""
    if file.class_names is None:
        raise InputError(
            str(file.path),
            "no class names",
            expected=f"a name for each of the {file.values.shape[1]} columns",
            todo="Pass --class-names a,b,c (or a labels.txt) in the order of the columns.",
        )
    names = file.class_names
    labels = [str(label) for label in manifest["label"].dropna().unique()] if "label" in manifest else []
    spelling = {label.casefold(): label for label in labels}
    folded = [name.casefold() for name in names]
    if len(spelling) < len(labels) or len(set(folded)) < len(names):
        return names
    matched = tuple(n if n in labels else spelling.get(f, n) for n, f in zip(names, folded, strict=True))
    changed = [f"{a}→{b}" for a, b in zip(names, matched, strict=True) if a != b]
    if changed:
        notes.append(f"class names matched ignoring case: {', '.join(changed)}")
    return matched
