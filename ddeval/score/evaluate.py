"""Evaluation: the numbers of a run are computed and kept; a new label overlay costs seconds.

`v0` is the manifest's own labels. Into the run folder go

    labels-<version>/  metrics.parquet  metrics.json  curves/*.parquet  checks.json

with thumbnails of the confident errors, and the look at the labels into the ledger beside the manifest.
No model runs here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from ddeval import io, tables
from ddeval.data.checks import data_checks
from ddeval.data.images import decode, thumbnail, thumbnail_name
from ddeval.errors import ImageError, InputError
from ddeval.metrics.resampling import N_RESAMPLES
from ddeval.score import folder
from ddeval.score.numbers import OVERLAYS, Numbers, numbers
from ddeval.score.recalibration import Choice

N_GALLERY = 60
"""Confident errors shown in the report."""


def evaluate(
    run: Path,
    labels: str | Path | None = None,
    *,
    manifest: Path | None = None,
    overlays: Path = OVERLAYS,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    calibrators: Choice = "quick",
    conditions: Path | None = None,
    prevalence: Mapping[str, float] | None = None,
    abstain: Path | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The numbers of a run under a version of the labels: what `ddeval score --json` prints.

    Parameters
    ----------
    run : Path
        Run folder with `predictions.parquet`.
    labels : str, optional
        A frozen overlay: its file, or its name (`v2`) in `overlays`; the manifest's own where None or v0.
    manifest : Path, optional
        Where the manifest lies now, if not where the run found it; its content must be the same.
    calibrators : {"quick", "all", "none"}
        Methods compared in the table of calibrators, where the run has a calibration split.
    conditions : Path, optional
        Which diagnosis is malignant or urgent; the project's, else the shipped example.
    prevalence : mapping of risk group to share, optional
        Where the model will serve; the group's share of the images where not given.
    abstain : Path, optional
        A file of `ddeval abstain`: decisions are told once more with what it hands over.
    note : callable
        Told each sentence about what was left out.

    Raises
    ------
    InputError
        If the manifest changed since, no scored image has a label, or a label is no class of the model.
    """
    found = numbers(
        run, labels, manifest=manifest, overlays=overlays,
        seed=seed, n_resamples=n_resamples, calibrators=calibrators,
        conditions=conditions, prevalence=prevalence, abstain=abstain,
    )  # fmt: skip
    facts = folder.read_run(run)
    for line in (*found.notes, *folder.retirements(found.manifest_path, facts["splits"])):
        note(line)
    by_id = found.manifest.set_index("image_id")
    shown = found.errors.head(N_GALLERY)
    gallery, unreadable = with_thumbnails(run, shown, by_id, image_roots(facts, found.manifest_path))
    if unreadable:
        note(f"images of the gallery that could not be shown: {unreadable}")
    write_numbers(run, found, gallery)
    folder.update_run(run, conditions=str(found.conditions.resolve()))
    if abstain is not None:
        folder.update_run(run, abstain=str(abstain.resolve()))
    if found.overlay_path:
        overlay_paths = {**facts.get("overlays", {}), found.version: str(found.overlay_path.resolve())}
        folder.update_run(run, overlays=overlay_paths)
    look = {"run": run.name, "splits": facts["splits"], **found.result["made_from"]}
    unrecorded = folder.record_look(found.manifest_path, look)
    if unrecorded:
        note(unrecorded)
    return found.result


def with_thumbnails(
    into: Path, rows: pd.DataFrame, manifest: pd.DataFrame, roots: Sequence[Path]
) -> tuple[pd.DataFrame, int]:
    """The rows with a `thumbnail` each in folder `into`, None where it cannot be shown; how many cannot.

    Thumbnails hold pixels only and are named by a hash, since an image id may be no file name.
    """
    images = manifest["image"].reindex(rows["image_id"]) if "image" in manifest else [None] * len(rows)
    paths: list[str | None] = []
    for image_id, image in zip(rows["image_id"], images, strict=True):
        name = f"thumbnails/{thumbnail_name(image_id)}"
        try:
            if pd.isna(image):
                raise ImageError("missing", "no image")
            if not (into / name).is_file():
                io.write_bytes(into / name, thumbnail(decode(io.resolve(str(image), roots))))
            paths.append(name)
        except (ImageError, InputError):
            paths.append(None)
    return rows.assign(thumbnail=pd.Series(paths, index=rows.index, dtype=object)), paths.count(None)


def write_numbers(run: Path, found: Numbers, gallery: pd.DataFrame) -> None:
    """`metrics.parquet`, `metrics.json`, the curves and the data checks of one version of the labels."""
    target, curves = run / f"labels-{found.version}", dict(found.curves)
    if len(gallery):
        curves["gallery"] = gallery
    tables.check(found.metrics, tables.METRICS, where=str(target / "metrics.parquet"))
    for name, curve in curves.items():
        io.write_parquet(target / "curves" / f"{name}.parquet", curve)
    for stale in (target / "curves").glob("*.parquet"):
        if stale.stem not in curves:
            io.remove(stale)
    checks = data_checks(found.manifest, class_names=folder.read_run(run)["class_names"])
    io.write_json(target / "checks.json", [asdict(check) for check in checks])
    io.write_parquet(target / "metrics.parquet", found.metrics, metadata=found.result["made_from"])
    io.write_json(target / "metrics.json", found.result)


def image_roots(facts: dict[str, Any], manifest: Path) -> list[Path]:
    """Where the photographs of a run may lie."""
    return [io.place(root) for root in facts.get("image_roots", [])] or [manifest.parent]
