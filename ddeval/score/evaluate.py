"""Evaluation: stored predictions and a version of the labels become numbers, curves and a gallery.

No model runs here: a new label overlay costs seconds. `v0` is the manifest's own labels. What a metric
means is written in `ddeval.metrics`; this module joins, counts what is left out, and writes

    labels-<version>/  metrics.parquet  metrics.json  curves/*.parquet  checks.json

into the run folder, and the look at the labels into the ledger beside the manifest.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval import io, tables
from ddeval.data.checks import data_checks
from ddeval.data.images import decode, thumbnail
from ddeval.data.overlay import apply_overlay, find_overlay, read_overlay
from ddeval.errors import ImageError, InputError
from ddeval.metrics.arrays import top_class
from ddeval.metrics.readings import closed_set
from ddeval.metrics.resampling import N_RESAMPLES
from ddeval.metrics.summary import summarise, summary_json
from ddeval.score import folder
from ddeval.score.predictions import Predictions, read_predictions
from ddeval.score.recalibration import Choice, ClosedSet, closed_set_logits, recalibration
from ddeval.score.rows import CALIBRATION, group_unit, manifest_path, unchanged_manifest

N_GALLERY = 60
"""Confident errors shown in the report."""
OVERLAYS = Path("labels")
"""Folder of frozen overlays, from the working directory, unless the caller names another."""


def evaluate(
    run: Path,
    labels: str | Path | None = None,
    *,
    manifest: Path | None = None,
    overlays: Path = OVERLAYS,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    calibrators: Choice = "quick",
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
    note : callable
        Told each sentence about what was left out.

    Raises
    ------
    InputError
        If the manifest changed since, no scored image has a label, or a label is no class of the model.
    """
    facts = folder.read_run(run)
    predictions = read_predictions(run / folder.PREDICTIONS_FILE)
    path = manifest or manifest_path(run, facts)
    frame = unchanged_manifest(path, facts["inputs"]["manifest"], run=run)
    overlay = None
    if labels is not None and str(labels) != "v0":
        split = str(facts["splits"][0]) if facts["splits"] else "test"
        overlay = read_overlay(find_overlay(str(labels), split=split, folder=overlays))
        frame = apply_overlay(frame, overlay)
    version = overlay.version if overlay else "v0"

    by_id = frame.set_index("image_id", drop=False)
    judged = _of_splits(predictions, facts["splits"])
    rows = by_id.loc[judged.frame["image_id"]]
    label_of, is_labelled = label_codes(rows, predictions.class_names, where=str(path))
    if not is_labelled.any():
        raise InputError(
            str(path),
            f"no label for any of the {len(rows):,} scored images",
            expected="labels",
            todo=f"The predictions are kept in {run}; numbers need a manifest with labels.",
        )
    if not is_labelled.all():
        note(f"images without a label under {version}, not counted: {int((~is_labelled).sum()):,}")
    judged, label_of = judged.rows(is_labelled), label_of[is_labelled]

    summary = summarise(
        label_of,
        judged.pred_probs(),
        groups=judged.frame["group"].to_numpy(),
        class_names=judged.class_names,
        other_class=judged.other_class,
        case_ids=judged.frame["case_id"].to_numpy(),
        logits=judged.logits if judged.probs is None and judged.link == "softmax" else None,
        run=run.name,
        rng=np.random.default_rng(seed),
        n_resamples=n_resamples,
    )
    if summary.excluded:
        note(f"classes without an image, in no mean over classes: {', '.join(summary.excluded)}")
    metrics, curves = summary.metrics, dict(summary.curves)
    scaled = recalibration(
        closed_set_logits(judged, label_of),
        _calibration_set(predictions, by_id, facts["splits"], where=str(path)),
        run=run.name,
        calibrators=calibrators,
        rng=np.random.default_rng([seed, 1]),
        n_resamples=n_resamples,
    )
    if scaled:
        metrics = pd.concat([metrics, scaled.metrics], ignore_index=True)
        curves |= scaled.curves
    gallery, unreadable = write_gallery(run, confident_errors(judged, label_of), by_id, _roots(facts, path))
    if unreadable:
        note(f"images of the gallery that could not be shown: {unreadable}")
    if len(gallery):
        curves["gallery"] = gallery

    made_from = {
        "labels": version,
        "labels_sha256": overlay.sha256 if overlay else facts["inputs"]["manifest"],
        "predictions": predictions.fingerprint,
        "seed": seed,
        "n_resamples": n_resamples,
    }
    result = {
        "run": run.name,
        "checkpoint": facts["checkpoint"]["name"],
        "labels": version,
        "splits": facts["splits"],
        "group_unit": group_unit(judged.frame["group"]),
        **summary_json(summary._replace(metrics=metrics)),
        "recalibration": scaled.facts if scaled else None,
        "n_unlabelled": int((~is_labelled).sum()),
        "n_quarantined": n_quarantined(run, facts["splits"]),
        "other_class": judged.other_class,
        "notes": facts.get("notes", []),
        "made_from": made_from,
    }
    target = run / f"labels-{version}"
    write_numbers(target, metrics, curves, result, made_from)
    checks = data_checks(frame, class_names=predictions.class_names)
    io.write_json(target / "checks.json", [asdict(check) for check in checks])
    line = folder.record_look(path, {"run": run.name, "splits": facts["splits"], **made_from})
    if line:
        note(line)
    return result


def label_codes(
    manifest: pd.DataFrame, class_names: Sequence[str], *, where: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Index of each label among the class names, and whether there is a label; an InputError for others."""
    labels = manifest.get("label", pd.Series(None, index=manifest.index, dtype=object))
    is_labelled = labels.notna().to_numpy()
    codes = pd.Index(class_names).get_indexer(pd.Index(labels.where(labels.notna(), class_names[0])))
    strange = (codes < 0) & is_labelled
    if strange.any():
        counts = labels[strange].value_counts()
        named = ", ".join(f"{name!r} ({n:,})" for name, n in counts.head(5).items())
        raise InputError(
            where,
            f"{len(counts)} labels that are no class of the model: {named}",
            expected=f"one of {', '.join(class_names)}",
            todo="Map them in the manifest, or leave the cells empty to leave the images out.",
        )
    return codes.astype(np.int64), is_labelled


def confident_errors(judged: Predictions, labels: npt.NDArray[np.int64]) -> pd.DataFrame:
    """Wrong answers of the closed set, surest first: `image_id`, `label`, `predicted`, `confidence`."""
    names, probs = np.array(judged.class_names, dtype=object), judged.pred_probs()
    rows = np.arange(len(labels))
    if judged.other_class is not None:
        other = judged.class_names.index(judged.other_class)
        rows, labels, probs = closed_set(labels, probs, other)
        names = np.delete(names, other)
    predicted = top_class(labels, probs)
    wrong = np.flatnonzero(predicted != labels)
    frame = pd.DataFrame(
        {
            "image_id": judged.frame["image_id"].to_numpy()[rows[wrong]],
            "label": names[labels[wrong]],
            "predicted": names[predicted[wrong]],
            "confidence": probs[wrong, predicted[wrong]],
        }
    )
    return frame.sort_values(["confidence", "image_id"], ascending=[False, True], ignore_index=True)


def write_gallery(
    run: Path, errors: pd.DataFrame, manifest: pd.DataFrame, roots: Sequence[Path]
) -> tuple[pd.DataFrame, int]:
    """The first errors with a `thumbnail` each (None where it cannot be shown), and how many cannot.

    Thumbnails hold pixels only and are named by a hash, since an image id may be no file name.
    """
    shown = errors.head(N_GALLERY).copy()
    images = manifest["image"].reindex(shown["image_id"]) if "image" in manifest else [None] * len(shown)
    paths: list[str | None] = []
    for image_id, image in zip(shown["image_id"], images, strict=True):
        name = f"thumbnails/{hashlib.sha256(image_id.encode()).hexdigest()[:24]}.webp"
        try:
            if pd.isna(image):
                raise ImageError("missing", "no image")
            if not (run / name).is_file():
                io.write_bytes(run / name, thumbnail(decode(io.resolve(str(image), roots))))
            paths.append(name)
        except (ImageError, InputError):
            paths.append(None)
    return shown.assign(thumbnail=pd.Series(paths, index=shown.index, dtype=object)), paths.count(None)


def write_numbers(
    target: Path,
    metrics: pd.DataFrame,
    curves: dict[str, pd.DataFrame],
    result: dict[str, Any],
    made_from: dict[str, Any],
) -> None:
    """`metrics.parquet`, `metrics.json` and the curves of one version of the labels."""
    tables.check(metrics, tables.METRICS, where=str(target / "metrics.parquet"))
    for name, curve in curves.items():
        io.write_parquet(target / "curves" / f"{name}.parquet", curve)
    for stale in (target / "curves").glob("*.parquet"):
        if stale.stem not in curves:
            stale.unlink()
    io.write_parquet(target / "metrics.parquet", metrics, metadata=made_from)
    io.write_json(target / "metrics.json", result)


def n_quarantined(run: Path, splits: Sequence[str]) -> int:
    """Images of the splits that could not be read."""
    path = run / folder.QUARANTINE_FILE
    if not path.is_file():
        return 0
    frame, _ = io.read_parquet(path)
    return int((frame["split"].isin(splits) | (not splits)).sum())


def _of_splits(predictions: Predictions, splits: Sequence[str]) -> Predictions:
    """The rows of the splits; all where the run names none."""
    return predictions.rows(predictions.frame["split"].isin(splits).to_numpy()) if splits else predictions


def _calibration_set(
    predictions: Predictions, by_id: pd.DataFrame, judged: Sequence[str], *, where: str
) -> ClosedSet | None:
    """The labelled rows of the calibration split, unless it is what is judged."""
    if not judged or CALIBRATION in judged:
        return None
    rows = _of_splits(predictions, [CALIBRATION])
    codes, is_labelled = label_codes(by_id.loc[rows.frame["image_id"]], rows.class_names, where=where)
    return closed_set_logits(rows.rows(is_labelled), codes[is_labelled])


def _roots(facts: dict[str, Any], manifest: Path) -> list[Path]:
    return [Path(root) for root in facts.get("image_roots", [])] or [manifest.parent]
