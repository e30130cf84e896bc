"""Binning: where the residuals (correct - confidence) lie, and how far they are from summing to nothing.

A measure is prepared once from the confidences (bins, order, grid) and then judges any residuals at
those places: the real ones under every bootstrap draw, or those of a perfectly calibrated model
(`ddeval.metrics.floors`). So a value, its draws and its floor come from one body. The named errors
are in `ddeval.metrics.calibration` and `ddeval.metrics.smoothing`.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ddeval.metrics.arrays import Floats, Labels, Probs, Weights, blocks, ratio, top_class

Positions = npt.NDArray[np.intp]

Measure = Callable[[Floats, Floats], Floats]
"""Weighted residuals (B, N) and weights (B, N) or (1, N) -> error (B,); NaN where nothing weighs."""


def confidence_and_correct(labels: Labels, pred_probs: Probs) -> tuple[Floats, Floats]:
    """Highest probability of each image, and 1.0 where the image is right, else 0.0."""
    return pred_probs.max(axis=1), (top_class(labels, pred_probs) == labels).astype(np.float64)


def equal_width_bins(values: Floats, n_bins: int) -> npt.NDArray[np.int64]:
    """Number of the right-closed bin of each value, 0 to n_bins - 1."""
    if n_bins < 1:
        raise ValueError(f"n_bins must be 1 or more, got {n_bins}")
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    return np.clip(np.searchsorted(edges, values, side="left") - 1, 0, n_bins - 1)


def classwise_bins(pred_probs: Probs, n_bins: int) -> npt.NDArray[np.int64]:
    """Column of each cell (i, k) in a table of K times n_bins bins: class k's bin of p_k."""
    first = np.arange(pred_probs.shape[1]) * n_bins
    return equal_width_bins(pred_probs, n_bins) + first


def measured(
    prepare: Callable[..., Measure], labels: Labels, pred_probs: Probs, weights: Weights, **options: int
) -> Floats:
    """The measure `prepare` makes from the confidences, of the residuals under each row of weights."""
    confidence, correct = confidence_and_correct(labels, pred_probs)
    measure = prepare(confidence, **options)
    residuals = correct - confidence
    errors = np.empty(weights.shape[0])
    for rows, block in blocks(weights):
        errors[rows] = measure(block * residuals, block)
    return errors


def equal_width_measure(confidence: Floats, *, n_bins: int = 15) -> Measure:
    in_bin = one_hot(equal_width_bins(confidence, n_bins), n_bins)
    return lambda residuals, mass: ratio(np.abs(residuals @ in_bin).sum(axis=1), mass.sum(axis=1))


def maximum_measure(confidence: Floats, *, n_bins: int = 15) -> Measure:
    in_bin = one_hot(equal_width_bins(confidence, n_bins), n_bins)

    def measure(residuals: Floats, mass: Floats) -> Floats:
        gaps = ratio(np.abs(residuals @ in_bin), mass @ in_bin)
        largest = np.where(np.isnan(gaps), -1.0, gaps).max(axis=1)
        return np.where(largest < 0, np.nan, largest)

    return measure


def equal_mass_measure(confidence: Floats, *, n_bins: int = 15) -> Measure:
    if n_bins < 1:
        raise ValueError(f"n_bins must be 1 or more, got {n_bins}")
    order, starts = runs(confidence)
    parts = np.linspace(0.0, 1.0, n_bins + 1)

    def measure(residuals: Floats, mass: Floats) -> Floats:
        below = running_sums(residuals.T, order, starts)
        ranks = np.broadcast_to(running_sums(mass.T, order, starts), below.shape)
        at_cuts = np.stack([np.interp(parts * r[-1], r, b) for r, b in zip(ranks.T, below.T, strict=True)])
        return ratio(np.abs(np.diff(at_cuts, axis=1)).sum(axis=1), ranks[-1])

    return measure


def runs(values: Floats) -> tuple[Positions, Positions]:
    """Order (N,) that sorts `values` upwards, and where in it each run of equal values starts (U,)."""
    order = np.argsort(values, kind="stable")
    return order, np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)


def running_sums(columns: Floats, order: Positions, starts: Positions) -> Floats:
    """Sums (U + 1, B) of `columns` (N, B) down `order` to the end of each run; the first is 0."""
    sums = np.zeros((len(starts) + 1, columns.shape[1]))
    if len(starts):
        ordered = columns[order]
        in_runs = ordered if len(starts) == len(order) else np.add.reduceat(ordered, starts, axis=0)
        np.cumsum(in_runs, axis=0, out=sums[1:])
    return sums


def one_hot(bin_of: npt.NDArray[np.int64], n_bins: int) -> Floats:
    """1.0 where image i is in bin j: (N, n_bins)."""
    return np.equal(bin_of[:, None], np.arange(n_bins)).astype(np.float64)
