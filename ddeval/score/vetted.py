"""Accuracy of a run against the vetted reference, estimated for the whole split from a designed sample.

The value is `ddeval.metrics.truth.estimate`'s over the verdicts of `ddeval.score.verdicts`. Beside it stand
the number on the labels as given and the one "corrected where vetted", which is biased and says so.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.data.manifest import with_cases
from ddeval.data.overlay import Overlay, read_overlay
from ddeval.errors import InputError
from ddeval.metrics.arrays import Floats, top_class
from ddeval.metrics.reader_error import ReaderError, consensus_error
from ddeval.metrics.readings import closed_set
from ddeval.metrics.truth import Estimate, Sample, estimate, joined
from ddeval.score.numbers import OVERLAYS, Judged, judged_rows
from ddeval.score.predictions import Predictions
from ddeval.score.verdicts import (
    NOT_READ,
    Answers,
    Batch,
    case_answers,
    case_verdicts,
    drawn_sample,
    given_labels,
    image_answers,
    nominated_alone,
    overlay_path,
)
from ddeval.tables import LOCKED


class Truth(NamedTuple):
    """What vetting says of one run."""

    result: dict[str, Any]
    """What `ddeval truth --json` prints."""
    table: pd.DataFrame
    """`case_verdicts`, by case_id."""
    sample: Sample
    """Cases that have been read, rows of `table`."""
    strata: npt.NDArray[np.object_]


def vetted_accuracy(
    run: Path,
    batches: Sequence[Batch],
    labels: str | None = None,
    *,
    manifest: Path | None = None,
    overlays: Path = OVERLAYS,
    confidence_level: float = 0.95,
) -> Truth:
    """Accuracy against the vetted reference with its interval: strict and lenient, per image and per case.

    Parameters
    ----------
    run : Path
        Run folder; need not be the run the cases were chosen by.
    batches : sequence of Batch
        The queues that were read, with the frames they were drawn from; one split.
    labels : str, optional
        Overlay; the last one frozen for the split where None.

    Raises
    ------
    InputError
        If nothing is frozen, the run lacks a case of the split, batches are of two splits, or cases were read
        that no queue of theirs holds.
    """
    plain = judged_rows(run, None, manifest=manifest)
    split = str(batches[0].cases.attrs.get("split") or (plain.splits or ["test"])[0])
    path = overlay_path(labels, split=split, folder=overlays)
    found = judged_rows(run, path, manifest=manifest, overlays=overlays)
    overlay = read_overlay(Path(str(found.overlay_path)))
    predictions = _of_split(found.all_predictions, overlay.split, where=str(run))
    _check_queues(batches, overlay)
    batches, n_gone = _still_there(batches, plain)
    table = case_verdicts(batches, overlay, given_labels(plain.manifest.reset_index(drop=True)))
    _check_predicted(predictions, table, where=str(run))

    drawn = [drawn_sample(batch, table) for batch in batches]
    strata = drawn[0][2]
    sample = joined([one for one, _, _ in drawn], [probability for _, probability, _ in drawn])
    error = _reader_error(table, sample)
    other = predictions.other_class
    estimates = {}
    for prefix, is_open in (("", False), ("open_", True)) if other else (("", False),):
        of_images = image_answers(predictions, table, is_open=is_open)
        of_cases = case_answers(predictions, table, is_open=is_open)
        for rule in ("strict", "lenient"):
            for unit, answers, sizes in (
                ("image", of_images, table["n_images"].to_numpy()),
                ("case", of_cases, None),
            ):
                estimates[f"{prefix}top_1_accuracy", rule, unit] = _estimate(
                    getattr(answers, rule),
                    answers,
                    strata,
                    sample,
                    table,
                    sizes=sizes,
                    error=error if rule == "strict" and error and np.isfinite(error.miss) else None,
                    level=confidence_level,
                )
    result = {
        "run": run.name,
        "labels": found.version,
        "split": overlay.split,
        "batches": [batch.where for batch in batches],
        "n_cases": len(table),
        "n_images": int(table["n_images"].sum()),
        "n_read": len(sample.index),
        **({"n_gone": n_gone} if n_gone else {}),
        "confidence_level": confidence_level,
        "reference": _reference(overlay, table, sample),
        "estimates": [
            {"metric": metric, "rule": rule, "unit": unit, **value}
            for (metric, rule, unit), value in estimates.items()
        ],
        "without_verdict": _without(table, strata, sample, confidence_level),
        "reader_error": error._asdict() if error else None,
        "as_given": _accuracy(plain, overlay.split),
        "corrected_where_vetted": _accuracy(found, overlay.split),
    }
    result["corrected_without_own_nominations"] = _without_own(plain, found, batches, run, overlay)
    return Truth(result, table, sample, strata)


def _of_split(predictions: Predictions, split: str, *, where: str) -> Predictions:
    is_of = predictions.frame["split"].isin([split]).to_numpy()
    if not is_of.any():
        raise InputError(
            where,
            f"no prediction of split {split!r}",
            expected="the split that was vetted",
            todo=f"Score it: ddeval score CHECKPOINT --split {split}.",
        )
    return predictions.rows(is_of)


def _check_queues(batches: Sequence[Batch], overlay: Overlay) -> None:
    """Readings of another queue are no sample of this one: an audit that was made again draws anew."""
    read = overlay.frame.loc[overlay.frame["rule"].isin(["agreed", "adjudicated", "open"]), "case_id"]
    held = {case for batch in batches for case in batch.items["case_id"]}
    strange = read[~read.isin(held)].drop_duplicates()
    if len(strange):
        raise InputError(
            ", ".join(batch.where for batch in batches),
            f"no case {strange.iloc[0]!r} in the queue, which was read ({len(strange):,} such)",
            expected="the audits whose queues were read, as they were when the batches were opened",
            todo="Pass each with --audit.",
        )


def _still_there(batches: Sequence[Batch], plain: Judged) -> tuple[list[Batch], int]:
    """The batches without cases that have left the manifest (a patient withdrew), and how many those are."""
    there = with_cases(plain.manifest)["case_id"]
    is_there = [batch.cases["case_id"].isin(there) for batch in batches]
    kept = [batch._replace(cases=batch.cases[held]) for batch, held in zip(batches, is_there, strict=True)]
    return kept, int((~is_there[0]).sum())


def _check_predicted(predictions: Predictions, table: pd.DataFrame, *, where: str) -> None:
    missing = table.index[~table.index.isin(predictions.frame["case_id"])]
    if len(missing):
        raise InputError(
            where,
            f"no prediction for case {missing[0]!r} ({len(missing):,} such)",
            expected="every case of the audited split",
            todo="Score the checkpoint on the same manifest and split.",
        )


def _reader_error(table: pd.DataFrame, sample: Sample) -> ReaderError | None:
    """Error of the consensus over the split; None without a double reading. Locked cases have none."""
    weights = 1 / sample.inclusion_probability
    rows = table.iloc[sample.index]
    differ, third = (rows[name].to_numpy(dtype=np.float64) for name in ("differ", "third"))
    error = consensus_error(differ, third=third, weights=weights)
    if error.n_pairs == 0:
        return None
    has_class = rows["labels"].notna().to_numpy()
    read = float(weights @ (has_class & (rows["stratum"] != LOCKED)) / (weights @ has_class))
    return error._replace(
        miss=error.miss * read, false_hit=error.false_hit * read, miss_se=error.miss_se * read
    )


def _estimate(
    right: Floats,
    answers: Answers,
    strata: npt.NDArray[np.object_],
    sample: Sample,
    table: pd.DataFrame,
    *,
    sizes: npt.NDArray[np.int64] | None,
    error: ReaderError | None,
    level: float,
) -> dict[str, float]:
    """`estimate` over cases whose verdict is a class that could be answered; bounds over those without one.

    A case whose verdict is outside (in a closed set, `other`) is no case of this number at all: it has its
    share in neither bound.
    """
    has_verdict = table["labels"].notna().to_numpy()
    is_outside = has_verdict & ~answers.is_inside
    judged = np.where(answers.is_inside, right, np.nan)
    value, plain = (
        estimate(
            judged,
            strata,
            sample,
            sizes=sizes,
            outside=is_outside,
            reader_error=known,
            confidence_level=level,
        )
        for known in (error, None)
    )
    in_bounds = np.where(is_outside, np.nan, (~has_verdict).astype(float))
    left = estimate(in_bounds, strata, sample, sizes=sizes, confidence_level=level).value
    n_inside = int(answers.is_inside[sample.index].sum())
    return {
        "value": value.value,
        "uncorrected": plain.value,
        "ci_low": value.ci_low,
        "ci_high": value.ci_high,
        "worst_case": value.value * (1 - left),
        "best_case": value.value * (1 - left) + left,
        "without_verdict": left,
        "n_vetted": n_inside,
        "std_error": value.std_error,
        "effective_n": value.effective_n,
    }


def _without(
    table: pd.DataFrame, strata: npt.NDArray[np.object_], sample: Sample, level: float
) -> dict[str, dict[str, float]]:
    """Share of the cases of each state that is no verdict, with its interval."""
    state = table["state"].where(table["labels"].isna(), "verdict")
    names = sorted(set(state.iloc[sample.index]) - {"verdict", NOT_READ})
    shares = {}
    for name in names:
        share: Estimate = estimate(
            (state == name).to_numpy(dtype=float), strata, sample, confidence_level=level
        )
        n = int((state.iloc[sample.index] == name).sum())
        shares[name] = {"value": share.value, "ci_low": share.ci_low, "ci_high": share.ci_high, "n_cases": n}
    return shares


def _reference(overlay: Overlay, table: pd.DataFrame, sample: Sample) -> dict[str, Any]:
    """Who read and by which rule: an accuracy against a reference names its reference."""
    rules = table["rule"].iloc[sample.index].value_counts()
    readers = sorted({str(code) for codes in overlay.frame["readers"] for code in codes})
    return {
        "readers": readers,
        "rules": {str(k): int(n) for k, n in rules.items()},
        "policy": str(overlay.metadata.get("policy", "")),
        "n_locked": int(table["stratum"].eq(LOCKED).sum()),
    }


def _accuracy(judged: Judged, split: str) -> float:
    """Closed-set top-1 over the images of the split that have a label under this version."""
    rows = judged.predictions.frame["split"].isin([split]).to_numpy()
    if not rows.any():
        return float("nan")
    predictions = judged.predictions
    _, labels, probs = closed_set(judged.labels[rows], predictions.pred_probs()[rows], predictions.other)
    return float((top_class(labels, probs) == labels).mean()) if len(labels) else float("nan")


def _without_own(
    plain: Judged, found: Judged, batches: Sequence[Batch], run: Path, overlay: Overlay
) -> float | None:
    """Corrected where vetted, without the cases that only this checkpoint nominated; None without any.

    A model that proposes which labels are checked has its own disagreements corrected and nobody else's.
    """
    name = str(found.facts["checkpoint"]["name"])
    own = {case for batch in batches for case in nominated_alone(batch.items, (name, run.name))}
    if not own:
        return None
    case_ids = found.predictions.frame["case_id"]
    before = plain.table()["label"]
    ids = found.predictions.frame["image_id"]
    kept = pd.Series(np.array(found.predictions.class_names, dtype=object)[found.labels], index=ids)
    is_own = case_ids.isin(own).to_numpy()
    restored = before.reindex(ids[is_own])
    kept.loc[ids[is_own]] = restored.to_numpy()
    codes = pd.Index(found.predictions.class_names).get_indexer(pd.Index(kept.to_numpy()))
    is_known = codes >= 0
    return _accuracy(
        found._replace(predictions=found.predictions.rows(is_known), labels=codes[is_known].astype(np.int64)),
        overlay.split,
    )
