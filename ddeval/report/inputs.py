"""What a page is drawn from: the tables of a run folder, read once and checked at the door.

Nothing here computes, and nothing is needed but files: no model, no images, no seed.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ddeval import io, tables
from ddeval.errors import InputError


class Number(NamedTuple):
    """One row of the METRICS table."""

    value: float
    ci_low: float
    ci_high: float
    n_images: int
    n_groups: int


UNKNOWN = Number(float("nan"), float("nan"), float("nan"), 0, 0)


@dataclass(frozen=True)
class RunTables:
    """The tables of one run under one version of the labels."""

    folder: Path
    label_version: str
    facts: Mapping[str, Any]
    """run.json."""
    numbers: Mapping[tuple[str, str, str | None], Number]
    """METRICS by metric, subset and class (None: of the run)."""
    summary: Mapping[str, Any]
    """metrics.json; {} where it is not there."""
    curves: Mapping[str, pd.DataFrame]
    """Each file of curves/ by its name without the ending."""
    checks: Sequence[Mapping[str, Any]]
    """checks.json: `code`, `title`, `status`, `message`."""
    quarantine: pd.DataFrame
    """Rows of the manifest that could not be scored, with the reason."""

    def number(self, metric: str, *, subset: str = "all", class_name: str | None = None) -> Number | None:
        """One number of the run, or of a class; None where the table has no such row."""
        return self.numbers.get((metric, subset, class_name))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the closed set, in the order of the table."""
        return tuple(dict.fromkeys(c for m, _, c in self.numbers if m == "sensitivity" and c is not None))

    @property
    def has_cases(self) -> bool:
        return any(subset == "cases" for _, subset, _ in self.numbers)

    def curve(self, name: str) -> pd.DataFrame | None:
        """A table of curves/; None where there is none or it is empty."""
        table = self.curves.get(name)
        return None if table is None or table.empty else table

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return str(self.facts.get("checkpoint", {}).get("name", self.folder.name))

    @property
    def group_unit(self) -> str:
        """What an interval draws: patients, lesions, cases or images."""
        return str(self.summary.get("group_unit", "groups"))

    @property
    def is_synthetic(self) -> bool:
        return bool(self.facts.get("is_synthetic", False))

    def photo(self, path: object) -> str:
        """A thumbnail of the run folder as `data_uri`."""
        return data_uri(self.folder, path)


def data_uri(folder: Path, path: object) -> str:
    """A WebP thumbnail under `folder` as a data URI; empty where `path` is no path or no file."""
    if not isinstance(path, str):
        return ""
    file = io.resolve(path, [folder], where="thumbnail")
    if not file.is_file():
        return ""
    return "data:image/webp;base64," + base64.b64encode(file.read_bytes()).decode()


def read_run_tables(run_folder: Path, *, label_version: str) -> RunTables:
    """The tables of `run_folder` under `label_version`; an InputError names what is not there."""
    labelled = run_folder / f"labels-{label_version}"
    if not (run_folder / "run.json").is_file():
        raise InputError(
            str(run_folder),
            "no run.json",
            expected="a run folder",
            todo="Make one with: ddeval score CHECKPOINT.",
        )
    if not labelled.is_dir():
        there = sorted(p.name.removeprefix("labels-") for p in run_folder.glob("labels-*") if p.is_dir())
        raise InputError(
            str(run_folder),
            f"no numbers under the labels {label_version!r}",
            expected=f"one of {', '.join(there)}" if there else "a folder labels-<version>",
            todo=f"Make them with: ddeval score {run_folder} --labels {label_version}.",
        )
    metrics, _ = io.read_parquet(labelled / "metrics.parquet")
    tables.check(metrics, tables.METRICS, where=str(labelled / "metrics.parquet"))
    checks, summary = labelled / "checks.json", labelled / "metrics.json"
    quarantine = run_folder / "quarantine.parquet"
    return RunTables(
        folder=run_folder,
        label_version=label_version,
        facts=io.read_json(run_folder / "run.json"),
        numbers=_numbers(metrics),
        summary=io.read_json(summary) if summary.is_file() else {},
        curves={p.stem: io.read_parquet(p)[0] for p in sorted((labelled / "curves").glob("*.parquet"))},
        checks=io.read_json(checks) if checks.is_file() else [],
        quarantine=io.read_parquet(quarantine)[0] if quarantine.is_file() else pd.DataFrame(),
    )


def _numbers(metrics: pd.DataFrame) -> dict[tuple[str, str, str | None], Number]:
    classes = [name if isinstance(name, str) else None for name in metrics["class_name"]]
    keys = zip(metrics["metric"], metrics["subset"], classes, strict=True)
    columns = [metrics[name].tolist() for name in Number._fields]
    return dict(zip(keys, map(Number._make, zip(*columns, strict=True)), strict=True))
