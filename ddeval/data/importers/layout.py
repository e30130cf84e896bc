"""What the importers share: finding the published files, and one door out.

An importer never guesses: a file is looked for under its published names only, and a value that is not
in the importer's table is an InputError.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ddeval import tables
from ddeval.data.manifest import manifest_problems, with_group
from ddeval.errors import InputError
from ddeval.io import read_csv

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
SKIN_TYPE_OF_NUMBER = {str(n): name for n, name in enumerate(tables.SKIN_TYPES, start=1)}


def read_published(folder: Path, *names: str) -> pd.DataFrame:
    """The table under the first of its published names; an InputError where there is none."""
    path = find(folder, *names)
    if path is None:
        raise InputError(
            str(folder),
            "no " + " or ".join(names),
            expected="the published files of the data set",
            todo="Pass the folder that holds them.",
        )
    return read_csv(path)


def find(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def image_of(folder: Path, names: pd.Series) -> pd.Series:
    """Path below `folder` of the image file of each name (with or without suffix); None where none lies.

    Every folder below is searched, since data sets come in parts.
    """
    files = {path.name: path for path in image_files_below(folder)}
    by_stem = {path.stem: path for path in files.values()}
    found = [files.get(name) or by_stem.get(name) for name in names]
    paths = [path.relative_to(folder).as_posix() if path else None for path in found]
    return pd.Series(paths, index=names.index, dtype=object)


def image_files_below(folder: Path) -> list[Path]:
    """Every file below `folder` whose suffix is an image's, ordered by path; hidden ones left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def mapped(cells: pd.Series, values: Mapping[str, str | None], *, where: str) -> pd.Series:
    """Each cell by the table `values`; empty stays empty, a cell that is not in the table is refused."""
    strangers = cells.dropna()[~cells.dropna().isin(list(values))]
    if len(strangers):
        raise InputError(
            where,
            f"{cells.name} {strangers.iloc[0]!r} ({len(strangers)} rows)",
            expected=f"one of {', '.join(values)}",
            todo="Is this another release? Import it by a mapping (`ddeval init`).",
        )
    return cells.map(values).astype(object).where(cells.notna(), None)


def without(cells: pd.Series, *unknown: str) -> pd.Series:
    """Each cell, None where it is a word for unknown."""
    return cells.where(cells.notna() & ~cells.isin(unknown), None)


def manifest(columns: Mapping[str, pd.Series | str] | pd.DataFrame, *, where: str) -> pd.DataFrame:
    """The manifest of these columns, checked as any other; columns without a single value are left out."""
    frame = pd.DataFrame(columns).astype(object)
    frame = frame.where(frame.notna(), None).dropna(axis=1, how="all")
    known = [name for name in tables.MANIFEST.names if name in frame.columns]
    frame = frame[[*known, *(name for name in frame.columns if name not in known)]]
    tables.refuse(manifest_problems(frame), where=where, todo="The published file may be damaged.")
    return with_group(frame)
