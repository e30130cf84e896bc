"""What a temperature would do to a run's confidence, fitted on images it is not judged on.

The calibration split where the run has one, else crosswise over five folds of patients; the basis
stands with every number. All of it is over the targets (the closed set). The fits themselves are in
`ddeval.metrics.recalibration`.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.metrics.arrays import Floats, Labels, softmax
from ddeval.metrics.calibration import reliability_table
from ddeval.metrics.recalibration import (
    CALIBRATORS,
    Recalibrated,
    calibrators_table,
    cross_fit,
    loss_parts,
    recalibrate,
)
from ddeval.metrics.resampling import bootstrap
from ddeval.metrics.scaling import logits_of
from ddeval.score.predictions import Predictions

N_FOLDS = 5
QUICK = ("none", "temperature", "vector", "histogram binning", "isotonic regression", "temperature (netcal)")
"""Calibrators that take seconds; netcal's beta calibration takes minutes for 25 classes."""


Choice = Literal["quick", "all", "none"]
CHOICES: dict[Choice, tuple[str, ...]] = {"quick": QUICK, "all": CALIBRATORS, "none": ()}


class ClosedSet(NamedTuple):
    """Rows labelled with a target class, as the temperature sees them."""

    labels: Labels
    """(N,), among the targets."""
    logits: npt.NDArray[np.float64]
    """(N, K) without the column of `other`."""
    groups: npt.NDArray[Any]


class Recalibration(NamedTuple):
    """The numbers, curves and facts of recalibration, for `ddeval.score.evaluate` to write."""

    metrics: pd.DataFrame
    """METRICS rows: the calibration and refinement parts of each loss."""
    curves: dict[str, pd.DataFrame]
    """`reliability_after`, and `calibrators` where there is a calibration split."""
    facts: dict[str, Any]
    """`basis`, `temperatures`, `n_fit`."""


def closed_set_logits(predictions: Predictions, labels: Labels) -> ClosedSet:
    """The rows of `predictions` whose label (N,) is a target class."""
    has_logits = predictions.probs is None and predictions.link == "softmax"
    logits = predictions.logits.astype(np.float64) if has_logits else logits_of(predictions.pred_probs())
    groups = predictions.frame["group"].to_numpy()
    other = predictions.other
    if other is None:
        return ClosedSet(labels, logits, groups)
    rows = labels != other
    kept = labels[rows]
    return ClosedSet(kept - (kept > other), np.delete(logits[rows], other, axis=1), groups[rows])


def recalibration(
    judged: ClosedSet,
    fit: ClosedSet | None,
    *,
    run: str,
    calibrators: Choice,
    rng: np.random.Generator,
    n_resamples: int,
) -> Recalibration | None:
    """What recalibration removes of each loss, with intervals; None where there is too little to fit.

    Parameters
    ----------
    judged : ClosedSet
        The images the numbers are about.
    fit : ClosedSet or None
        The calibration split; None or empty means crosswise over groups of `judged`.
    calibrators : {"quick", "all", "none"}
        Which stand in the table of calibrators.
    """
    if fit is not None and len(fit.labels):
        scaled = recalibrate(judged.logits, fit_labels=fit.labels, fit_logits=fit.logits)
        n_fit = len(fit.labels)
    elif len(np.unique(judged.groups)) >= N_FOLDS:
        scaled = cross_fit(judged.labels, judged.logits, groups=judged.groups, rng=rng, n_folds=N_FOLDS)
        n_fit = len(judged.labels)
    else:
        return None
    if not len(judged.labels):
        return None
    curves = {"reliability_after": reliability_table(judged.labels, scaled.pred_probs)}
    if fit is not None and len(fit.labels) and CHOICES[calibrators]:
        curves["calibrators"] = calibrators_table(
            fit.labels, fit.logits, judged.labels, judged.logits, calibrators=CHOICES[calibrators]
        )
    metrics = _losses(judged, scaled, run=run, rng=rng, n_resamples=n_resamples)
    facts = {"basis": scaled.basis, "temperatures": scaled.temperatures.tolist(), "n_fit": n_fit}
    return Recalibration(metrics, curves, facts)


def _losses(
    judged: ClosedSet, scaled: Recalibrated, *, run: str, rng: np.random.Generator, n_resamples: int
) -> pd.DataFrame:
    """METRICS rows of the mean over images of each of `loss_parts`."""
    rows = []
    for metric, values in loss_parts(judged.labels, softmax(judged.logits), scaled.pred_probs).items():
        found = bootstrap(_mean, values, groups=judged.groups, rng=rng, n_resamples=n_resamples)
        row = {"run": run, "metric": metric, "subset": "all", "class_name": None}
        rows.append({**row, **found._asdict()})
    return pd.DataFrame(rows)


def _mean(values: Floats, *, weights: Floats | None = None) -> float:
    return float(np.average(values, weights=weights))
