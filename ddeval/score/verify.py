"""Verification: are the numbers a run stores the ones its predictions and labels give?

Everything is computed again from `predictions.parquet`, the manifest and the overlay, with the stored
seed, and compared cell by cell with what stands in the folder.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from numbers import Number
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ddeval import io
from ddeval.data.checks import data_checks
from ddeval.errors import InputError
from ddeval.score import folder
from ddeval.score.evaluate import N_GALLERY
from ddeval.score.numbers import Numbers, numbers

RELATIVE_TOLERANCE = 1e-9
"""Sums in another order on another machine; a changed digit of what is printed is far above it."""


class Difference(NamedTuple):
    """One cell that is not what it should be."""

    file: str
    cell: str
    stored: Any
    computed: Any

    def __str__(self) -> str:
        return f"{self.file}: {self.cell} is {self.stored}, computed {self.computed}"


class Verification(NamedTuple):
    """What verifying a run found."""

    labels: tuple[str, ...]
    """Versions of the labels whose numbers were computed again."""
    n_cells: int
    differences: tuple[Difference, ...]


def verify(run: Path, *, manifest: Path | None = None) -> Verification:
    """Compute every stored number of a run again and list those that differ.

    Raises
    ------
    InputError
        If the folder holds no numbers, or an input of theirs has changed or is gone.
    """
    facts = folder.read_run(run)
    stored = sorted(path for path in run.glob("labels-*") if (path / "metrics.json").is_file())
    if not stored:
        raise InputError(
            str(run), "no numbers", expected="labels-v0/ or another", todo=f"Make them: ddeval score {run}."
        )
    versions, n_cells, found = [], 0, list[Difference]()
    for target in stored:
        version = target.name.removeprefix("labels-")
        labels = "v0" if version == "v0" else facts.get("overlays", {}).get(version)
        if labels is None:
            raise InputError(
                str(target), f"numbers under labels {version}, under which this run was not scored",
                expected="a folder that ddeval score made", todo="Move a copy out of the run.",
            )  # fmt: skip
        result = io.read_json(target / "metrics.json")
        made_from = result["made_from"]
        now = numbers(
            run, labels, manifest=manifest, seed=made_from["seed"],
            n_resamples=made_from["n_resamples"], calibrators=made_from["calibrators"],
            conditions=_conditions(run, facts), prevalence=made_from.get("prevalence"),
            abstain=Path(facts["abstain"]) if "abstain_sha256" in made_from else None,
        )  # fmt: skip
        n, differences = numbers_differences(target, now)
        n_cells, found = n_cells + n, found + differences
        versions.append(version)
    return Verification(tuple(versions), n_cells, tuple(found))


def numbers_differences(target: Path, now: Numbers) -> tuple[int, list[Difference]]:
    """Cells compared, and those of `labels-<version>/` that differ from numbers made again."""
    tables = {"metrics": now.metrics} | {f"curves/{name}": curve for name, curve in now.curves.items()}
    if len(now.errors):
        tables["curves/gallery"] = now.errors.head(N_GALLERY)
    stale = [
        path.stem for path in (target / "curves").glob("*.parquet") if f"curves/{path.stem}" not in tables
    ]
    found = [Difference(f"{target.name}/curves", name, "there", "no such table") for name in sorted(stale)]
    for name, frame in tables.items():
        found += frame_differences(target, f"{name}.parquet", frame, ignored=("thumbnail",))
    checks = data_checks(now.manifest, class_names=folder.read_run(target.parent)["class_names"])
    values = {"metrics.json": now.result, "checks.json": [asdict(check) for check in checks]}
    n_cells = sum(frame.size for frame in tables.values())
    for name, value in values.items():
        computed = json.loads(io.to_json(value))
        stored = io.read_json(target / name) if (target / name).is_file() else {}
        n_cells += sum(1 for _ in leaves(computed))
        found += value_differences(f"{target.name}/{name}", stored, computed)
    return n_cells, found


def _conditions(run: Path, facts: Mapping[str, Any]) -> Path | None:
    """The conditions.yaml of the run, where it still lies; its hash is one of the numbers compared."""
    path = Path(str(facts.get("conditions", "")))
    return path if path.is_file() else None


def frame_differences(
    target: Path, name: str, computed: pd.DataFrame, *, ignored: Sequence[str] = ()
) -> Iterator[Difference]:
    """Cells of the table `name` in folder `target` that are not those computed; `ignored` columns are not."""
    file = f"{target.name}/{name}"
    if not (target / name).is_file():
        yield Difference(file, "the file", "missing", f"{len(computed)} rows")
        return
    stored, _ = io.read_parquet(target / name)
    yield from cell_differences(file, stored.drop(columns=list(ignored), errors="ignore"), computed)


def cell_differences(file: str, stored: pd.DataFrame, computed: pd.DataFrame) -> Iterator[Difference]:
    """Cells of a stored table that are not those computed."""
    if list(stored.columns) != list(computed.columns) or len(stored) != len(computed):
        yield Difference(file, "shape", stored.shape, computed.shape)
        return
    for column in computed.columns:
        for row, (a, b) in enumerate(zip(stored[column], computed[column], strict=True)):
            if not _same(a, b):
                yield Difference(file, f"{column} of {_row_name(computed, row)}", a, b)


def _row_name(frame: pd.DataFrame, row: int) -> str:
    """A row by its run, question, metric, subset and class where it has them; else by its number."""
    several = ["run"] if "run" in frame.columns and len(set(frame["run"])) > 1 else []
    known = ("field", "how", "metric", "subset", "class_name", "attribute", "group")
    names = [c for c in (*several, *known) if c in frame.columns]
    cells = [str(frame[c].iloc[row]) for c in names if not pd.isna(frame[c].iloc[row])]
    return " ".join(cells) if "metric" in names else f"row {row + 1}"


def value_differences(file: str, stored: Any, computed: Any) -> Iterator[Difference]:
    """Leaves of nested JSON that are not those computed."""
    before, after = dict(leaves(stored)), dict(leaves(computed))
    for path in [*after, *(p for p in before if p not in after)]:
        if path not in before or path not in after or not _same(before[path], after[path]):
            yield Difference(file, path, before.get(path, "missing"), after.get(path, "missing"))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text of nested JSON with its path: `metrics.ece.value`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{i}]")
    else:
        yield path, value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Number) and isinstance(b, Number):
        return bool(np.isclose(float(a), float(b), rtol=RELATIVE_TOLERANCE, atol=1e-12, equal_nan=True))  # type: ignore[arg-type]
    if isinstance(a, list | tuple | np.ndarray):
        return list(a) == list(b)
    return bool(pd.isna(a) and pd.isna(b)) or bool(not pd.isna(a) and not pd.isna(b) and a == b)
