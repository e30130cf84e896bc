"""Verification: are the numbers a run stores the ones its predictions and labels give?

Everything is computed again from `predictions.parquet`, the manifest and the overlay, with the stored
seed, and compared cell by cell with what stands in the folder.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ddeval import io
from ddeval.errors import InputError
from ddeval.score import folder
from ddeval.score.numbers import numbers

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
    versions, n_cells, found = [], 0, []
    for target in stored:
        version = target.name.removeprefix("labels-")
        result = io.read_json(target / "metrics.json")
        made_from = result["made_from"]
        labels = "v0" if version == "v0" else facts["overlays"][version]
        now = numbers(
            run, labels, manifest=manifest, seed=made_from["seed"],
            n_resamples=made_from["n_resamples"], calibrators=made_from["calibrators"],
            conditions=_conditions(run, facts), prevalence=made_from.get("prevalence"),
        )  # fmt: skip
        tables = {"metrics.parquet": now.metrics}
        tables |= {f"curves/{name}.parquet": curve for name, curve in now.curves.items()}
        for name, frame in tables.items():
            n_cells += frame.size
            found += list(_frame_differences(target, name, frame))
        computed = json.loads(io.to_json(now.result))
        n_cells += sum(1 for _ in _leaves(computed))
        found += list(_json_differences(target, result, computed))
        versions.append(version)
    return Verification(tuple(versions), n_cells, tuple(found))


def _conditions(run: Path, facts: Mapping[str, Any]) -> Path | None:
    """The conditions.yaml of the run, where it still lies; its hash is one of the numbers compared."""
    path = Path(str(facts.get("conditions", "")))
    return path if path.is_file() else None


def _frame_differences(target: Path, name: str, computed: pd.DataFrame) -> Iterator[Difference]:
    file = f"{target.name}/{name}"
    if not (target / name).is_file():
        yield Difference(file, "the file", "missing", f"{len(computed)} rows")
        return
    stored, _ = io.read_parquet(target / name)
    if list(stored.columns) != list(computed.columns) or len(stored) != len(computed):
        yield Difference(file, "shape", stored.shape, computed.shape)
        return
    for column in computed.columns:
        for row, (a, b) in enumerate(zip(stored[column], computed[column], strict=True)):
            if not _same(a, b):
                yield Difference(file, f"{column} of {_row_name(computed, row)}", a, b)


def _row_name(frame: pd.DataFrame, row: int) -> str:
    """A METRICS row by its metric, subset and class; another by its number."""
    if "metric" not in frame.columns:
        return f"row {row + 1}"
    cells = [frame[c].iloc[row] for c in ("metric", "subset", "class_name")]
    return " ".join(str(c) for c in cells if not pd.isna(c))


def _json_differences(target: Path, stored: Any, computed: Any) -> Iterator[Difference]:
    file = f"{target.name}/metrics.json"
    before, after = dict(_leaves(stored)), dict(_leaves(computed))
    for path in [*after, *(p for p in before if p not in after)]:
        if path not in before or path not in after or not _same(before[path], after[path]):
            yield Difference(file, path, before.get(path, "missing"), after.get(path, "missing"))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text of nested JSON with its path: `metrics.ece.value`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{i}]")
    else:
        yield path, value


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None or isinstance(a, str) or isinstance(b, str):
        return bool(a == b) or bool(pd.isna(a) and pd.isna(b))
    return bool(np.isclose(float(a), float(b), rtol=RELATIVE_TOLERANCE, atol=1e-12, equal_nan=True))
