"""Proposal: which mapping might fit these tables?

`propose` looks at names and cells and drafts a first `mapping.yaml`. Every column is used, or ignored with
a reason; the mapping it proposes coerces nothing either.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ddeval import io
from ddeval.data import guesses
from ddeval.data.conditions import Conditions
from ddeval.data.draft import Proposal, as_yaml
from ddeval.data.importers.layout import SUFFIXES
from ddeval.data.mapped import read_source
from ddeval.data.mapping import TableSpec
from ddeval.data.proposed_answers import propose_answers
from ddeval.data.proposed_columns import propose_columns, propose_label
from ddeval.errors import InputError

__all__ = ["Proposal", "as_yaml", "propose"]


def propose(
    paths: Sequence[Path],
    *,
    folder: Path,
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    conditions: Conditions | None = None,
) -> Proposal:
    """A mapping for one table, or for several that share a column of ids.

    Parameters
    ----------
    paths : list of Path
        CSV or Parquet; the first gives the rows.
    folder : Path
        Where the mapping will lie: the tables' paths in it are relative to it.
    images : Path, optional
        The folder below which photographs lie, and from which their paths are read; that of the first
        table where None.
    classes : list of str, optional
        The classes of a model; diagnoses of the same name belong to them.
    conditions : Conditions, optional
        What each diagnosis string means.

    Raises
    ------
    InputError
        A file that is no table, or tables without a common column of ids.
    """
    p = Proposal()
    rows = _tables(p, paths, folder)
    left = [str(name) for name in rows.columns if rows[name].notna().any()]
    if not left:
        raise InputError(str(paths[0]), "only empty cells", expected="a table", todo="Check the export.")
    empty = [str(name) for name in rows.columns if str(name) not in left]
    ignored = {name: "empty" for name in empty}
    joins = {table["join"] for table in p.mapping["tables"] if "join" in table}
    left = _copies(p, rows, left, ignored)
    roles = _roles(rows, left)
    _images(p, rows, roles, left, io.place(images or paths[0].parent))
    propose_columns(p, rows, roles)
    propose_label(p, rows, roles, classes, conditions)
    ignored |= dict.fromkeys(roles.get("label", [])[1:], "another column named for a diagnosis")
    for name in roles.get("other image", []):
        ignored[name] = "another column that names files"
        p.edits.append(f"image: {name!r} names files too; {roles['image'][0]!r} was taken")
    taken = {name for names in roles.values() for name in names} | joins
    propose_answers(p, rows, [name for name in left if name not in taken], ignored)
    for name in joins - {n for names in roles.values() for n in names}:
        p.notes.append(f"{name!r} only joins the tables")
    _patient(p, rows, roles, ignored)
    p.mapping["ignore"] = list(ignored)
    for reason in dict.fromkeys(ignored.values()):
        names = [name for name in ignored if ignored[name] == reason]
        p.notes.append(f"ignored, {reason}: {', '.join(names)}")
    return p


def _tables(p: Proposal, paths: Sequence[Path], folder: Path) -> pd.DataFrame:
    """The rows of all tables, joined, and their entries in the mapping."""
    entries: list[dict[str, str]] = []
    rows = pd.DataFrame()
    for path in paths:
        entry = {"path": path_from(folder, path)}
        try:
            table = read_source(TableSpec(**entry), folder)
        except InputError as error:
            if "that is not utf" not in str(error):
                raise
            entry["encoding"] = "cp1252"
            table = read_source(TableSpec(**entry), folder)
            p.edits.append(f"tables: {path.name} is not UTF-8 and was read as cp1252; is Müller spelt right?")
        if table.empty:
            raise InputError(str(path), "no rows", expected="a table with rows", todo="Check the export.")
        if entries:
            entry["join"] = _key(rows, table, path)
            right = table.rename(
                columns={
                    c: f"{path.stem}.{c}" for c in table.columns if c != entry["join"] and c in rows.columns
                }
            )
            rows = rows.merge(right, on=entry["join"], how="left")
            rows = rows.astype(object).where(rows.notna(), None)
            p.notes.append(f"{path.name} is joined by {entry['join']!r}")
        else:
            rows = table
        entries.append(entry)
    p.mapping["tables"] = entries
    return rows


def path_from(folder: Path, path: Path) -> str:
    """A path as a file in `folder` names it: relative, or the address of an object."""
    if io.in_bucket(io.place(path)):
        return io.shown(str(io.place(path)))
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _key(rows: pd.DataFrame, table: pd.DataFrame, path: Path) -> str:
    """The column both have, unique in the second, whose values meet most often."""
    shared = {}
    for name in map(str, table.columns):
        if name in rows.columns and not table[name].dropna().duplicated().any() and table[name].notna().any():
            shared[name] = float(rows[name].isin(table[name].dropna()).mean())
    best = max(shared, key=lambda name: shared[name], default="")
    if not best or shared[best] < 0.5:
        raise InputError(
            str(path),
            "no column that joins it to the first table",
            expected="a column of one name in both, unique here",
            todo="Name the joined column alike, or pass the table with one row a photograph first.",
        )
    return best


def _copies(p: Proposal, rows: pd.DataFrame, names: list[str], ignored: dict[str, str]) -> list[str]:
    """The columns without those that stand twice under one name."""
    left = []
    for name in names:
        original = name.rsplit(" (", 1)[0]
        is_copy = name.endswith(")") and original in names and original != name
        if not is_copy:
            left.append(name)
        elif rows[name].equals(rows[original]):
            ignored[name] = f"a copy of {original!r}"
        else:
            ignored[name] = f"a second column named {original!r}, with other content"
            p.edits.append(
                f"ignore: {original!r} stands twice with different content; the second is {name!r}"
            )
    return left


def _roles(rows: pd.DataFrame, names: Iterable[str]) -> dict[str, list[str]]:
    """Column of the manifest -> columns of the table, by name; images also by their content."""
    roles: dict[str, list[str]] = {}
    numbered: list[str] = []
    for name in names:
        if _names_files(rows[name]):
            numbered.append(name)
        else:
            target = guesses.role(name)
            if target == "image":  # called a file, but holds ids
                target = "image_id"
            if target is not None:
                roles.setdefault(target, []).append(name)
    if numbered:
        series = Counter(re.sub(r"\d+", "#", guesses.snake(name)) for name in numbered)
        named = [re.sub(r"\d+", "#", guesses.snake(name)) for name in numbered]
        best = max(
            range(len(numbered)), key=lambda i: (series[named[i]], guesses.role(numbered[i]) == "image", -i)
        )
        roles["image"] = [name for name, kind in zip(numbered, named, strict=True) if kind == named[best]]
        roles["other image"] = [name for name in numbered if name not in roles["image"]]
    for target, found in roles.items():
        if target in guesses.NAMES and target != "image":
            found.sort(key=lambda name: guesses.rank(target, name) if guesses.role(name) == target else 99)
            if (
                target != "label"
            ):  # a second diagnosis is no answer of the patient: `propose_label` ignores it
                del found[1:]
    return roles


def _patient(p: Proposal, rows: pd.DataFrame, roles: dict[str, list[str]], ignored: dict[str, str]) -> None:
    """Says what counts as independent where no column is named for the patient, and which column might be."""
    if "patient_id" in roles:
        return
    unit = next((u for u in ("lesion", "case") if f"{u}_id" in roles), "photograph")
    held = {n: rows[n].dropna() for n, reason in ignored.items() if reason == "free text or ids"}
    ids = [n for n, cells in held.items() if cells.str.fullmatch(r"\D{0,4}\d+").all()]
    if ids:
        p.edits.append(
            f"columns.patient_id: no column is named for the patient; is it {ids[0]!r}? Without one every"
            f" {unit} counts as independent"
        )
    else:
        p.notes.append(f"no column is named for the patient: every {unit} counts as independent")


def _names_files(cells: pd.Series) -> bool:
    words = cells.dropna()
    return bool(len(words)) and bool(words.str.lower().str.endswith(SUFFIXES).mean() > 0.9)


def _images(
    p: Proposal, rows: pd.DataFrame, roles: dict[str, list[str]], names: Sequence[str], root: Path
) -> None:
    """Where photographs and their ids stand."""
    ids = roles.get("image_id", [])
    if "image" in roles:
        spec: dict[str, Any] = {"columns": roles["image"]}
        several = [
            s for s in (";", "|", ",") if len(roles["image"]) == 1 and _holds(rows[roles["image"][0]], s)
        ]
        if several:
            spec["separator"] = several[0]
            p.notes.append(f"{roles['image'][0]!r} names several photographs a cell, between {several[0]!r}")
        else:
            first = rows[roles["image"][0]].dropna().iloc[0]
            pattern = _pattern(rows[roles["image"][0]], root, ("",))
            if pattern is None and not io.in_bucket(root) and "://" not in first:
                p.notes.append(f"photographs: {first} is not below {root}; --images FOLDER, or `pattern:`")
            elif pattern not in (None, "{}"):
                spec["pattern"] = pattern
                p.notes.append(f"photographs were found as {pattern}")
        if ids:
            spec["id"] = ids[0]
        if (len(roles["image"]) > 1 or several) and not ids and "case_id" not in roles:
            p.edits.append(
                "columns: several photographs a row need ids: name the column of the case as case_id"
            )
        p.mapping["image"] = spec
    elif ids:
        pattern = _pattern(rows[ids[0]], root, SUFFIXES)
        if pattern:
            p.mapping["image"] = {"columns": [ids[0]], "pattern": pattern, "id": ids[0]}
            p.notes.append(f"photographs were found as {pattern}")
        else:
            p.mapping["image_id"] = ids[0]
            p.edits.append(
                f"image_id: no column names an image file; where {ids[0]!r} is the file's name, replace the"
                f" line by  image: {{columns: [{ids[0]}], pattern: '{{}}.jpg', id: {ids[0]}}}"
            )
    if ids and rows[ids[0]].duplicated().any():
        n, n_rows = rows[ids[0]].nunique(), len(rows)
        p.edits.append(f"image_id: {ids[0]!r} has {n} values in {n_rows} rows; a manifest has each once")
    if "image" not in roles and not ids:
        unique = [n for n in names if rows[n].notna().all() and rows[n].is_unique]
        chosen = unique[0] if unique else names[0]
        p.mapping["image_id"] = chosen
        roles["image_id"] = [chosen]
        p.edits.append(f"image_id: no column looks like images or their ids; {chosen!r} was taken")


def _holds(cells: pd.Series, separator: str) -> bool:
    parts = [part.strip().lower() for cell in cells.dropna() for part in cell.split(separator)]
    is_several = cells.dropna().str.contains(separator, regex=False).any()
    return bool(is_several) and all(part.endswith(SUFFIXES) for part in parts if part)


def _pattern(names: pd.Series, root: Path, suffixes: Sequence[str]) -> str | None:
    """Where the first of these lie as files, at most two folders below the root of the photographs."""
    first = names.dropna().iloc[:3].tolist()
    for depth in ("", "*/", "*/*/"):
        for place in sorted(root.glob(depth)) if depth else [root]:
            for suffix in suffixes:
                if first and all((place / f"{name}{suffix}").is_file() for name in first):
                    below = place.relative_to(root).as_posix()
                    return f"{'' if below == '.' else below + '/'}{{}}{suffix}"
    return None
