"""Measures: every metric of one reading that has an interval, as one function of weights.

What is counted or sorted once (confusion matrix, rankings, losses) is made when the function is made; a
block of resamples then costs sums. `ddeval.metrics.summary` calls it for one run, `ddeval.metrics.paired`
for several on the same draws.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ddeval.metrics import calibration
from ddeval.metrics.arrays import Floats, Labels, Probs, Weights, cell_sums, ratio, top_class
from ddeval.metrics.binning import confidence_and_correct
from ddeval.metrics.discrimination import Confusion, area_summaries, class_rates, label_ranks
from ddeval.metrics.ranking import Rankings
from ddeval.metrics.readings import Reading
from ddeval.metrics.selective import selective_draws

Numbers = dict[str, Floats]
"""Metric -> its value in each draw, (B,), or in each draw and class, (B, K)."""

TOP_K = (1, 3, 5)

COUNTED_OVER = {
    "other_sensitivity": "labelled",
    "other_ppv": "predicted",
    "target_right": "not labelled",
    "target_wrong": "not labelled",
    "target_deferred": "not labelled",
    "sensitivity": "labelled",
    "ppv": "predicted",
    "f1": "labelled",
    "auroc": "labelled",
    "average_precision": "labelled",
    "share_ratio": "labelled",
    "specificity": "not labelled",
    "npv": "not predicted",
}
"""Rows a class's number is over, which its n_images counts (of `other` for the first five); else all."""

OF_OTHER = (
    "other_auroc", "other_sensitivity", "other_ppv", "target_right", "target_wrong", "target_deferred",
)  # fmt: skip
"""Numbers of the open set that say so without `open_`."""

SHARES = {
    *("top_1_accuracy", "top_3_accuracy", "top_5_accuracy", "sensitivity", "specificity", "ppv", "npv"),
    *("other_sensitivity", "other_ppv", "target_right", "target_wrong", "target_deferred"),
}
"""Numbers that are a share of rows: their intervals are those of `ddeval.metrics.shares`."""


def measure_of(reading: Reading) -> Callable[[Weights], Numbers]:
    """Every metric of a reading that has an interval, as one function of weights (B, rows)."""
    labels, pred_probs = reading.labels, reading.pred_probs
    table, rankings = Confusion.of(labels, pred_probs), Rankings.of(labels, pred_probs)
    means = _means(labels, pred_probs)
    columns = sparse.csr_array(np.stack(list(means.values())))
    detector = None
    if reading.other is not None:
        detector = Rankings.of_classes([(labels == reading.other, pred_probs[:, reading.other])])

    def measure(weights: Weights) -> Numbers:
        counts = table.counts(weights)
        auroc, average_precision = rankings.areas(weights)
        scalars = dict(zip(means, ratio(cell_sums(columns, weights), weights.sum(axis=1)), strict=True))
        scalars |= table.summaries(counts)
        scalars |= selective_draws(labels, pred_probs, weights)
        scalars |= area_summaries(rankings, auroc, average_precision, counts.sum(axis=2))
        by_class = class_rates(counts) | {"auroc": auroc, "average_precision": average_precision}
        numbers = {reading.prefix + name: values for name, values in (scalars | by_class).items()}
        if detector is not None and reading.other is not None:
            numbers |= {
                "other_auroc": detector.areas(weights)[0][:, 0],
                **_outcomes(counts, reading.other),
            }
        return numbers

    return measure


def rows_counted(
    reading: Reading, group_of: npt.NDArray[np.intp]
) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Rows and groups of each class that are labelled so, predicted so, and not; and of all, (K,) each."""
    n_classes = len(reading.class_names)
    group_of_row = group_of[reading.image_of]
    rows_of_group = np.bincount(group_of_row)
    n_rows, n_groups = len(group_of_row), np.count_nonzero(rows_of_group)
    predicted = top_class(reading.labels, reading.pred_probs)
    counted = {"all": (np.full(n_classes, n_rows), np.full(n_classes, n_groups))}
    for name, class_of in (("labelled", reading.labels), ("predicted", predicted)):
        pairs, rows_of_pair = np.unique(group_of_row * n_classes + class_of, return_counts=True)
        group_of_pair, class_of_pair = np.divmod(pairs, n_classes)
        is_pure = rows_of_pair == rows_of_group[group_of_pair]  # the group has no row of another class
        rows = np.bincount(class_of, minlength=n_classes)
        groups = np.bincount(class_of_pair, minlength=n_classes)
        pure = np.bincount(class_of_pair[is_pure], minlength=n_classes)
        counted |= {name: (rows, groups), f"not {name}": (n_rows - rows, n_groups - pure)}
    return counted


def _outcomes(counts: Floats, other: int) -> Numbers:
    """What becomes of targets and of `other`, from open confusion matrices (B, K, K).

    An image labelled with a target is right, wrong (another target) or deferred (`other`); these are
    shares of such images. One labelled `other` should be deferred.
    """
    is_other = counts[:, other, other]
    n_other, n_deferred = counts[:, other].sum(axis=1), counts[:, :, other].sum(axis=1)
    n_target = counts.sum(axis=(1, 2)) - n_other
    right = np.trace(counts, axis1=1, axis2=2) - is_other
    deferred = n_deferred - is_other
    return {
        "other_sensitivity": ratio(is_other, n_other),
        "other_ppv": ratio(is_other, n_deferred),
        "target_right": ratio(right, n_target),
        "target_wrong": ratio(n_target - right - deferred, n_target),
        "target_deferred": ratio(deferred, n_target),
    }


def _means(labels: Labels, pred_probs: Probs) -> dict[str, Floats]:
    """What each row adds to the metrics that are plain means over rows, (rows,) each."""
    ranks = label_ranks(labels, pred_probs)
    confidence, is_right = confidence_and_correct(labels, pred_probs)
    return {f"top_{k}_accuracy": (ranks < k).astype(np.float64) for k in TOP_K} | {
        "nll": calibration.log_losses(labels, pred_probs),
        "brier_score": calibration.brier_losses(labels, pred_probs),
        "calibration_gap": confidence - is_right,
    }
