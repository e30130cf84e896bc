"""Strata: which rows are alike in doubt, so that few verdicts say much about accuracy?

From the labels, the probabilities and nothing else: the chance that the model is right on each row, and
strata that each hold the same share of the doubt. They steer `ddeval.metrics.truth.design`; an estimate
never depends on whether the chances are right, only its width does.
"""

import numpy as np
import numpy.typing as npt

from ddeval.audit.ranking import own, recalibrated
from ddeval.metrics.arrays import Floats, Labels, Probs, check_labels_and_probs, top_class

N_STRATA = 12
CHANCE_FLOOR = 0.005
"""No row is surer than this: the sure half of a split would get no reader at all."""


def posterior(labels: Labels, pred_probs: Probs) -> Probs:
    """Chance of each class being the truth, (N, K), by Bayes from the model and the given label.

    The recalibrated probabilities are the prior; the given label is a vote that is right as often as they
    say labels are on average, and otherwise falls on the other classes as they would.
    """
    labels, pred_probs = check_labels_and_probs(labels, pred_probs)
    if not len(labels):
        return pred_probs
    prior = recalibrated(labels, pred_probs)
    label_error = float(np.clip(1.0 - own(prior, labels).mean(), 1e-3, 0.5))
    # a wrong vote for the given class, were the truth y: label_error * prior[given] / (1 - prior[y])
    given = np.maximum(own(prior, labels), 1e-12)[:, None]
    joint: Probs = prior * (label_error * given / np.maximum(1.0 - prior, 1e-12))
    joint[np.arange(len(labels)), labels] = own(prior, labels) * (1.0 - label_error)
    joint /= joint.sum(axis=1, keepdims=True)
    return joint


def expected_correct(labels: Labels, pred_probs: Probs) -> Floats:
    """Chance that the model's top class is the truth, (N,): its place in the `posterior`.

    Examples
    --------
    >>> probs = np.array([[0.9, 0.1], [0.6, 0.4]])
    >>> expected_correct(np.array([0, 0]), probs).round(2).tolist()  # the label agrees: surer than 0.9
    [0.96, 0.82]
    """
    labels = np.asarray(labels)
    return own(posterior(labels, pred_probs), top_class(labels, np.asarray(pred_probs, dtype=np.float64)))


def spread(expected: Floats) -> Floats:
    """Standard deviation of a row's verdict when it is right with chance `expected`."""
    chance = np.clip(expected, CHANCE_FLOOR, 1.0 - CHANCE_FLOOR)
    deviations: Floats = np.sqrt(chance * (1.0 - chance))
    return deviations


def strata_of(
    expected: npt.ArrayLike, is_agreed: npt.ArrayLike, *, n_strata: int = N_STRATA
) -> npt.NDArray[np.int64]:
    """Stratum of each row, 0 to at most n_strata - 1: rows of like chance, each stratum of like doubt.

    Rows on which model and label agree and those on which they differ never share a stratum. Inside
    either, rows are ordered by `expected` and cut where the sum of `spread` is even, so that an equal draw
    from each stratum is near the best (Dalenius and Hodges).

    Parameters
    ----------
    expected : float array of shape (N,)
        Chance that the row is right (`expected_correct`, or its mean over the images of a case).
    is_agreed : bool array of shape (N,)
        The model's top class is the given label (for a case: on all its images).

    References
    ----------
    Dalenius and Hodges (1959), Minimum Variance Stratification, JASA 54.

    Examples
    --------
    >>> strata_of([0.9, 0.99, 0.2, 0.5], [True, True, False, False], n_strata=4).tolist()
    [2, 2, 0, 1]
    """
    expected, is_agreed = np.asarray(expected, dtype=np.float64), np.asarray(is_agreed, dtype=bool)
    if n_strata < 2:
        raise ValueError(f"n_strata must be at least 2, got {n_strata}")
    doubt = spread(expected)
    strata = np.zeros(len(expected), dtype=np.int64)
    first = 0
    for part in (~is_agreed, is_agreed):
        if not part.any():
            continue
        share = doubt[part].sum() / doubt.sum()
        n_cuts = int(np.clip(round(n_strata * share), 1, n_strata - 1))
        order = np.argsort(expected[part], kind="stable")
        below = np.cumsum(doubt[part][order]) - doubt[part][order] / 2
        cut = np.empty(len(order), dtype=np.int64)
        cut[order] = np.minimum(below / doubt[part].sum() * n_cuts, n_cuts - 1).astype(np.int64)
        strata[part] = first + np.unique(cut, return_inverse=True)[1]
        first = int(strata[part].max()) + 1
    return strata
