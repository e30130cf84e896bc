"""Mapped: what does a mapping make of the tables?

A word that the mapping does not cover is counted in `Mapped.not_understood`, and `mapped_manifest`
refuses it; nothing is coerced. What may stand in a mapping is `ddeval.data.mapping`.
"""

import difflib
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Map
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ddeval import io, tables
from ddeval.data.cells import answer_cells, column_cells, label_cells
from ddeval.data.manifest import as_text
from ddeval.data.mapping import AnswerSpec, ImageSpec, Mapping, TableSpec, Words
from ddeval.errors import InputError


@dataclass(frozen=True)
class Mapped:
    """What a mapping makes of the tables."""

    frame: pd.DataFrame
    """The manifest, one row an image."""
    fields: pd.DataFrame
    """One row a column or question: `target`, `source`, `kind`, `n_known`, `n_unknown`, `n_not_understood`.

    Counts are of rows of the first table.
    """
    not_understood: pd.DataFrame
    """Words that the mapping does not cover: `target`, `found`, `n`, `expected`."""
    without_class: pd.DataFrame
    """Diagnoses without a class: `raw_label`, `n`, most frequent first."""
    unused: tuple[str, ...]
    """Columns that the mapping neither uses nor ignores."""
    n_rows: int
    """Rows of the first table."""
    n_unjoined: int
    """Of them, those without a row in some other table: what it would tell is unknown."""

    @property
    def has_findings(self) -> bool:
        return bool(len(self.not_understood) or len(self.without_class) or self.unused or self.n_unjoined)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the manifest itself."""
        frames = {name: getattr(self, name) for name in ("fields", "not_understood", "without_class")}
        return {
            "n_rows": self.n_rows,
            "n_images": len(self.frame),
            "n_unjoined": self.n_unjoined,
            **{name: frame.to_dict("records") for name, frame in frames.items()},
            "unused": list(self.unused),
        }


def mapped_manifest(mapping: Mapping, folder: Path, *, splits: Map[str, str] | None = None) -> pd.DataFrame:
    """The manifest that `apply_mapping` makes; an InputError where something was not understood."""
    mapped = apply_mapping(mapping, folder, splits=splits)
    refused = mapped.not_understood
    if not refused.empty:
        by_target = []
        for target, part in refused.groupby("target", sort=False):
            words = [f"{word!r} ×{n}" for word, n in zip(part["found"][:3], part["n"][:3], strict=True)]
            by_target.append(f"{target} ({', '.join(words)}{' …' if len(part) > 3 else ''})")
        raise InputError(
            "mapping",
            f"{int(refused['n'].sum())} cells not understood: {'; '.join(by_target)}",
            expected="every word in `values:` or `unknown:`, every number in its units and range",
            todo="Edit the mapping; `ddeval data check` lists all, each with what would be understood.",
        )
    return mapped.frame


def apply_mapping(mapping: Mapping, folder: Path, *, splits: Map[str, str] | None = None) -> Mapped:
    """Read the tables below `folder` and map them.

    Parameters
    ----------
    splits : mapping, optional
        The team's words for the splits -> ours (`ddeval.yaml`), where `columns.split` gives no `values`.

    Raises
    ------
    InputError
        A table or column that is not there, a join whose key is not unique, ids that are not unique.
    """
    rows, used, n_unjoined = _joined(mapping, folder)
    cells: dict[str, pd.Series] = {}
    found: list[tuple[str, str, str, int, int, int]] = []
    refused: list[tuple[str, str, int, str]] = []

    for name, column in mapping.columns.items():
        values = splits if column.values is None and name == "split" and splits else column.values
        text, strange = column_cells(rows, column, values, _unknown_words(mapping, name))
        cells[name] = text
        expected = "a number in one of its units" if column.number else "a word of `values`"
        refused += [(name, word, n, expected) for word, n in strange.items()]
        found.append((name, column.column or repr(column.value), "column", *_counted(text, strange)))
    without_class = pd.DataFrame(columns=["raw_label", "n"])
    if mapping.label:
        label, strange = label_cells(rows, mapping.label, mapping.unknown)
        cells |= label
        refused += [("label", word, n, mapping.label.form) for word, n in strange.items()]
        found.append(
            ("label", mapping.label.column, mapping.label.form, *_counted(label["raw_label"], strange))
        )
        lost = label["raw_label"][label["label"].isna()].dropna()
        counts = lost.value_counts()
        without_class = pd.DataFrame({"raw_label": counts.index, "n": counts.to_numpy()})
    for name, answer in mapping.answers.items():
        text, strange = answer_cells(rows, name, answer, mapping.unknown)
        cells[tables.ANSWER_PREFIX + name] = text
        refused += [(name, word, n, _expected(answer)) for word, n in strange.items()]
        source = answer.column or ", ".join(answer.one_hot)
        found.append((name, source, answer.kind, *_counted(text, strange)))

    frame = _images(mapping, rows, pd.DataFrame(cells, index=rows.index))
    return Mapped(
        frame=frame,
        fields=pd.DataFrame(
            found, columns=["target", "source", "kind", "n_known", "n_unknown", "n_not_understood"]
        ),
        not_understood=pd.DataFrame(refused, columns=["target", "found", "n", "expected"]),
        without_class=without_class,
        unused=tuple(str(c) for c in rows.columns if c not in used and c not in mapping.ignore),
        n_rows=len(rows),
        n_unjoined=n_unjoined,
    )


def _expected(answer: AnswerSpec) -> str:
    """What an answer would have to be, in a few words."""
    if answer.kind != "number":
        return "a box ticked or not" if answer.one_hot else "a word of `answers` or `values`"
    units = ", ".join(answer.units or (answer.unit,))
    bare = " or none" if answer.bare_numbers else ", written"
    return f"{answer.low:g} to {answer.high:g} {answer.unit}; unit {units}{bare}"


def _joined(mapping: Mapping, folder: Path) -> tuple[pd.DataFrame, set[str], int]:
    """The rows of the first table with the columns of the others, the columns used, the rows not joined."""
    rows = read_source(mapping.tables[0], folder)
    lost = pd.Series(False, index=rows.index)
    for table in mapping.tables[1:]:
        right, key = read_source(table, folder), str(table.join)
        for side, path in ((rows, mapping.tables[0].path), (right, table.path)):
            _require(side, [key], path)
        twice = right[key].duplicated(keep=False) & right[key].notna()
        if twice.any():
            raise InputError(
                table.path,
                f"{key} {right.loc[twice, key].iloc[0]!r} {int(twice.sum())} times or others so",
                expected="each value once, since rows are joined by it",
                todo="Let this table be the first, or join by another column.",
            )
        stem = Path(table.path).stem
        right = right[right[key].notna()]
        right = right.rename(
            columns={c: f"{stem}.{c}" for c in right.columns if c != key and c in rows.columns}
        )
        lost |= ~rows[key].isin(right[key])
        rows = rows.merge(right, on=key, how="left", validate="many_to_one")
        rows = rows.astype(object).where(rows.notna(), None)
    used = _named_columns(mapping)
    _require(rows, sorted(used), " + ".join(table.path for table in mapping.tables))
    return rows, used, int(lost.sum())


def read_source(table: TableSpec, folder: Path) -> pd.DataFrame:
    """One table of the mapping as text; a column that stands twice gets a number."""
    path = io.local(folder / io.place(table.path))
    if path.suffix == ".parquet":
        return as_text(io.read_parquet(path)[0], where=str(path))
    return io.read_csv(path, separator=table.separator, encoding=table.encoding, number_copies=True)


def _named_columns(mapping: Mapping) -> set[str]:
    """Every column of the tables that the mapping reads."""
    named = {table.join for table in mapping.tables} | {mapping.image_id}
    named |= {column.column for column in mapping.columns.values()}
    named |= {mapping.label.column} if mapping.label else set()
    named |= {*mapping.image.columns, mapping.image.id} if mapping.image else set()
    for answer in mapping.answers.values():
        named |= {answer.column, answer.unit_column, *answer.one_hot}
    return {name for name in named if name is not None}


def _require(frame: pd.DataFrame, names: Sequence[str], where: str) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        near = difflib.get_close_matches(missing[0], [str(c) for c in frame.columns], n=1)
        raise InputError(
            where,
            f"no column {missing[0]!r} ({len(missing)} such)",
            expected=f"{near[0]!r}" if near else "a column of the table",
            todo="Correct the mapping.",
        )


def _images(mapping: Mapping, rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """One row a photograph: its id and path, and the cells of the row that names it."""
    at: list[int] = []
    ids: list[str | None] = []
    paths: list[str | None] = []
    for index, number, file, image_id in _photographs(mapping, rows, cells):
        at.append(index)
        ids.append(image_id if image_id is None or number is None else f"{image_id}-{number}")
        paths.append(mapping.image.pattern.format(file) if mapping.image and file is not None else None)
    frame = cells.iloc[at].reset_index(drop=True)
    frame.insert(0, "image_id", pd.Series(ids, dtype=object))
    frame.insert(1, "image", pd.Series(paths, dtype=object))
    frame = frame.astype(object).where(frame.notna(), None).dropna(axis=1, how="all")
    known = [name for name in tables.MANIFEST.names if name in frame.columns]
    return frame[[*known, *(name for name in frame.columns if name not in known)]]


def _photographs(
    mapping: Mapping, rows: pd.DataFrame, cells: pd.DataFrame
) -> Iterator[tuple[int, int | None, str | None, str | None]]:
    """Row, number (where a row may have several), file and id without the number, of each photograph.

    The id is that of the mapping's id column, else the case where a row may have several photographs,
    else the file's name without folder and ending where that is unique, else the path. A row that names
    no file stays, without one.
    """
    spec = mapping.image
    if spec is None:
        for i, image_id in enumerate(rows[mapping.image_id]):
            yield i, None, None, image_id
        return
    files = [_files(row, spec) or [None] for row in rows[list(spec.columns)].itertuples(index=False)]
    is_wide = max(map(len, files)) > 1 or len(spec.columns) > 1
    named = {file for row in files for file in row if file is not None}
    has_stems = len({Path(name).stem for name in named}) == len(named)
    own = rows[spec.id] if spec.id else cells.get("case_id") if is_wide else None
    for i, row in enumerate(files):
        for number, file in enumerate(row, start=1):
            if own is not None:
                yield i, number if is_wide else None, file, own.iloc[i]
            else:
                yield i, None, file, Path(file).stem if file and has_stems else file


def _files(cells: Sequence[str | None], spec: ImageSpec) -> list[str | None]:
    held = [cell for cell in cells if cell is not None]
    if spec.separator is None:
        return list(held)
    return [part.strip() for cell in held for part in cell.split(spec.separator) if part.strip()]


def _unknown_words(mapping: Mapping, name: str) -> Words:
    """An id is never unknown by a word: NA is somebody."""
    return () if name.endswith("_id") else mapping.unknown


def _counted(text: pd.Series, strange: Map[str, int]) -> tuple[int, int, int]:
    n_strange = sum(strange.values())
    n_known = int(text.notna().sum())
    return n_known, len(text) - n_known - n_strange, n_strange
