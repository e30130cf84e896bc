"""Overview: what does this manifest hold, and what should be known before a number is made from it?

Composes what the other modules find (`manifest_problems`, `data_checks`, the questionnaire's coverage)
into one record that `ddeval data check` prints.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ddeval import io, tables
from ddeval.data import questionnaire, withdrawal
from ddeval.data.checks import Check, data_checks
from ddeval.data.conditions import Conditions
from ddeval.data.images import ImageError, read_bytes
from ddeval.data.manifest import (
    manifest_problems,
    manifest_sha256,
    placer,
    read_table,
    with_group,
)
from ddeval.errors import InputError


@dataclass(frozen=True)
class Overview:
    """Everything `ddeval data check` tells."""

    path: str
    sha256: str
    counts: dict[str, Any]
    """Images, groups and their unit, images without file or label, images a split and a class."""
    problems: pd.DataFrame
    """Cells that break the manifest's rules: `place`, `column`, `found`, `expected`."""
    checks: list[Check]
    fields: pd.DataFrame
    """The questionnaire field by field (`ddeval.data.questionnaire.coverage`); empty without a schema."""
    not_understood: pd.DataFrame
    """Answers that the schema does not offer: `field`, `answer`, `n`."""
    width: int
    """Encoded width of the schema; 0 without one."""
    diagnoses: pd.DataFrame
    """Diagnoses that no decision number can count: `raw_label`, `n`, `problem`; empty without conditions."""

    @property
    def has_findings(self) -> bool:
        failed = any(check.status == "failed" for check in self.checks)
        return failed or any(len(f) for f in (self.problems, self.not_understood, self.diagnoses))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "manifest": self.path,
            "sha256": self.sha256,
            **self.counts,
            "problems": self.problems.to_dict("records"),
            "checks": [vars(check) for check in self.checks],
            "fields": self.fields.to_dict("records"),
            "not_understood": self.not_understood.to_dict("records"),
            "width": self.width,
            "diagnoses": self.diagnoses.to_dict("records"),
        }


def manifest_overview(
    path: Path,
    *,
    image_roots: Iterable[Path] = (),
    class_names: Sequence[str] | None = None,
    schema: questionnaire.FeatureSchema | None = None,
    conditions: Conditions | None = None,
    hash_files: bool = False,
    tick: Callable[[int], None] = lambda n: None,
) -> Overview:
    """The overview of a manifest file; an InputError only where it is no table at all.

    Parameters
    ----------
    image_roots : paths
        Where images may lie; the manifest's folder where empty.
    class_names : list of str, optional
        Classes of the model, to find labels without one.
    schema : FeatureSchema, optional
        The questionnaire the answers are read by.
    conditions : Conditions, optional
        What each diagnosis means, to find those without a group.
    hash_files : bool
        Whether to read every image file and look for the same bytes twice.
    tick : callable
        Called with 1 after each file that was read.
    """
    path = io.local(path)
    frame = read_table(path)
    frame = frame[~withdrawal.is_withdrawn(frame, path.parent)].reset_index(drop=True)
    bad = manifest_problems(frame)
    problems = bad.assign(place=_places(bad, path))[["place", "column", "found", "expected"]]
    sound = not (bad["column"].isin(["image_id", "age"])).any()
    frame = with_group(frame) if sound else frame.assign(group="")
    roots = tuple(image_roots) or (path.parent,)
    files, state = _files(frame, roots)
    hashes = _hashes(files, tick) if hash_files else None
    checks = data_checks(frame, class_names=class_names, image_sha256=hashes, file_state=state)
    nothing = pd.DataFrame(columns=["field", "answer", "n"])
    return Overview(
        path=io.shown(str(path)),
        sha256=manifest_sha256(frame) if sound else "",
        counts=counts(frame),
        problems=problems,
        checks=checks,
        fields=questionnaire.coverage(frame, schema) if schema else pd.DataFrame(),
        not_understood=questionnaire.not_understood(frame, schema) if schema else nothing,
        width=schema.width if schema else 0,
        diagnoses=without_group(frame, conditions),
    )


def without_group(frame: pd.DataFrame, conditions: Conditions | None) -> pd.DataFrame:
    """Diagnoses of the manifest that are in no group of the conditions, or not in them at all, with counts.

    They are never taken for routine: a decision number leaves their images out. Most frequent first; the
    class stands for the diagnosis where the manifest has no `raw_label`.
    """
    columns = ["raw_label", "n", "problem"]
    name = next((n for n in ("raw_label", "label") if n in frame.columns and frame[n].notna().any()), None)
    if conditions is None or name is None:
        return pd.DataFrame(columns=columns)
    counts = frame[name].value_counts()
    found = conditions.lookup(pd.Series(counts.index, dtype=object))
    problem = pd.Series("no group", index=found.index).where(found["diagnosis"].notna(), "no such diagnosis")
    table = pd.DataFrame({"raw_label": counts.index, "n": counts.to_numpy(), "problem": problem.to_numpy()})
    return table[found["group"].isna().to_numpy()].reset_index(drop=True)


def counts(frame: pd.DataFrame) -> dict[str, Any]:
    """How many images, groups, splits and classes; every count of images."""
    unit = frame["group"].str.partition(":")[0].value_counts()
    held = {name: frame[name] for name in ("image", "label", "split") if name in frame.columns}
    absent = pd.Series(None, index=frame.index, dtype=object)
    return {
        "n_images": len(frame),
        "n_groups": int(frame["group"].nunique()),
        "group_units": {str(k): int(v) for k, v in unit.items()},
        "n_without_image": int(held.get("image", absent).isna().sum()),
        "n_without_label": int(held.get("label", absent).isna().sum()),
        "splits": {str(k): int(v) for k, v in held.get("split", absent).value_counts().items()},
        "classes": {str(k): int(v) for k, v in held.get("label", absent).value_counts().items()},
        "n_answers": sum(str(name).startswith(tables.ANSWER_PREFIX) for name in frame.columns),
    }


def _places(bad: pd.DataFrame, path: Path) -> list[str]:
    place = placer(path)
    named = {row: place(row) if row >= 0 else "header" for row in bad["row"].unique()}
    return [named[row] for row in bad["row"]]


def _files(frame: pd.DataFrame, roots: Sequence[Path]) -> tuple[pd.Series, pd.Series]:
    """The file of each row that names one, and whether it is there, missing or outside, both by image id."""
    allowed = [io.place(root).resolve() for root in roots]
    files: dict[str, Path | None] = {}
    for image_id, image in frame.reindex(columns=["image_id", "image"]).dropna().itertuples(index=False):
        try:
            files[image_id] = io.resolve(image, allowed)
        except InputError:
            files[image_id] = None
    held = io.there(f for f in files.values() if f is not None)
    state = {i: "outside" if f is None else "there" if held[f] else "missing" for i, f in files.items()}
    return pd.Series(files, dtype=object), pd.Series(state, dtype=object)


def _hashes(files: pd.Series, tick: Callable[[int], None]) -> pd.Series:
    """Hash of the bytes of each file that can be read."""
    found = {}
    with io.fetched_ahead(files.dropna()):
        for image_id, path in files.dropna().items():
            try:
                found[image_id] = hashlib.sha256(read_bytes(path)).hexdigest()
            except ImageError:
                continue  # told by the check on missing files, or as a quarantined row when it is scored
            finally:
                tick(1)
    return pd.Series(found, dtype=object)
