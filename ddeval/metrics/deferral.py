"""Deferral: which images should the model hand over, by what score, below what threshold?

The threshold is chosen on a calibration split for a target risk and judged on another one; the choice
is safe for a finite number of images: it tests thresholds instead of reading the best off the curve.
The curve itself is in `ddeval.metrics.selective`, whose words (coverage, risk, answered) are used here.

`correct` (N,) says whether each answer is right, `confidence` (N,) is the score that ranks them, high
is sure, finite. `groups` (N,) is the patient of each image: photographs of one patient fail together.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, logsumexp, xlogy

from ddeval.metrics.arrays import Floats, Weights, ratio, softmax

ANSWER_ALL = -float(np.finfo(np.float64).max)
ANSWER_NONE = float(np.finfo(np.float64).max)
"""Thresholds that answer everything and nothing: finite, because JSON has no infinity."""

N_CANDIDATES = 100
"""Thresholds looked at, at even steps of coverage: a finer grid gains less than a point of coverage."""


class OperatingPoint(NamedTuple):
    """A threshold and what it does to a set of images."""

    threshold: float
    """Answer at or above it."""
    coverage: float
    """Share of the images answered."""
    risk: float
    """Share wrong among the answered; NaN when nothing is answered."""
    risk_upper: float
    """Upper bound on the risk beyond these images; NaN when nothing is answered."""
    n_answered: int
    n_wrong: int
    n_images: int
    n_groups: int
    design_effect: float
    """How many images it takes to know what one independent image tells; 1 without groups."""


def choose_threshold(
    correct: npt.NDArray[Any],
    confidence: Floats,
    *,
    risk: float = 0.05,
    confidence_level: float = 0.95,
    groups: npt.NDArray[Any] | None = None,
) -> OperatingPoint:
    """The lowest threshold whose risk is shown to be at most `risk`, on a calibration split.

    **Guarantee.** For independent images of the population that will be served, the true risk at the
    returned threshold exceeds `risk` with probability at most 1 - `confidence_level`, for any model and
    any number of images. Thresholds are tested from sure to unsure by an exact binomial test and the
    walk ends at the first that fails (fixed-sequence testing); it sets out from two places that depend
    on no answer, each with half of 1 - `confidence_level`. With `groups` the counts are divided by
    a design effect estimated from the errors (Korn and Graubard), never below 1: the guarantee is then
    approximate. Where nothing can be shown the threshold is `ANSWER_NONE`: for a risk of 5 % that is
    always so below 59 images.

    Parameters
    ----------
    risk : float in (0, 1)
        Target: share wrong among the answered.
    confidence_level : float in (0, 1)

    Returns
    -------
    OperatingPoint
        On the calibration images themselves; `risk_upper` is the bound that was tested, at most `risk`.

    Raises
    ------
    ValueError
        If shapes disagree, a confidence is not finite, or a share is outside (0, 1).

    References
    ----------
    Angelopoulos et al. (2021), Learn then test, arXiv:2110.01052; Korn and Graubard (1998),
    Confidence intervals for proportions with small expected number of positive counts.

    Examples
    --------
    >>> confidence = np.linspace(1.0, 0.5, 400)
    >>> point = choose_threshold(confidence > 0.6, confidence)
    >>> point.n_answered, point.n_wrong, round(point.risk_upper, 4)
    (326, 6, 0.0396)
    """
    correct, confidence, group_of = _check(correct, confidence, groups)
    _check_share("risk", risk)
    _check_share("confidence_level", confidence_level)
    starts = _starts(group_of, risk, confidence_level)
    level = (1 - confidence_level) / len(starts)
    icc = intraclass_correlation(~correct, group_of)
    lowest = ANSWER_NONE
    points = [
        _point(correct, confidence, group_of, threshold=t, level=level, icc=icc)
        for t in _candidates(confidence)
    ]
    for start in starts:
        for point in points:
            if point.n_answered >= start:
                if not point.risk_upper <= risk:
                    break
                lowest = min(lowest, point.threshold)
    return _point(correct, confidence, group_of, threshold=lowest, level=level, icc=icc)


def operating_point(
    correct: npt.NDArray[Any],
    confidence: Floats,
    *,
    threshold: float,
    confidence_level: float = 0.95,
    groups: npt.NDArray[Any] | None = None,
) -> OperatingPoint:
    """What a threshold chosen elsewhere does here: coverage, risk and its one-sided upper bound.

    The bound is Clopper and Pearson's, with `groups` after division by the design effect. Arguments and
    errors as in `choose_threshold`.

    Examples
    --------
    >>> point = operating_point(np.array([1, 1, 0, 1]), np.array([0.9, 0.8, 0.7, 0.2]), threshold=0.7)
    >>> point.coverage, round(point.risk, 4), round(point.risk_upper, 4)
    (0.75, 0.3333, 0.8646)
    """
    correct, confidence, group_of = _check(correct, confidence, groups)
    _check_share("confidence_level", confidence_level)
    icc = intraclass_correlation(~correct, group_of)
    level = 1 - confidence_level
    return _point(correct, confidence, group_of, threshold=threshold, level=level, icc=icc)


def answered_draws(
    is_right: npt.NDArray[np.bool_], is_answered: npt.NDArray[np.bool_]
) -> Callable[[Weights], dict[str, Floats]]:
    """`answered` (share of the images) and `answered_wrong` (share of the answers), of weights (B, N).

    The latter is NaN in draws without an answer.

    Examples
    --------
    >>> found = answered_draws(np.array([True, False, True]), np.array([True, True, False]))(np.ones((1, 3)))
    >>> {name: float(values[0].round(3)) for name, values in found.items()}
    {'answered': 0.667, 'answered_wrong': 0.5}
    """
    answered = is_answered.astype(np.float64)
    wrong = (is_answered & ~is_right).astype(np.float64)

    def measure(weights: Weights) -> dict[str, Floats]:
        n_answered = weights @ answered
        return {
            "answered": ratio(n_answered, weights.sum(axis=1)),
            "answered_wrong": ratio(weights @ wrong, n_answered),
        }

    return measure


def score_rules(
    logits: npt.NDArray[np.floating[Any]], *, other_class: int | None = None
) -> dict[str, Floats]:
    """Every score an image can be deferred by, each (N,), high is sure.

    `max_probability`; `margin` (first less second probability); `entropy` (its negative, in nats);
    `energy` (log of the sum of exponents: not blind to the size of the logits); with an `other` class
    `other_probability` (1 less the probability of `other`).
    """
    logits = np.asarray(logits, dtype=np.float64)
    probs = softmax(logits)
    two_best = np.sort(probs, axis=1)[:, -2:]
    rules = {
        "max_probability": probs.max(axis=1),
        "margin": two_best[:, -1] - two_best[:, 0],
        "entropy": xlogy(probs, probs).sum(axis=1),
        "energy": logsumexp(logits, axis=1),
    }
    if other_class is not None:
        rules["other_probability"] = 1.0 - probs[:, other_class]
    return rules


def intraclass_correlation(values: npt.NDArray[Any], group_of: npt.NDArray[np.integer[Any]]) -> float:
    """Likeness of `values` (N,) within a group numbered 0 to G - 1, 0 (none) to 1; estimated by ANOVA.

    0 where every group has one image; 1, the cautious end, where all values are equal and nothing can
    be learnt about it.
    """
    values = np.asarray(values, dtype=np.float64)
    sizes = np.bincount(group_of)
    n_values, n_groups = len(values), len(sizes)
    if n_groups == n_values:
        return 0.0
    if n_groups == 1 or np.ptp(values) == 0:
        return 1.0
    means = np.bincount(group_of, weights=values) / sizes
    between = float(sizes @ np.square(means - values.mean())) / (n_groups - 1)
    within = float(np.square(values - means[group_of]).sum()) / (n_values - n_groups)
    size = (n_values - np.square(sizes).sum() / n_values) / (n_groups - 1)
    return float(np.clip((between - within) / (between + (size - 1) * within), 0.0, 1.0))


def _starts(group_of: npt.NDArray[np.int64], risk: float, confidence_level: float) -> list[int]:
    """Images answered where the walks set out: twice what shows the risk without an error, and further on.

    Counted as if a patient's photographs were one image; nothing here looks at an answer.
    """
    n_images = len(group_of)
    per_patient = np.square(np.bincount(group_of)).sum() / max(n_images, 1)
    fewest = np.ceil(np.log1p(-confidence_level) / np.log1p(-risk))
    first = int(2 * fewest * per_patient)
    return [first, int(np.sqrt(first * n_images))] if n_images > first else [n_images]


def _candidates(confidence: Floats) -> list[float]:
    """Thresholds from sure to unsure, picked by the confidences alone.

    Each lies just above an image's confidence: given that value, the images above it are a plain sample
    of what will be answered, which is what the binomial test needs.
    """
    if not len(confidence):
        return []
    downwards = np.sort(confidence)[::-1]
    ranks = np.unique(np.linspace(1, len(downwards) - 1, N_CANDIDATES).astype(np.int64))
    just_above = np.nextafter(downwards[ranks[ranks < len(downwards)]], np.inf)
    return [*np.unique(just_above)[::-1].tolist(), ANSWER_ALL]


def _point(
    correct: npt.NDArray[np.bool_],
    confidence: Floats,
    group_of: npt.NDArray[np.int64],
    *,
    threshold: float,
    level: float,
    icc: float,
) -> OperatingPoint:
    is_answered = confidence >= threshold
    n_answered, n_wrong = int(is_answered.sum()), int((is_answered & ~correct).sum())
    effect = 1.0 if n_answered else np.nan
    if icc and n_answered:
        effect += (np.square(np.bincount(group_of[is_answered])).sum() / n_answered - 1.0) * icc
    return OperatingPoint(
        threshold=float(threshold),
        coverage=n_answered / len(correct) if len(correct) else np.nan,
        risk=n_wrong / n_answered if n_answered else np.nan,
        risk_upper=_upper_bound(n_wrong / effect, n_answered / effect, level) if n_answered else np.nan,
        n_answered=n_answered,
        n_wrong=n_wrong,
        n_images=len(correct),
        n_groups=int(group_of.max(initial=-1)) + 1,
        design_effect=float(effect),
    )


def _upper_bound(n_wrong: float, n_answered: float, level: float) -> float:
    """Clopper and Pearson's upper bound on a share; the counts need not be whole."""
    if n_wrong >= n_answered:
        return 1.0
    return float(betaincinv(n_wrong + 1, n_answered - n_wrong, 1 - level))


def _check(
    correct: npt.NDArray[Any], confidence: Floats, groups: npt.NDArray[Any] | None
) -> tuple[npt.NDArray[np.bool_], Floats, npt.NDArray[np.int64]]:
    correct, confidence = np.asarray(correct), np.asarray(confidence, dtype=np.float64)
    groups = np.arange(len(correct)) if groups is None else np.asarray(groups)
    if not correct.shape == confidence.shape == groups.shape == (len(correct),):
        raise ValueError(
            "correct, confidence and groups must have shape (N,), "
            f"got {correct.shape}, {confidence.shape} and {groups.shape}"
        )
    if not np.isfinite(confidence).all():
        row = int(np.flatnonzero(~np.isfinite(confidence))[0])
        raise ValueError(f"confidence must be finite; row {row} has {confidence[row]}")
    if not np.isin(correct, (0, 1)).all():
        raise ValueError("correct must be True or False (1 or 0)")
    return correct.astype(bool), confidence, np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _check_share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}")
