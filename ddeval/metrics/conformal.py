"""Conformal sets: a list of diagnoses that holds the label in, say, 90 % of cases, for any model.

A threshold is read off a calibration split and gives sets on another one; without such a split, off the
patients of the other folds (`fold_sets`). What is promised is the share
of all cases, not of each class or each patient group: `sets_table` shows the groups, and an empty
set (LAC makes them) means defer. With n calibration images the coverage on endless new ones is itself
random, Beta(n + 1 - l, l) with l = floor((n + 1)(1 - coverage)): at n = 5,000 and 90 % its standard
deviation is .0042. The promise needs independent images; photographs of one patient count as fewer.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.metrics.arrays import Floats, Labels, Probs, Weights, check_labels_and_probs, check_probs, ratio
from ddeval.metrics.resampling import group_codes, group_weights, weighed
from ddeval.metrics.shares import stated_interval

Sets = npt.NDArray[np.bool_]
Method = Literal["LAC", "APS"]
METHODS: tuple[Method, ...] = ("LAC", "APS")


def lac_threshold(labels: Labels, pred_probs: Probs, *, coverage: float = 0.9) -> float:
    """Lowest probability a class needs to be in the set: least ambiguous sets (LAC), small on average.

    The probability of the label is ranked over the calibration images; the threshold is the one that
    ceil((n + 1) coverage) of them reach. 0, every class always, where n is too small for `coverage`
    (below 9 at 90 %, below 19 at 95 %).

    Parameters
    ----------
    labels, pred_probs : arrays of shape (N,) and (N, K)
        The calibration split, as in `ddeval.metrics.calibration`.
    coverage : float in (0, 1)
        Share of cases whose label shall be in the set.

    Raises
    ------
    ValueError
        If shapes disagree, a label is outside 0 to K-1, a row does not sum to 1, or `coverage` is not
        between 0 and 1.

    References
    ----------
    Sadinle, Lei and Wasserman (2019), Least ambiguous set-valued classifiers, arXiv:1609.00451.

    Examples
    --------
    >>> p = np.arange(1, 10) / 10
    >>> lac_threshold(np.zeros(9, dtype=int), np.column_stack([p, 1 - p]), coverage=0.8)
    0.2
    """
    labels, pred_probs = check_labels_and_probs(labels, pred_probs)
    own = pred_probs[np.arange(len(labels)), labels]
    return max(0.0, -_quantile(-own, coverage))


def lac_sets(pred_probs: Probs, threshold: float) -> Sets:
    """Classes with a probability of at least `threshold`, (N, K); a row may be empty."""
    pred_probs = np.asarray(pred_probs, dtype=np.float64)
    check_probs(pred_probs)
    sets: Sets = pred_probs >= threshold
    return sets


def aps_threshold(
    labels: Labels, pred_probs: Probs, *, rng: np.random.Generator, coverage: float = 0.9
) -> float:
    """Probability mass a set is filled up to: adaptive prediction sets (APS), larger for hard images.

    The score of an image is the mass of the classes more probable than the label plus a uniform share
    of the label's own; without that share sets would be too large. 1, every class always, where n is
    too small. Arguments and errors as in `lac_threshold`.

    References
    ----------
    Romano, Sesia and Candes (2020), Classification with valid and adaptive coverage, arXiv:2006.02544.
    """
    labels, pred_probs = check_labels_and_probs(labels, pred_probs)
    scores = _masses(pred_probs, rng)[np.arange(len(labels)), labels]
    return min(1.0, _quantile(scores, coverage))


def aps_sets(pred_probs: Probs, threshold: float, *, rng: np.random.Generator) -> Sets:
    """Classes, most probable first, whose mass so far stays within `threshold`, (N, K).

    The last one goes in by a draw from `rng`, as in the calibration; a row may be empty.
    """
    pred_probs = np.asarray(pred_probs, dtype=np.float64)
    check_probs(pred_probs)
    if threshold >= 1.0:
        return np.ones(pred_probs.shape, dtype=bool)
    sets: Sets = _masses(pred_probs, rng) <= threshold
    return sets


def split_sets(
    fit_labels: Labels,
    fit_probs: Probs,
    pred_probs: Probs,
    *,
    method: Method,
    rng: np.random.Generator,
    coverage: float = 0.9,
) -> Sets:
    """Sets (N, K) for `pred_probs` by the threshold of other images, `fit_labels`: split-conformal."""
    if method == "LAC":
        return lac_sets(pred_probs, lac_threshold(fit_labels, fit_probs, coverage=coverage))
    return aps_sets(pred_probs, aps_threshold(fit_labels, fit_probs, coverage=coverage, rng=rng), rng=rng)


def fold_sets(
    labels: Labels,
    pred_probs: Probs,
    *,
    method: Method,
    groups: npt.NDArray[Any],
    rng: np.random.Generator,
    coverage: float = 0.9,
    n_folds: int = 5,
) -> Sets:
    """Sets (N, K) of each image by the threshold of the images in other folds; no patient is on both sides.

    Groups are dealt at random to `n_folds` folds. Each fold is a split of its own, so the promise is that of
    `split_sets` with (n_folds - 1) / n_folds of the images. A ValueError for fewer groups than folds.
    """
    group_of, n_groups = group_codes(groups)
    if n_groups < n_folds:
        raise ValueError(f"sets over {n_folds} folds need as many groups, got {n_groups}")
    labels, pred_probs = check_labels_and_probs(labels, pred_probs)
    fold_of = (rng.permutation(n_groups) % n_folds)[group_of]
    sets = np.zeros(pred_probs.shape, dtype=bool)
    for fold in range(n_folds):
        own = fold_of == fold
        sets[own] = split_sets(
            labels[~own], pred_probs[~own], pred_probs[own], method=method, rng=rng, coverage=coverage
        )
    return sets


def sets_table(
    labels: Labels,
    sets: Sets,
    masks: Mapping[str, npt.NDArray[np.bool_]],
    *,
    groups: npt.NDArray[Any],
    rng: np.random.Generator,
    n_resamples: int,
) -> pd.DataFrame:
    """What the sets do in each group of images, with an interval over patients; one row a mask.

    Columns `images` (the mask's name), `coverage` (share whose label is in the set), `ci_low`, `ci_high`,
    `mean_size`, `share_single`, `share_empty`, `n_images`, `n_groups`. The interval is that of other patients
    at these thresholds; the chance in the calibration images is not in it. NaN where a mask has no image.

    Parameters
    ----------
    masks : mapping of name to bool array of shape (N,)
        Such as all images, and those of each risk group.
    """
    labels, sets = np.asarray(labels), np.asarray(sets)
    group_of, n_groups = group_codes(groups)
    members = np.column_stack(list(masks.values())).astype(np.float64)  # (N, M)
    hits = sets[np.arange(len(labels)), labels][:, None] * members

    def covered(weights: Weights) -> Floats:
        return ratio(weights @ hits, weights @ members)

    value = covered(np.ones((1, len(labels))))[0]
    draws = weighed(covered, group_weights(group_of, n_groups, rng=rng, n_resamples=n_resamples))
    n_groups_of = np.array([len(np.unique(group_of[mask])) for mask in masks.values()])
    n_images = members.sum(axis=0)
    low, high, _ = stated_interval(value, np.concatenate(list(draws)), share_of=n_groups_of)
    sizes = sets.sum(axis=1)
    facts = np.column_stack([sizes, sizes == 1, sizes == 0]).astype(np.float64)
    means = ratio(members.T @ facts, n_images[:, None])
    return pd.DataFrame(
        {
            "images": list(masks),
            "coverage": value,
            "ci_low": low,
            "ci_high": high,
            "mean_size": means[:, 0],
            "share_single": means[:, 1],
            "share_empty": means[:, 2],
            "n_images": n_images.astype(np.int64),
            "n_groups": n_groups_of,
        }
    )


def _quantile(scores: Floats, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest score; infinity where there are not so many."""
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage must lie between 0 and 1, got {coverage}")
    rank = int(np.ceil((len(scores) + 1) * coverage * (1 - 1e-12)))  # 10 * .9 is not to become 10
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else np.inf


def _masses(pred_probs: Probs, rng: np.random.Generator) -> Floats:
    """Mass of the classes before each class, most probable first, plus one uniform share of its own."""
    order = np.argsort(-pred_probs, axis=1, kind="stable")
    ordered = np.take_along_axis(pred_probs, order, axis=1)
    ordered = np.cumsum(ordered, axis=1) - ordered * rng.random((len(pred_probs), 1))
    masses = np.empty_like(pred_probs)
    np.put_along_axis(masses, order, ordered, axis=1)
    return masses
