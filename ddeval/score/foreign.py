"""Predictions files of others: any model in the world can be scored without its code.

A CSV, Parquet or npz file with `logits` or `pred_probs` is read as it stands; `ddeval.score.align`
joins it to a manifest. What a number means is declared, by the key or the flag, and then checked:
nothing is guessed from its range. Everything assumed on the way is a note, which the command prints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval import io
from ddeval.errors import InputError
from ddeval.metrics.arrays import ROW_SUM_TOLERANCE
from ddeval.score.predictions import Link, check_finite, list_values

Values = Literal["logits", "pred_probs"]
VALUES: tuple[Values, ...] = ("logits", "pred_probs")
SUFFIXES = (".csv", ".tsv", ".parquet", ".npz")
WORD = {"logits": "logit", "pred_probs": "probability"}
ID_NAMES = ("image_id", "image_ids", "image", "id")
LABEL_NAMES = ("label", "labels")
GROUP_NAMES = ("group", "groups")


@dataclass(frozen=True)
class PredictionsFile:
    """What a predictions file holds, before anything is known about its images."""

    path: Path
    values: npt.NDArray[np.float64]
    """(N, K), as given."""
    kind: Values
    """What `values` are."""
    class_names: tuple[str, ...] | None
    """None where the file does not name its columns."""
    image_ids: pd.Series | None
    """(N,) text."""
    labels: pd.Series | None
    """(N,) class names, or whole numbers that index `class_names`."""
    groups: pd.Series | None
    notes: tuple[str, ...] = ()

    @property
    def first_line(self) -> int:
        """Line of the file on which row 0 stands."""
        return 2 if self.path.suffix in (".csv", ".tsv") else 1


def is_predictions_file(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def read_file(
    path: Path,
    *,
    id_column: str | None = None,
    class_columns: Sequence[str] = (),
    class_names: Sequence[str] = (),
    kind: Values = "pred_probs",
    link: Link = "softmax",
) -> PredictionsFile:
    """A predictions file, its numbers checked.

    Parameters
    ----------
    id_column : str
        Column of the image ids; the first of image_id, image_ids, image, id where None.
    class_columns : list of str
        Columns that hold one class each, as `column` or `class=column`; where empty, every column
        of numbers that is no id, label or group.
    class_names : list of str
        Names of the columns of an array (`logits`, `pred_probs`) that does not bring them.
    kind : {"pred_probs", "logits"}
        What the class columns of a CSV hold; an array says it by its name.
    link : {"softmax", "sigmoid"}
        Sigmoid probabilities need not sum to 1.
    """
    if path.suffix.lower() == ".npz":
        file = _read_npz(path, class_names)
    elif path.suffix.lower() == ".parquet":
        file = _read_parquet(path, class_names, id_column, class_columns, kind)
    else:
        separator = "\t" if path.suffix.lower() == ".tsv" else None
        frame = io.read_csv(path, separator=separator)
        file = _from_columns(path, frame, id_column, class_columns, kind)
    _check_values(file, link)
    return file


def _read_npz(path: Path, class_names: Sequence[str]) -> PredictionsFile:
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise InputError(str(path), "no such file", expected="an npz file", todo="Check the path.") from None
    except Exception as error:  # zipfile and numpy raise many kinds for a damaged file
        raise InputError(
            str(path),
            f"an array that cannot be read ({error})",
            expected="an npz file of plain arrays",
            todo="Save ids and labels as text or numbers, not as Python objects: ids.astype(str).",
        ) from None
    kind = _array_kind(path, list(arrays))
    values = arrays[kind]
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.number):
        raise InputError(
            f"{path} {kind}",
            f"an array of shape {values.shape} and dtype {values.dtype}",
            expected="numbers of shape (N, K)",
            todo="Save one row an image, one column a class.",
        )
    names = tuple(str(n) for n in arrays["class_names"]) if "class_names" in arrays else tuple(class_names)
    columns = {}
    for column in ("image_ids", "labels", "groups"):
        if column in arrays:
            if arrays[column].shape != (len(values),):
                raise InputError(
                    f"{path} {column}",
                    f"shape {arrays[column].shape}",
                    expected=f"({len(values)},), one an image",
                    todo="Save it in the order of the predictions.",
                )
            columns[column] = pd.Series(arrays[column])
    ids, groups = columns.get("image_ids"), columns.get("groups")
    return PredictionsFile(
        path,
        values.astype(np.float64),
        kind,
        _checked_names(path, names, values.shape[1]),
        None if ids is None else ids.astype(str),
        columns.get("labels"),
        None if groups is None else groups.astype(str),
        _ignored(arrays, ("image_ids", "labels", "groups", "class_names", kind)),
    )


def _read_parquet(
    path: Path,
    class_names: Sequence[str],
    id_column: str | None,
    class_columns: Sequence[str],
    kind: Values,
) -> PredictionsFile:
    table, metadata = io.read_table(path)
    if not set(VALUES) & set(table.column_names):
        return _from_columns(path, table.to_pandas(), id_column, class_columns, kind)
    # our own files hold both: the probabilities as given, and logits that stand for them
    kind = "pred_probs" if "pred_probs" in table.column_names else "logits"
    names = tuple(metadata.get("class_names", ())) or tuple(class_names)
    values = list_values(table, kind, width=len(names) or None, where=str(path)).astype(np.float64)
    frame = table.drop_columns([c for c in VALUES if c in table.column_names]).to_pandas()
    taken, notes = _special_columns(path, list(frame.columns), id_column)
    return _joined(path, frame, taken, values, kind, names, notes)


def _from_columns(
    path: Path,
    frame: pd.DataFrame,
    id_column: str | None,
    class_columns: Sequence[str],
    kind: Values,
) -> PredictionsFile:
    """A table with one column a class."""
    taken, notes = _special_columns(path, list(frame.columns), id_column)
    rest = [c for c in frame.columns if c not in taken.values()]
    numbers = {c: pd.to_numeric(frame[c], errors="coerce") for c in rest}
    chosen = {c.rpartition("=")[2]: (c.partition("=")[0]) for c in class_columns}
    missing = [c for c in chosen if c not in numbers]
    if missing:
        raise InputError(
            f"{path} line 1",
            f"no column {missing[0]!r} ({len(missing)} of the class columns are missing)",
            expected=f"columns among {', '.join(rest[:40])}",
            todo="Correct --class-columns.",
        )
    if not chosen:
        # a column counts as numbers when most of its cells are: one bad cell is then found below
        chosen = {
            c: c for c in rest if len(frame) and (numbers[c].notna() | _says_nan(frame[c])).mean() > 0.5
        }
        left = [c for c in rest if c not in chosen]
        if left:
            notes.append(f"columns not used: {', '.join(left)}")
    if not chosen:
        commas = [c for c in rest if frame[c].astype(str).str.fullmatch(r"[+-]?\d+,\d+([eE][+-]?\d+)?").any()]
        raise InputError(
            str(path),
            f"{len(frame)} rows and no column of numbers"
            + (f" ({commas[0]}: {frame[commas[0]].iloc[0]!r})" if commas else ""),
            expected="one column of probabilities or logits a class",
            todo="Write decimal points, not commas." if commas else "Name them with --class-columns a,b,c.",
        )
    for column in chosen:
        wrong = np.flatnonzero(numbers[column].isna() & frame[column].notna() & ~_says_nan(frame[column]))
        if wrong.size:
            raise InputError(
                f"{path} line {wrong[0] + 2}",
                f"{column} {frame[column].iloc[wrong[0]]!r} ({wrong.size} such cells)",
                expected="a number",
                todo="Correct the cell, or leave the column out with --class-columns.",
            )
    values = np.column_stack([numbers[c].to_numpy(dtype=np.float64) for c in chosen])
    return _joined(path, frame, taken, values, kind, tuple(chosen.values()), notes)


def _joined(
    path: Path,
    frame: pd.DataFrame,
    taken: Mapping[str, str],
    values: npt.NDArray[np.float64],
    kind: Values,
    names: tuple[str, ...],
    notes: Sequence[str],
) -> PredictionsFile:
    """Numbers (N, K) and the id, label and group columns that `_special_columns` found in their table."""
    return PredictionsFile(
        path,
        values,
        kind,
        _checked_names(path, names, values.shape[1]),
        frame[taken["id"]].astype(str) if "id" in taken else None,
        frame[taken["label"]] if "label" in taken else None,
        frame[taken["group"]].astype(str) if "group" in taken else None,
        tuple(notes),
    )


def _says_nan(cells: pd.Series) -> pd.Series:
    return cells.astype(str).str.strip().str.lower() == "nan"


def _special_columns(
    path: Path, columns: Sequence[str], id_column: str | None
) -> tuple[dict[str, str], list[str]]:
    """Which column is the id, the label and the group; notes where the name was not the plain one."""
    if id_column is not None and id_column not in columns:
        raise InputError(
            f"{path} line 1",
            f"no column {id_column!r}",
            expected=f"one of {', '.join(columns[:40])}",
            todo="Correct --id-column.",
        )
    wanted = {
        "id": (id_column,) if id_column else ID_NAMES,
        "label": LABEL_NAMES,
        "group": GROUP_NAMES,
    }
    taken = {}
    for what, names in wanted.items():
        for name in names:
            if name in columns:
                taken[what] = name
                break
    notes = (
        [f"image ids are in the column {taken['id']}"] if taken.get("id", "image_id") != "image_id" else []
    )
    return taken, notes


def _array_kind(path: Path, names: Sequence[str]) -> Values:
    for kind in VALUES:
        if kind in names:
            return kind
    raise InputError(
        str(path),
        f"the arrays {', '.join(names) or '(none)'}",
        expected="an array logits or pred_probs of shape (N, K)",
        todo="Save it under one of these names: what a number means is not guessed.",
    )


def _checked_names(path: Path, names: tuple[str, ...], n_classes: int) -> tuple[str, ...] | None:
    if not names:
        return None
    twice = sorted({n for n in names if names.count(n) > 1})
    if len(names) != n_classes or twice:
        raise InputError(
            f"{path} class_names",
            f"{twice[0]!r} twice" if twice else f"{len(names)} names",
            expected=f"{n_classes} different names, one a column",
            todo="Write them in the order of the columns.",
        )
    return names


def _ignored(names: Any, used: Sequence[str]) -> tuple[str, ...]:
    left = sorted(set(names) - set(used))
    return (f"arrays not used: {', '.join(left)}",) if left else ()


def _check_values(file: PredictionsFile, link: Link) -> None:
    """Refuse NaN, probabilities outside 0..1 or that do not sum to 1, and probabilities called logits."""
    values = file.values
    if not len(values):
        raise InputError(str(file.path), "no rows", expected="predictions", todo="Check the export.")
    if values.shape[1] < 2:
        raise InputError(
            str(file.path), "one class", expected="at least two classes", todo="Add the column of the other."
        )
    ids = file.image_ids if file.image_ids is not None else np.arange(len(values))
    check_finite(values, ids, where=str(file.path), what=WORD[file.kind])
    in_range = ((values >= 0) & (values <= 1 + ROW_SUM_TOLERANCE)).all(axis=1)
    sums = values.sum(axis=1)
    sums_to_one = np.abs(sums - 1) <= ROW_SUM_TOLERANCE
    if file.kind == "logits":
        if (in_range & sums_to_one).all():
            raise InputError(
                str(file.path),
                "probabilities given as logits (each row lies in 0..1 and sums to 1)",
                expected="logits",
                todo="Save them as pred_probs, or pass --values pred_probs for columns.",
            )
        return
    columns = f", columns taken: {', '.join(file.class_names[:30])}" if file.class_names else ""
    for ok, found, todo in (
        (
            in_range,
            "a value outside 0..1",
            "Are these logits? Save them as logits, or pass --values logits; divide per cent by 100",
        ),
        (
            sums_to_one | (link == "sigmoid"),
            "a row that sums to {:.4f}",
            "Add the missing class, name the classes alone with --class-columns, or pass --link sigmoid for"
            f" independent scores{columns}",
        ),
        (sums > 0, "a row of zeros", "Predict these images again"),
    ):
        if not ok.all():
            row = int(np.flatnonzero(~ok)[0])
            raise InputError(
                f"{file.path} row {row + 1}",
                f"{found.format(sums[row])} ({int((~ok).sum())} such rows)",
                expected="probabilities in 0..1" + ("" if link == "sigmoid" else " that sum to 1 in a row"),
                todo=f"{todo}.",
            )
