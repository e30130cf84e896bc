"""Calibration: does a stated confidence of 80 % come true 80 % of the time?

`reliability_table` holds the numbers of the reliability diagram and `ece` and `mce` are read off the
same bins, so a printed value and its figure cannot disagree. `smooth_ece` has its own module
(`ddeval.metrics.smoothing`), and so has the floor that every error of the ECE family needs beside it
(`ddeval.metrics.floors`): they are biased upwards, a perfect model of 50 images shows an ECE of .14.
Putting a model right is not here but in `ddeval.metrics.recalibration`.

`labels, pred_probs` throughout are the given class of each image, 0 to K-1, shape (N,), and
probabilities of shape (N, K) whose rows sum to 1; `weights` (N,) counts each image, 1 where None.
A `*_draws` twin takes `weights` of shape (B, N), a bootstrap draw a row, and returns shape (B,); it
trusts what the public form checks. An image is right where its label alone has the highest probability.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from ddeval.metrics.arrays import (
    PROB_FLOOR,
    Floats,
    Labels,
    Probs,
    Weights,
    checked,
    ratio,
    weighted_means,
    weighted_sums,
)
from ddeval.metrics.binning import (
    classwise_bins,
    confidence_and_correct,
    equal_mass_measure,
    equal_width_bins,
    equal_width_measure,
    maximum_measure,
    measured,
    one_hot,
)
from ddeval.metrics.resampling import (
    CONFIDENCE_LEVEL,
    N_RESAMPLES,
    Estimate,
    group_codes,
    group_weights,
)
from ddeval.metrics.scaling import fit_temperature

__all__ = [
    "brier_score",
    "calibration_gap",
    "classwise_ece",
    "ece",
    "ece_equal_mass",
    "ece_interval",
    "fit_temperature",
    "mce",
    "nll",
    "reliability_table",
]


def reliability_table(
    labels: Labels, pred_probs: Probs, *, n_bins: int = 15, weights: Weights | None = None
) -> pd.DataFrame:
    """Accuracy against confidence of the top class, one row per bin of confidence.

    Bins have equal width and are closed on the right: [0, 1/B], (1/B, 2/B], ..., ((B-1)/B, 1]; a
    probability that rounding carried past 1 is in the last. An empty bin keeps its row, with n = 0
    and NaN elsewhere, so tables of two models line up bin by bin. A tie at the top counts as wrong.

    Parameters
    ----------
    labels, pred_probs, weights
        As in `ddeval.metrics.top_k_accuracy`.
    n_bins : int
        Number of bins B.

    Returns
    -------
    DataFrame with B rows
        `low`, `high` (edges), `n` (images, or their weight), `confidence` (mean top probability) and
        `accuracy` (share of images whose top class is their label), all in [0, 1] but `n`.

    Raises
    ------
    ValueError
        If shapes disagree, a label is outside 0 to K-1, or a row does not sum to 1.

    References
    ----------
    Guo et al. (2017), On Calibration of Modern Neural Networks, arXiv:1706.04599.

    Examples
    --------
    >>> probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> reliability_table(np.array([0, 0, 0]), probs, n_bins=2)
       low  high  n  confidence  accuracy
    0  0.0   0.5  0         NaN       NaN
    1  0.5   1.0  3    0.766667  0.666667
    """
    is_counted = weights is not None
    labels, pred_probs, weights = checked(labels, pred_probs, weights)
    confidence, correct = confidence_and_correct(labels, pred_probs)
    in_bin = one_hot(equal_width_bins(confidence, n_bins), n_bins)
    n = (weights @ in_bin)[0]
    with np.errstate(invalid="ignore"):  # 0/0 in an empty bin is NaN, and NaN is the answer
        mean_confidence = ((weights * confidence) @ in_bin)[0] / n
        accuracy = ((weights * correct) @ in_bin)[0] / n
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "n": n if is_counted else n.astype(np.int64),
            "confidence": mean_confidence,
            "accuracy": accuracy,
        }
    )


def ece(labels: Labels, pred_probs: Probs, *, n_bins: int = 15, weights: Weights | None = None) -> float:
    """Expected calibration error of the top class, in [0, 1]; 0 is best.

    The mean over images of |accuracy - confidence| of the image's bin. Bins, arguments and errors as
    in `reliability_table`; NaN when there are no images. Biased upwards when bins hold few images:
    read it beside `ddeval.metrics.floors.calibration_floor`.
    """
    return _one(ece_draws, labels, pred_probs, weights, n_bins=n_bins)


def ece_draws(labels: Labels, pred_probs: Probs, weights: Weights, *, n_bins: int = 15) -> Floats:
    return measured(equal_width_measure, labels, pred_probs, weights, n_bins=n_bins)


def mce(labels: Labels, pred_probs: Probs, *, n_bins: int = 15, weights: Weights | None = None) -> float:
    """Maximum calibration error of the top class, in [0, 1]; 0 is best.

    The largest |accuracy - confidence| of a bin that holds an image, however few: one image can make
    it. Bins, arguments and errors as in `reliability_table`; NaN when there are no images.
    """
    return _one(mce_draws, labels, pred_probs, weights, n_bins=n_bins)


def mce_draws(labels: Labels, pred_probs: Probs, weights: Weights, *, n_bins: int = 15) -> Floats:
    return measured(maximum_measure, labels, pred_probs, weights, n_bins=n_bins)


def ece_interval(
    labels: Labels,
    pred_probs: Probs,
    *,
    groups: npt.NDArray[Any],
    rng: np.random.Generator,
    n_bins: int = 15,
    n_resamples: int = N_RESAMPLES,
    confidence_level: float = CONFIDENCE_LEVEL,
) -> Estimate:
    """`ece` with an interval that holds for a calibrated model too, and is too wide rather than too short.

    For a yes or no (a gate), where the band of `ddeval.metrics.floors` does not do. The error is a sum of
    absolute gaps over bins, so it lies no further from the true one than the sum of the absolute errors of
    the gaps; how large that sum gets by chance is what the resamples show. The low end is not below 0.

    Arguments and errors as in `ece` and `ddeval.metrics.resampling.bootstrap`; NaN without images.
    """
    labels, pred_probs, _ = checked(labels, pred_probs, None)
    if not len(labels):
        return Estimate(np.nan, np.nan, np.nan, 0, 0, 0)
    confidence, correct = confidence_and_correct(labels, pred_probs)
    bins = one_hot(equal_width_bins(confidence, n_bins), n_bins)  # (N, B)
    columns = np.column_stack([bins * (correct - confidence)[:, None], np.ones(len(labels))])
    gaps = columns[:, :-1].mean(axis=0)
    group_of, n_groups = group_codes(groups)
    drawn = []
    for weights in group_weights(group_of, n_groups, rng=rng, n_resamples=n_resamples):
        sums = weighted_sums(weights, columns)
        drawn.append(np.abs(sums[:, :-1] / sums[:, -1:] - gaps).sum(axis=1))
    reach = float(np.quantile(np.concatenate(drawn), confidence_level))
    value = float(np.abs(gaps).sum())
    return Estimate(value, max(value - reach, 0.0), value + reach, len(labels), n_groups, 0)


def ece_equal_mass(
    labels: Labels, pred_probs: Probs, *, n_bins: int = 15, weights: Weights | None = None
) -> float:
    """Expected calibration error over bins that hold equally many images, in [0, 1]; 0 is best.

    Images are ranked by confidence and cut into `n_bins` parts of exactly N / n_bins images; an image
    or a run of equal confidences on a cut is shared between the parts in proportion, so the value
    does not depend on the order of rows. Arguments and errors as in `reliability_table`; NaN when
    there are no images.

    References
    ----------
    Nixon et al. (2019), Measuring Calibration in Deep Learning, arXiv:1904.01685.
    """
    return _one(ece_equal_mass_draws, labels, pred_probs, weights, n_bins=n_bins)


def ece_equal_mass_draws(labels: Labels, pred_probs: Probs, weights: Weights, *, n_bins: int = 15) -> Floats:
    return measured(equal_mass_measure, labels, pred_probs, weights, n_bins=n_bins)


def classwise_ece(
    labels: Labels, pred_probs: Probs, *, n_bins: int = 15, weights: Weights | None = None
) -> float:
    """Calibration error of every class's probability, averaged over the K classes, in [0, 1]; 0 is best.

    For class k the bins of `reliability_table` are laid over p_k of all images, and the share of
    images labelled k is compared with the mean p_k of the bin. A class without images counts: stating
    .2 for what never happens is an error. Arguments and errors as in `reliability_table`; NaN when
    there are no images.

    References
    ----------
    Kull et al. (2019), Beyond temperature scaling, arXiv:1910.12656.
    """
    return _one(classwise_ece_draws, labels, pred_probs, weights, n_bins=n_bins)


def classwise_ece_draws(labels: Labels, pred_probs: Probs, weights: Weights, *, n_bins: int = 15) -> Floats:
    n_images, n_classes = pred_probs.shape
    residuals = -pred_probs
    residuals[np.arange(n_images), labels] += 1.0
    columns = classwise_bins(pred_probs, n_bins).ravel()
    rows = np.repeat(np.arange(n_images), n_classes)
    by_bin = sparse.csr_array((residuals.ravel(), (rows, columns)), shape=(n_images, n_classes * n_bins))
    total = n_classes * weights.sum(axis=1, dtype=np.float64)
    return ratio(np.abs(weighted_sums(weights, by_bin)).sum(axis=1), total)


def nll(labels: Labels, pred_probs: Probs, *, weights: Weights | None = None) -> float:
    """Mean negative log-likelihood of the label in nats, 0 (best) to 34.54.

    Probabilities are clipped at 1e-15 for the logarithm: a label that was given 0 costs 34.54, and one
    such image in 1,000 adds .035. Arguments and errors as in `reliability_table`; NaN when there are
    no images.

    Examples
    --------
    >>> round(nll(np.array([0, 1]), np.array([[0.5, 0.5], [0.75, 0.25]])), 6)  # (ln 2 + ln 4) / 2
    1.039721
    """
    return _one(nll_draws, labels, pred_probs, weights)


def nll_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> Floats:
    return weighted_means(weights, log_losses(labels, pred_probs))


def brier_score(labels: Labels, pred_probs: Probs, *, weights: Weights | None = None) -> float:
    """Mean squared distance of the probabilities from the label, 0 (best) to 2.

    Summed over the K classes as Brier (1950) has it; for two classes this is twice what
    `sklearn.metrics.brier_score_loss` gives. Arguments and errors as in `reliability_table`; NaN when
    there are no images.

    Examples
    --------
    >>> brier_score(np.array([0]), np.array([[0.5, 0.25, 0.25]]))  # .25 + .0625 + .0625
    0.375
    """
    return _one(brier_score_draws, labels, pred_probs, weights)


def brier_score_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> Floats:
    return weighted_means(weights, brier_losses(labels, pred_probs))


def calibration_gap(labels: Labels, pred_probs: Probs, *, weights: Weights | None = None) -> float:
    """Mean confidence of the top class minus accuracy, -1 to 1: above 0 is overconfident, 0 is best.

    Unlike the ECE family it is unbiased, so it is the one that carries an interval; over- and
    underconfidence of different images cancel in it. NaN when there are no images.
    """
    return _one(calibration_gap_draws, labels, pred_probs, weights)


def calibration_gap_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> Floats:
    confidence, correct = confidence_and_correct(labels, pred_probs)
    return weighted_means(weights, confidence - correct)


def log_losses(labels: Labels, pred_probs: Probs) -> Floats:
    """-ln p(label) of each image, p clipped at 1e-15."""
    losses: Floats = -np.log(np.clip(pred_probs[np.arange(len(labels)), labels], PROB_FLOOR, None))
    return losses


def brier_losses(labels: Labels, pred_probs: Probs) -> Floats:
    """Squared distance of each image's probabilities from its one-hot label."""
    errors = pred_probs.copy()
    errors[np.arange(len(labels)), labels] -= 1.0
    losses: Floats = np.square(errors).sum(axis=1)
    return losses


def _one(
    draws: Callable[..., Floats],
    labels: Labels,
    pred_probs: Probs,
    weights: Weights | None,
    **options: int,
) -> float:
    return float(draws(*checked(labels, pred_probs, weights), **options)[0])
