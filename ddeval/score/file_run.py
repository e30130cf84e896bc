"""A run without a model: a predictions file of somebody else's system becomes a run folder.

The same folder a model leaves, so that everything after it (numbers, report, audit, compare) cannot
tell the difference.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ddeval import io
from ddeval.data.manifest import manifest_sha256, read_manifest, with_group, write_manifest
from ddeval.score import folder
from ddeval.score.align import align, named, own_manifest
from ddeval.score.foreign import PredictionsFile
from ddeval.score.plan import Plan, begin
from ddeval.score.predictions import Link, Predictions, write_predictions
from ddeval.score.rows import CALIBRATION, group_unit, rows_of, synthetic

FILE_KIND = "predictions file"
"""What `run.json` calls the kind of such a checkpoint."""


class FileJob(NamedTuple):
    """A run of a predictions file, ready to be written."""

    predictions: Predictions
    plan: Plan
    out: Path
    facts: dict[str, Any]
    """What `run.json` will say."""
    rows: pd.DataFrame
    """The manifest's rows of the images predicted."""
    own_manifest: pd.DataFrame | None
    """The manifest made from the file's own labels, where it brings the only ones."""


def prepare_file(
    file: PredictionsFile,
    manifest: Path | None,
    *,
    out: Path | None = None,
    runs: Path = Path("runs"),
    split: str = "test",
    link: Link = "softmax",
    other_class: str | None = None,
    image_roots: Sequence[Path] = (),
    note: Callable[[str], None] = lambda line: None,
) -> FileJob:
    """Join a predictions file to a manifest; nothing is written.

    Parameters
    ----------
    manifest : Path, optional
        Where None, the labels (and groups) the file brings become the manifest, kept in the folder.
        Other arguments as `ddeval.score.run.prepare`.

    Raises
    ------
    InputError
        As `ddeval.score.align.align`.
    """
    if manifest is None:
        file, frame = named(file), with_group(own_manifest(file))
    else:
        manifest = io.local(manifest)
        frame = read_manifest(manifest)
        if file.labels is not None:
            note("the labels in the file are not used: the manifest's are")
    _, splits = rows_of(frame, split, where=str(manifest or file.path), note=note)
    wanted = [*splits, CALIBRATION] if splits else []
    predictions, notes = align(file, frame, splits=wanted, link=link, other_class=other_class)
    for line in notes:
        note(line)

    name, sha256 = file.path.stem, manifest_sha256(frame)
    kept = predictions.frame
    judged = kept[kept["split"].isin(splits)] if splits else kept
    roots = image_roots or ([manifest.parent] if manifest else [])
    facts = {
        "splits": splits,
        "is_synthetic": synthetic(frame),
        "n_images": len(judged),
        "n_groups": int(judged["group"].nunique()),
        "group_unit": group_unit(judged["group"]),
        "class_names": predictions.class_names,
        "other_class": other_class,
        "link": link,
        "checkpoint": {
            "name": name,
            "kind": FILE_KIND,
            "sha256": predictions.settings["sha256"],
            "folder": io.shown(str(file.path.resolve())),
        },
        "manifest": {
            "path": io.shown(str(manifest.resolve())) if manifest else folder.MANIFEST_FILE,
            "sha256": sha256,
            "n_images": len(frame),
        },
        "image_roots": [io.shown(str(io.place(root).resolve())) for root in roots],
        "versions": folder.versions(),
        "notes": notes,
    }
    plan = Plan(
        tuple(kept["image_id"]),
        inputs={
            "manifest": sha256,
            "predictions file": predictions.settings["sha256"],
            "split": splits,
            "classes": list(predictions.class_names),
            "values": file.kind,
            "link": link,
            "other class": other_class,
        },
        machine={},
        batch_size=1,
    )
    target = io.place(out or runs / folder.run_name(name, splits, sha256))
    rows = frame[frame["image_id"].isin(kept["image_id"])]
    return FileJob(predictions, plan, target, facts, rows, None if manifest else frame)


def execute_file(job: FileJob) -> Path:
    """Write the run folder; an InputError where it holds the run of another file or manifest."""
    begin(job.out, job.plan, job.facts)
    io.sweep(job.out)
    if job.own_manifest is not None:
        write_manifest(job.out / folder.MANIFEST_FILE, job.own_manifest)
    write_predictions(
        job.out / folder.PREDICTIONS_FILE, replace(job.predictions, fingerprint=job.plan.fingerprint)
    )
    return job.out
