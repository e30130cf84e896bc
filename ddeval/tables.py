"""What crosses a stage: the columns of every table, and the one check at every door.

A stage reads a table, checks it here and then trusts it. This module does not read files and does
not know what the numbers mean.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ddeval.errors import InputError

Kind = Literal["str", "int", "float", "bool", "list"]

SPLITS = ("train", "val", "calibration", "test")
LABEL_BASES = ("histology", "follow_up", "consensus", "single", "unknown")
SKIN_TYPES = ("I", "II", "III", "IV", "V", "VI")
SKIN_TYPE_RANGES = tuple(f"{low}-{high}" for low, high in itertools.combinations(SKIN_TYPES, 2))
RANKED = "ranked"
"""Stratum of the queue's ranked cases: vetted for certain, they stand for themselves alone."""
LOCKED = "locked"
"""Stratum of cases nobody reads: no photograph outranks histology, so their verdict is known."""
ANSWER_PREFIX = "q."
"""Manifest columns that start with this are answers of the questionnaire."""


@dataclass(frozen=True)
class Column:
    """One column: its name, kind and what may stand in it."""

    name: str
    kind: Kind = "str"
    is_required: bool = True
    """The column must be there."""
    is_nullable: bool = False
    """A cell may be empty (None or NaN)."""
    is_unique: bool = False
    allowed: tuple[str, ...] = ()
    """Values a text cell may hold; () is any."""
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class Table:
    """A named list of columns. Columns the table does not name pass through untouched."""

    name: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def _optional(name: str, kind: Kind = "str", **limits: object) -> Column:
    return Column(name, kind, is_required=False, is_nullable=True, **limits)  # type: ignore[arg-type]


MANIFEST = Table(
    "manifest",
    (
        Column("image_id", is_unique=True),
        _optional("image"),
        _optional("label"),
        _optional("raw_label"),
        _optional("label_basis", allowed=LABEL_BASES),
        _optional("split", allowed=SPLITS),
        _optional("case_id"),
        _optional("patient_id"),
        _optional("lesion_id"),
        _optional("skin_type"),
        _optional("skin_type_source", allowed=("self", "dermatologist", "ita")),
        _optional("sex"),
        _optional("age", "float", low=0, high=120),
        _optional("body_site"),
        _optional("source"),
    ),
)

PREDICTIONS = Table(
    "predictions",
    (
        Column("image_id", is_unique=True),
        Column("case_id"),
        Column("group"),
        Column("split", is_nullable=True),
        Column("logits", "list"),
    ),
)

METRICS = Table(
    "metrics",
    (
        Column("run"),
        Column("metric"),
        Column("subset"),
        Column("class_name", is_nullable=True),
        Column("value", "float", is_nullable=True),
        Column("ci_low", "float", is_nullable=True),
        Column("ci_high", "float", is_nullable=True),
        Column("n_images", "int"),
        Column("n_groups", "int"),
        Column("n_undefined", "int"),
    ),
)

ISSUES = Table(
    "issues",
    (
        Column("image_id", is_unique=True),
        Column("rank", "int", low=1),
        Column("label_quality", "float", is_nullable=True, low=0, high=1),
        Column("given_label"),
        Column("predicted_label"),
        Column("reason"),
    ),
)

QUEUE = Table(
    "queue",
    (
        Column("case_id"),
        Column("kind", allowed=("ranked", "random", "repeat")),
        Column("stratum"),
        Column("inclusion_probability", "float", low=0, high=1),
    ),
)

READINGS = Table(
    "readings",
    (
        Column("seq", "int", is_unique=True),
        Column("id", is_unique=True),
        Column("ts_utc"),
        Column("actor"),
        Column("role"),
        Column("batch"),
        Column("case_id"),
        Column("reading_no", "int"),
        Column("revision", "int"),
        Column("kind"),
        Column("old", is_nullable=True),
        Column("new", is_nullable=True),
        Column("reason", is_nullable=True),
        Column("blind_level"),
        Column("shown_at", is_nullable=True),
        Column("nonce", is_unique=True),
        Column("app_version"),
        Column("prev_hash"),
        Column("hash"),
    ),
)

LABELS = Table(
    "labels",
    (
        Column("image_id", is_unique=True),
        Column("image_sha256", is_nullable=True),
        Column("case_id"),
        Column("split", allowed=SPLITS),
        Column("given_label", is_nullable=True),
        Column("outcome"),
        Column("labels", "list"),
        Column("confidence", "float", is_nullable=True),
        Column("rule"),
        Column("readers", "list"),
        Column("basis"),
        Column("overlay_version"),
        _optional("first_answers", "list"),
    ),
)


def problems(frame: pd.DataFrame, table: Table) -> pd.DataFrame:
    """Every cell of `frame` that breaks `table`, one row each; empty when all is well.

    Columns: `row` (position, from 0; -1 for a missing column), `column`, `found`, `expected`.
    """
    found: list[pd.DataFrame] = []
    for column in table.columns:
        if column.name not in frame.columns:
            if column.is_required:
                found.append(_rows([-1], column.name, ["no such column"], f"a column {column.name}"))
            continue
        found.extend(_column_problems(frame[column.name].reset_index(drop=True), column))
    columns = ["row", "column", "found", "expected"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def check(frame: pd.DataFrame, table: Table, *, where: str, first_line: int = 2) -> pd.DataFrame:
    """`frame` itself when it fits `table`; else an InputError that names the first row and counts all.

    Parameters
    ----------
    where : str
        File the frame came from.
    first_line : int
        Line of that file on which row 0 stands (2 below a header).
    """
    refuse(problems(frame, table), where=where, place=lambda row: f"line {row + first_line}")
    return frame


def refuse(
    bad: pd.DataFrame,
    *,
    where: str,
    place: Callable[[int], str] = "row {}".format,
    todo: str = "Correct the table.",
) -> None:
    """Raise an InputError for the first of `problems` that counts them all; nothing when there are none.

    `place` says where in the file a row (from 0) stands, such as "line 12".
    """
    if bad.empty:
        return
    first = bad.iloc[0]
    row = int(first["row"])
    found = f"{first['column']} {first['found']}"
    if len(bad) > 1:
        counts = bad["column"].value_counts()
        found += f" ({len(bad)} such cells: {', '.join(f'{n} in {c}' for c, n in counts.items())})"
    at = f"{where} {place(row)}" if row >= 0 else where
    raise InputError(at, found, expected=str(first["expected"]), todo=todo)


def group_of(frame: pd.DataFrame) -> pd.Series:
    """The unit of independence of each row: patient, else lesion, else case, else the image itself.

    Each kind of id keeps a prefix, so that lesion 7 and patient 7 never become one group.
    """
    group = pd.Series(None, index=frame.index, dtype=object)
    for column in ("patient_id", "lesion_id", "case_id", "image_id"):
        if column in frame.columns:
            ids = frame[column]
            fill = group.isna() & ids.notna()
            group[fill] = column.removesuffix("_id") + ":" + ids[fill].astype(str)
    return group.astype(str).rename("group")


def _column_problems(cells: pd.Series, column: Column) -> Iterable[pd.DataFrame]:
    empty = cells.isna()
    if not column.is_nullable and empty.any():
        yield _rows(np.flatnonzero(empty), column.name, ["empty"] * int(empty.sum()), "a value")
    held = cells[~empty]
    if column.kind in ("int", "float"):
        numbers = pd.to_numeric(held, errors="coerce")
        limits = f"a number from {column.low:g} to {column.high:g}" if np.isfinite(column.low) else "a number"
        whole = (numbers % 1 == 0) if column.kind == "int" else True
        wrong = ~(numbers.between(column.low, column.high) & whole)
        yield from _wrong(held, wrong, column.name, limits)
    elif column.allowed:
        expected = f"one of {', '.join(column.allowed)}" + (" or empty" if column.is_nullable else "")
        yield from _wrong(held, ~held.isin(column.allowed), column.name, expected)
    elif column.kind == "str":
        yield from _wrong(held, ~held.map(lambda v: isinstance(v, str)).astype(bool), column.name, "text")
    if column.is_unique:
        yield from _wrong(held, held.duplicated(keep="first"), column.name, "each value once")


def _wrong(held: pd.Series, wrong: pd.Series, name: str, expected: str) -> Iterable[pd.DataFrame]:
    if wrong.any():
        cells = held[wrong]
        yield _rows(cells.index, name, [repr(v) for v in cells], expected)


def _rows(rows: Iterable[int], column: str, found: list[str], expected: str) -> pd.DataFrame:
    return pd.DataFrame({"row": list(rows), "column": column, "found": found, "expected": expected})
