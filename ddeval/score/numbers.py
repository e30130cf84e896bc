"""The numbers of a run: predictions joined with one version of the labels, and everything left out counted.

What a metric means is written in `ddeval.metrics`. Nothing is written here and no model runs:
`ddeval.score.evaluate` keeps what comes out, `ddeval.score.verify` computes it again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval import io
from ddeval.data.overlay import apply_overlay, find_overlay, read_overlay
from ddeval.errors import InputError
from ddeval.metrics.arrays import top_class
from ddeval.metrics.readings import closed_set
from ddeval.metrics.resampling import N_RESAMPLES
from ddeval.metrics.summary import summarise, summary_json
from ddeval.score import folder
from ddeval.score.answers import Answers, Labelled
from ddeval.score.clinical import clinical
from ddeval.score.deferral import deferred, is_made_for, read_rule
from ddeval.score.predictions import Predictions, read_predictions
from ddeval.score.recalibration import Choice, closed_set_logits, recalibration
from ddeval.score.rows import CALIBRATION, group_unit, manifest_path, unchanged_manifest
from ddeval.score.stakes import conditions_for

OVERLAYS = Path("labels")
"""Folder of frozen overlays, from the working directory, unless the caller names another."""


TOLD_OF_RULE = ("rule", "unit", "threshold", "temperature", "risk", "confidence_level")
"""What metrics.json repeats of a deferral rule."""


class Numbers(NamedTuple):
    """All numbers of one run under one version of the labels."""

    version: str
    metrics: pd.DataFrame
    """METRICS."""
    curves: dict[str, pd.DataFrame]
    result: dict[str, Any]
    """What `ddeval score --json` prints."""
    errors: pd.DataFrame
    """`confident_errors`."""
    manifest: pd.DataFrame
    """With the labels of this version."""
    manifest_path: Path
    overlay_path: Path | None
    conditions: Path
    notes: tuple[str, ...]
    """What was left out, a sentence each."""


class Judged(NamedTuple):
    """Predictions of the judged splits joined with one version of the labels, unlabelled images left out."""

    predictions: Predictions
    labels: npt.NDArray[np.int64]
    """(N,) index of each image's label among the class names."""
    all_predictions: Predictions
    """Those of other splits too."""
    manifest: pd.DataFrame
    """With the labels of this version, by image_id."""
    manifest_path: Path
    overlay_path: Path | None
    version: str
    labels_sha256: str
    splits: list[str]
    facts: dict[str, Any]
    """run.json."""
    n_unlabelled: int
    notes: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """`label, group, case_id` by image_id."""
        names = np.array(self.predictions.class_names, dtype=object)
        columns = self.predictions.frame[["image_id", "group", "case_id"]]
        return columns.assign(label=names[self.labels]).set_index("image_id")

    def answers(self) -> Answers:
        """The judged images with their rows of the manifest, for `ddeval.score.clinical`."""
        frame = self.predictions.frame
        return Answers(
            self.labels,
            self.predictions.pred_probs(),
            self.manifest.loc[frame["image_id"]].reset_index(drop=True),
            frame["group"].to_numpy(),
            self.predictions.class_names,
            self.predictions.other_class,
        )

    def fit(self) -> Labelled | None:
        """The labelled images of the calibration split; None where it is what is judged."""
        held = calibration_rows(self)
        if held is None:
            return None
        return Labelled(held[0].frame["image_id"].to_numpy(dtype=object), held[1], held[0].pred_probs())

    def probs_of(self, image_ids: pd.Index, class_names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Probabilities of these images, columns in the order of `class_names`."""
        rows = pd.Index(self.predictions.frame["image_id"]).get_indexer(image_ids)
        columns = pd.Index(self.predictions.class_names).get_indexer(pd.Index(class_names))
        probs: npt.NDArray[np.float64] = self.predictions.pred_probs()[rows][:, columns]
        return probs


def numbers(
    run: Path,
    labels: str | Path | None = None,
    *,
    manifest: Path | None = None,
    overlays: Path = OVERLAYS,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    calibrators: Choice = "quick",
    only: pd.Index | None = None,
    conditions: Path | None = None,
    prevalence: Mapping[str, float] | None = None,
    abstain: Path | None = None,
) -> Numbers:
    """The numbers of a run, over the images `only` where given. The rest as in `ddeval.score.evaluate`."""
    found = judged_rows(run, labels, manifest=manifest, overlays=overlays, only=only)
    facts, splits, version = found.facts, found.splits, found.version
    judged, label_of, notes = found.predictions, found.labels, list(found.notes)

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
        notes.append(f"classes without an image, in no mean over classes: {', '.join(summary.excluded)}")
    metrics, curves = summary.metrics, dict(summary.curves)
    scaled = recalibration(
        closed_set_logits(judged, label_of),
        closed_set_logits(*fit) if (fit := calibration_rows(found)) else None,
        run=run.name,
        calibrators=calibrators,
        rng=np.random.default_rng([seed, 1]),
        n_resamples=n_resamples,
    )
    if scaled:
        metrics = pd.concat([metrics, scaled.metrics], ignore_index=True)
        curves |= scaled.curves
    answers = found.answers()
    rule = read_rule(abstain) if abstain is not None else None
    if rule is not None and not is_made_for(rule, facts):
        notes.append(f"{abstain}: made for another checkpoint; what it promises is not promised here")
    known, said = conditions_for(answers.rows, judged.class_names, conditions)
    notes += said
    beyond = clinical(
        answers,
        run=run.name,
        conditions=known,
        fit=found.fit(),
        is_deferred=None if rule is None else deferred(judged, rule, where=run.name),
        prevalence=prevalence,
        seed=seed,
        n_resamples=n_resamples,
    )
    metrics = pd.concat([m for m in (metrics, beyond.metrics) if len(m)], ignore_index=True)
    curves |= beyond.curves
    notes += beyond.notes
    result = {
        "run": run.name,
        "checkpoint": facts["checkpoint"]["name"],
        "labels": version,
        "splits": splits,
        "group_unit": group_unit(judged.frame["group"]),
        **summary_json(summary._replace(metrics=metrics)),
        "recalibration": scaled.facts if scaled else None,
        "abstain": None if rule is None else {name: rule[name] for name in TOLD_OF_RULE},
        "n_unlabelled": found.n_unlabelled,
        "n_quarantined": n_quarantined(run, splits),
        "other_class": judged.other_class,
        "notes": facts.get("notes", []),
        "made_from": {
            "labels": version,
            "labels_sha256": found.labels_sha256,
            "predictions": judged.fingerprint,
            "seed": seed,
            "n_resamples": n_resamples,
            "calibrators": calibrators,
            "conditions_sha256": io.file_sha256(Path(known.where)),
            "prevalence": dict(prevalence or {}),
            **({} if abstain is None else {"abstain_sha256": io.file_sha256(abstain)}),
            **({} if only is None else {"only": io.value_sha256(sorted(only))}),
        },
    }
    errors = confident_errors(judged, label_of)
    frame = found.manifest.reset_index(drop=True)
    return Numbers(
        version=version,
        metrics=metrics,
        curves=curves,
        result=result,
        errors=errors,
        manifest=frame,
        manifest_path=found.manifest_path,
        overlay_path=found.overlay_path,
        conditions=Path(known.where),
        notes=tuple(notes),
    )


def judged_rows(
    run: Path,
    labels: str | Path | None = None,
    *,
    manifest: Path | None = None,
    overlays: Path = OVERLAYS,
    only: pd.Index | None = None,
) -> Judged:
    """The predictions a run is judged by, with their labels; of the images `only` where given.

    Errors as `ddeval.score.evaluate.evaluate`.
    """
    facts = folder.read_run(run)
    predictions = read_predictions(run / folder.PREDICTIONS_FILE)
    path = manifest or manifest_path(run, facts)
    frame = unchanged_manifest(path, facts["inputs"]["manifest"], run=run)
    splits, overlay_path, version, labels_sha256 = facts["splits"], None, "v0", facts["inputs"]["manifest"]
    if labels is not None and str(labels) != "v0":
        overlay_path = find_overlay(str(labels), split=splits[0] if splits else "test", folder=overlays)
        overlay = read_overlay(overlay_path)
        frame, version, labels_sha256 = apply_overlay(frame, overlay), overlay.version, overlay.sha256

    by_id = frame.set_index("image_id", drop=False)
    judged = _of_splits(predictions, splits)
    if only is not None:
        judged = judged.rows(judged.frame["image_id"].isin(only).to_numpy())
    rows = by_id.loc[judged.frame["image_id"]]
    label_of, is_labelled = label_codes(rows, predictions.class_names, where=str(path))
    n_unlabelled = int((~is_labelled).sum())
    _check_some(is_labelled, where=str(path))
    notes = []
    if n_unlabelled:
        notes.append(f"images without a label under {version}, not counted: {n_unlabelled:,}")
    return Judged(
        predictions=judged.rows(is_labelled),
        labels=label_of[is_labelled],
        all_predictions=predictions,
        manifest=by_id,
        manifest_path=path,
        overlay_path=overlay_path,
        version=version,
        labels_sha256=labels_sha256,
        splits=splits,
        facts=facts,
        n_unlabelled=n_unlabelled,
        notes=tuple(notes),
    )


def check_labels(
    rows: pd.DataFrame, class_names: Sequence[str], *, splits: Sequence[str], where: str
) -> None:
    """Refuse labels that `judged_rows` would refuse, before a model has run for them."""
    held = rows[rows["split"].isin(splits)] if splits else rows
    _check_some(label_codes(held, class_names, where=where)[1], where=where)


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
        named += f" and {len(counts) - 5} more" if len(counts) > 5 else ""
        raise InputError(
            where,
            f"labels that are no class of the model: {named}",
            expected=f"one of {', '.join(class_names)}",
            todo="Name classes and labels alike (in a predictions file: --class-columns class=column,…), or"
            " leave the labels empty to leave the images out.",
        )
    return codes.astype(np.int64), is_labelled


def confident_errors(judged: Predictions, labels: npt.NDArray[np.int64]) -> pd.DataFrame:
    """Wrong answers of the closed set, surest first: `image_id`, `label`, `predicted`, `confidence`."""
    names = np.array([name for name in judged.class_names if name != judged.other_class], dtype=object)
    rows, labels, probs = closed_set(labels, judged.pred_probs(), judged.other)
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


def n_quarantined(run: Path, splits: Sequence[str]) -> int:
    """Images of the splits that could not be read."""
    path = run / folder.QUARANTINE_FILE
    if not path.is_file():
        return 0
    frame, _ = io.read_parquet(path)
    return int((frame["split"].isin(splits) | (not splits)).sum())


def _check_some(is_labelled: npt.NDArray[np.bool_], *, where: str) -> None:
    if not is_labelled.any():
        raise InputError(
            where,
            f"no label for any of the {len(is_labelled):,} images of the split",
            expected="labels",
            todo="Fill the column `label`, or pass an overlay with --labels.",
        )


def _of_splits(predictions: Predictions, splits: Sequence[str]) -> Predictions:
    """The rows of the splits; all where the run names none."""
    return predictions.rows(predictions.frame["split"].isin(splits).to_numpy()) if splits else predictions


def calibration_rows(found: Judged) -> tuple[Predictions, npt.NDArray[np.int64]] | None:
    """The labelled rows of the calibration split with their labels; None where it is what is judged."""
    if not found.splits or CALIBRATION in found.splits:
        return None
    rows = _of_splits(found.all_predictions, [CALIBRATION])
    of_rows = found.manifest.loc[rows.frame["image_id"]]
    codes, is_labelled = label_codes(of_rows, rows.class_names, where=str(found.manifest_path))
    return rows.rows(is_labelled), codes[is_labelled]
