"""Recalibration: how much of the loss goes away when confidence is put right, and which way does it best?

A loss is split into what recalibration removes (**calibration**) and what stays (**refinement**). The
recalibrated probabilities never come from the rows they are judged on: they are fitted on a split kept
for it or, where there is none, crosswise over folds of patients, and the result says which. The fits of
our own are in `ddeval.metrics.scaling`; netcal's are asked beside them in one table.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.metrics.arrays import Floats, Labels, Probs, softmax, top_class
from ddeval.metrics.calibration import brier_losses, brier_score, ece, log_losses, nll
from ddeval.metrics.scaling import Logits, fit_temperature, fit_vector_scaling, temperature_scaled

NETCAL = {
    "histogram binning": ("netcal.binning", "HistogramBinning"),
    "isotonic regression": ("netcal.binning", "IsotonicRegression"),
    "BBQ": ("netcal.binning", "BBQ"),
    "beta calibration": ("netcal.scaling", "BetaCalibration"),
    "logistic calibration": ("netcal.scaling", "LogisticCalibration"),
    "temperature (netcal)": ("netcal.scaling", "TemperatureScaling"),
}
"""Row of the table -> module and class of netcal."""

CALIBRATORS = ("none", "temperature", "vector", *NETCAL)


class Recalibrated(NamedTuple):
    """Probabilities after temperature scaling, and where the temperature came from."""

    pred_probs: Probs
    temperatures: Floats
    """One, or one a fold."""
    basis: str
    """For the page: what the temperature was fitted on."""


def recalibrate(
    logits: Logits, *, fit_labels: Labels, fit_logits: Logits, basis: str = "calibration split"
) -> Recalibrated:
    """Probabilities of `logits` at the temperature that suits other rows, those of `fit_labels`."""
    temperature = fit_temperature(fit_logits, fit_labels)
    return Recalibrated(temperature_scaled(logits, temperature), np.array([temperature]), basis)


def cross_fit(
    labels: Labels,
    logits: Logits,
    *,
    groups: npt.NDArray[Any],
    rng: np.random.Generator,
    n_folds: int = 5,
) -> Recalibrated:
    """Probabilities of every row at the temperature that suits the rows of other groups.

    Groups are dealt at random to `n_folds` folds; each fold is scaled by what the others fit.

    Parameters
    ----------
    groups : array of shape (N,)
        Patient of each row; a patient is never on both sides.

    Raises
    ------
    ValueError
        If there are fewer groups than folds, or as `ddeval.metrics.scaling.fit_temperature`.
    """
    labels = np.asarray(labels)
    _, group_of = np.unique(groups, return_inverse=True)
    n_groups = int(group_of.max(initial=-1)) + 1
    if n_groups < n_folds:
        raise ValueError(f"cross-fitting over {n_folds} folds needs as many groups, got {n_groups}")
    fold_of = (rng.permutation(n_groups) % n_folds)[group_of]
    pred_probs = np.empty(np.shape(logits))
    temperatures = np.empty(n_folds)
    for fold in range(n_folds):
        held_out = fold_of == fold
        temperatures[fold] = fit_temperature(logits[~held_out], labels[~held_out])
        pred_probs[held_out] = temperature_scaled(logits[held_out], temperatures[fold])
    return Recalibrated(pred_probs, temperatures, f"cross-fitted over {n_folds} folds of groups")


def loss_parts(labels: Labels, pred_probs: Probs, recalibrated: Probs) -> dict[str, Floats]:
    """`nll` and `brier_score` of each image in two parts: what recalibration removes, and what stays; (N,).

    `<loss>_refinement` is the loss of `recalibrated` (of `cross_fit` or `recalibrate`),
    `<loss>_calibration` the loss of `pred_probs` less that: above 0 there is something to gain; a little
    below, the fit cost more than it brought. The two add up to the loss.

    References
    ----------
    Berta et al. (2025), Rethinking early stopping: refine, then calibrate, arXiv:2501.19195.
    """
    parts: dict[str, Floats] = {}
    for name, losses in (("nll", log_losses), ("brier_score", brier_losses)):
        stays = losses(labels, recalibrated)
        parts[f"{name}_calibration"] = losses(labels, pred_probs) - stays
        parts[f"{name}_refinement"] = stays
    return parts


def calibrators_table(
    fit_labels: Labels,
    fit_logits: Logits,
    test_labels: Labels,
    test_logits: Logits,
    *,
    calibrators: Sequence[str] = CALIBRATORS,
) -> pd.DataFrame:
    """Ways to recalibrate, fitted on one split and judged on another, one row each in the order given.

    `none`, `temperature` and `vector` are ours; the others are netcal's and are always called in
    float64 (in float32 its scaling methods return their input unchanged, or worse). A method that
    fails, or a netcal that is not installed, keeps its row with NaN and says why in `note`.

    Parameters
    ----------
    fit_labels, fit_logits : arrays of shape (M,) and (M, K)
        The calibration split.
    test_labels, test_logits : arrays of shape (N,) and (N, K)
    calibrators : names out of `CALIBRATORS`
        Beta calibration and BBQ take longest: 17 and 4 s for 5,000 rows of 10 classes.

    Returns
    -------
    DataFrame
        `calibrator`, `nll`, `brier_score`, `ece`, `top_1_accuracy` (on test; binning makes ties, which
        count as wrong), `n_fit`, `n_test`, `note`.

    Raises
    ------
    ValueError
        For a calibrator that is not in `CALIBRATORS`, or as `ddeval.metrics.scaling.fit_temperature`.
    """
    unknown = [name for name in calibrators if name not in CALIBRATORS]
    if unknown:
        raise ValueError(f"calibrator {unknown[0]!r} is not one of {', '.join(CALIBRATORS)}")
    rows = []
    for name in calibrators:
        row: dict[str, Any] = {"calibrator": name}
        try:
            pred_probs = _fitted(name, fit_labels, fit_logits)(test_logits)
            row |= _judged(test_labels, pred_probs) | {"note": ""}
        except Exception as error:
            if name not in NETCAL:
                raise
            row |= dict.fromkeys(("nll", "brier_score", "ece", "top_1_accuracy"), np.nan)
            row["note"] = f"{type(error).__name__}: {error}".split("\n")[0]
        rows.append(row | {"n_fit": len(fit_labels), "n_test": len(test_labels)})
    columns = ["calibrator", "nll", "brier_score", "ece", "top_1_accuracy", "n_fit", "n_test", "note"]
    return pd.DataFrame(rows, columns=columns)


def _fitted(name: str, labels: Labels, logits: Logits) -> Callable[[Logits], Probs]:
    if name == "none":
        return softmax
    if name == "temperature":
        temperature = fit_temperature(logits, labels)
        return lambda test: temperature_scaled(test, temperature)
    if name == "vector":
        return fit_vector_scaling(labels, logits).probs
    return _netcal(name, labels, logits)


def _netcal(name: str, labels: Labels, logits: Logits) -> Callable[[Logits], Probs]:
    import importlib  # here, because netcal loads torch

    module, class_name = NETCAL[name]
    with _silence():
        calibrator = getattr(importlib.import_module(module), class_name)()
        calibrator.fit(softmax(logits), np.asarray(labels))

    def transform(test: Logits) -> Probs:
        with _silence():
            pred_probs: Probs = np.asarray(calibrator.transform(softmax(test)), dtype=np.float64)
        return pred_probs

    return transform


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """netcal prints warnings and progress bars, and standard output may be somebody's JSON."""
    nowhere = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        yield


def _judged(labels: Labels, pred_probs: Probs) -> dict[str, float]:
    return {
        "nll": nll(labels, pred_probs),
        "brier_score": brier_score(labels, pred_probs),
        "ece": ece(labels, pred_probs),
        "top_1_accuracy": float(np.mean(top_class(labels, pred_probs) == labels)),
    }
