"""Floors: how large is the calibration error of a perfectly calibrated model on so few images?

Errors of the ECE family add up absolute gaps, so chance alone makes them positive: a perfect model
shows an ECE of .14 on 50 images and .009 on 15,561. A bootstrap interval around such a number never
covers a calibrated model's 0; what belongs beside it is the band a perfect model would show.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.metrics.arrays import BLOCK_CELLS, Floats, Labels, Probs, check_labels_and_probs, ratio
from ddeval.metrics.binning import (
    Measure,
    classwise_bins,
    confidence_and_correct,
    equal_mass_measure,
    equal_width_measure,
    maximum_measure,
)
from ddeval.metrics.deferral import intraclass_correlation
from ddeval.metrics.smoothing import smooth_measure

N_BINS = 15

TOP_CLASS: dict[str, Callable[[Floats], Measure]] = {
    "ece": equal_width_measure,
    "ece_equal_mass": equal_mass_measure,
    "mce": maximum_measure,
    "smooth_ece": smooth_measure,
}

FLOORED = (*TOP_CLASS, "classwise_ece")


class Drawn(NamedTuple):
    """Labels (B, N), and 1.0 where the top class is the label (B, N)."""

    labels: npt.NDArray[np.int64]
    correct: Floats


def calibration_floor(
    labels: Labels,
    pred_probs: Probs,
    *,
    rng: np.random.Generator,
    groups: npt.NDArray[Any] | None = None,
    metrics: Sequence[str] = FLOORED,
    n_simulations: int = 1000,
) -> pd.DataFrame:
    """Each calibration error beside the band it has when the stated probabilities are true.

    Labels are drawn from `pred_probs` again and again and the errors computed against them. With
    `groups`, the photographs of one patient are right or wrong together as often as they are here:
    their draws share one random number with a probability set by the correlation of the residuals
    within a group. The labels keep their stated probabilities either way. Without groups every image
    counts as independent, and the band is too narrow where patients have several.

    Parameters
    ----------
    groups : array of shape (N,), optional
        Patient of each image.
    metrics : names out of `FLOORED`
        `smooth_ece` takes as long as all others together.
    n_simulations : int

    Returns
    -------
    DataFrame with a row for each of `metrics`
        `metric`, `value`, `floor_low`, `floor_mean`, `floor_high` (5th percentile, mean and 95th of the
        perfect model), `p_value` (share of simulations at or above `value`, counting itself; small:
        not calibrated), `n_images`, `n_groups`, `correlation` (within groups). NaN without images.

    Raises
    ------
    ValueError
        As `ddeval.metrics.calibration.reliability_table`; for a metric that is not in `FLOORED`.

    References
    ----------
    Vaicenavicius et al. (2019), Evaluating model calibration in classification, arXiv:1902.06977
    (consistency resampling).
    """
    unknown = [name for name in metrics if name not in FLOORED]
    if unknown:
        raise ValueError(f"metric {unknown[0]!r} is not one of {', '.join(FLOORED)}")
    labels, pred_probs = check_labels_and_probs(labels, pred_probs)
    n_images = len(labels)
    group_of = _numbered(groups, n_images)
    confidence, correct = confidence_and_correct(labels, pred_probs)
    correlation = intraclass_correlation(correct - confidence, group_of) if n_images else np.nan
    measures = {
        name: _against(TOP_CLASS[name](confidence), confidence)
        if name in TOP_CLASS
        else _classwise(pred_probs)
        for name in metrics
    }

    observed = {name: float(of(Drawn(labels[None], correct[None]))[0]) for name, of in measures.items()}
    chance: dict[str, list[Floats]] = {name: [] for name in measures}
    is_drawn = n_images > 0 and n_simulations > 0
    draws = _draws(pred_probs, group_of, correlation, n_simulations, rng) if is_drawn else ()
    for drawn in draws:
        for name, of in measures.items():
            chance[name].append(of(drawn))
    n_groups = int(group_of.max()) + 1 if n_images else 0
    return pd.DataFrame(
        [
            {"metric": name, "value": value}
            | _band(value, np.concatenate(chance[name]) if chance[name] else np.empty(0))
            | {"n_images": n_images, "n_groups": n_groups, "correlation": correlation}
            for name, value in observed.items()
        ]
    )


def _against(measure: Measure, confidence: Floats) -> Callable[[Drawn], Floats]:
    mass = np.ones((1, len(confidence)))
    return lambda drawn: measure(drawn.correct - confidence, mass)


def _classwise(pred_probs: Probs) -> Callable[[Drawn], Floats]:
    n_images, n_classes = pred_probs.shape
    bins = classwise_bins(pred_probs, N_BINS)
    n_cells = n_classes * N_BINS
    stated = np.bincount(bins.ravel(), weights=pred_probs.ravel(), minlength=n_cells)

    def measure(drawn: Drawn) -> Floats:
        b = len(drawn.labels)
        cell = bins[np.arange(n_images), drawn.labels] + n_cells * np.arange(b)[:, None]
        counts = np.bincount(cell.ravel(), minlength=n_cells * b).reshape(b, n_cells)
        return ratio(np.abs(counts - stated).sum(axis=1), np.full(b, n_classes * n_images))

    return measure


def _draws(
    pred_probs: Probs,
    group_of: npt.NDArray[np.int64],
    correlation: float,
    n_simulations: int,
    rng: np.random.Generator,
) -> Iterator[Drawn]:
    """Labels of a perfectly calibrated model, and whether its answers are right, a block at a time.

    Classes are laid along [0, 1) most probable first and a uniform number picks one, so images that
    share a number are right or wrong together.
    """
    n_images, n_classes = pred_probs.shape
    order = np.argsort(-pred_probs, axis=1, kind="stable")
    ordered = np.take_along_axis(pred_probs, order, axis=1)
    ends = (np.cumsum(ordered, axis=1) / ordered.sum(axis=1, keepdims=True)).T
    is_decided = ordered[:, 0] > ordered[:, 1] if n_classes > 1 else np.ones(n_images, dtype=bool)
    step = max(1, BLOCK_CELLS // n_images)
    for start in range(0, n_simulations, step):
        b = min(step, n_simulations - start)
        uniform = rng.random((b, n_images))
        if correlation:
            shared = rng.random((b, group_of.max() + 1))[:, group_of]
            uniform = np.where(rng.random((b, n_images)) < np.sqrt(correlation), shared, uniform)
        place = np.zeros((b, n_images), dtype=np.int64)
        for end in ends[:-1]:
            place += uniform >= end
        drawn = order[np.arange(n_images), place]
        yield Drawn(drawn, ((place == 0) & is_decided).astype(np.float64))


def _band(value: float, chance: Floats) -> dict[str, float]:
    if not len(chance):
        return dict.fromkeys(("floor_low", "floor_mean", "floor_high", "p_value"), np.nan)
    low, high = np.quantile(chance, [0.05, 0.95])
    return {
        "floor_low": float(low),
        "floor_mean": float(chance.mean()),
        "floor_high": float(high),
        "p_value": (1 + int((chance >= value - 1e-12).sum())) / (1 + len(chance)),
    }


def _numbered(groups: npt.NDArray[Any] | None, n_images: int) -> npt.NDArray[np.int64]:
    if groups is None:
        return np.arange(n_images)
    if np.shape(groups) != (n_images,):
        raise ValueError(f"groups must have shape ({n_images},), got {np.shape(groups)}")
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)
