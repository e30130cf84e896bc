"""Decisions: what does a patient with something malignant get from this model, and at what price?

Malignant or not is a fact about a **row** (its diagnosis, so a melanoma inside `other` counts) and about a
**class** (what the model can say). The first is the truth here, `is_malignant` (N,); the second, with the
probabilities, gives the score `malignant_probability` or the answer `is_flagged`. Which diagnosis is
malignant stands in conditions.yaml and is not read here; any other group (urgent) takes the same functions.

A row is referred where its score is at or above the threshold, rows of one score together. What ends in
`_draws` takes weights (B, N), a draw a row, and is NaN in a draw where the rows it is about are missing; it
trusts its arrays. Cost, and what is missed per 1,000 patients, follow in `ddeval.metrics.stakes`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ddeval.metrics.arrays import Floats, Probs, Weights, blocks, check_probs, ratio, weighted_sums
from ddeval.metrics.binning import running_sums, runs

Mask = npt.NDArray[np.bool_]


def malignant_probability(pred_probs: Probs, is_malignant_class: Mask) -> Floats:
    """Probability of any malignant class, (N,): what a row is referred by."""
    pred_probs, columns = _classes(pred_probs, is_malignant_class)
    return np.asarray(pred_probs[:, columns].sum(axis=1))


def is_flagged(pred_probs: Probs, is_malignant_class: Mask) -> Mask:
    """True where the model's answer is a malignant class, (N,); a tie at the top counts as not."""
    pred_probs, columns = _classes(pred_probs, is_malignant_class)
    best = [np.max(pred_probs[:, c], axis=1, initial=-1.0) for c in (columns, ~columns)]
    return np.asarray(best[0] > best[1])


def sensitivity_at_specificity_draws(
    is_malignant: Mask, score: Floats, weights: Weights, *, specificity: float = 0.9
) -> Floats:
    """Malignant rows referred by the most generous threshold that keeps `specificity`, share (B,); 1 is best.

    Only thresholds that the scores can reach count, so a specificity of exactly .9 is met from above.
    The threshold is the best in hindsight on these rows. NaN without a malignant or without a benign row.

    Parameters
    ----------
    is_malignant : bool array of shape (N,)
        By the row's diagnosis.
    score : float array of shape (N,)
        High is malignant; no NaN.
    specificity : float in [0, 1]
        Least share of benign rows that are not referred.

    Raises
    ------
    ValueError
        If `specificity` is outside 0 to 1.

    Examples
    --------
    One benign row of four may be referred: the one at .8, and with it the malignant ones above .5.

    >>> truth = np.array([1, 0, 1, 0, 1, 0, 0], dtype=bool)
    >>> score = np.array([0.9, 0.8, 0.7, 0.5, 0.4, 0.2, 0.1])
    >>> sensitivity_at_specificity_draws(truth, score, np.ones((1, 7)), specificity=0.75).round(3).tolist()
    [0.667]
    """
    if not 0.0 <= specificity <= 1.0:
        raise ValueError(f"specificity must lie in [0, 1], got {specificity}")
    order, starts = runs(-score)
    malignant = is_malignant[:, None]
    values = np.empty(weights.shape[0])
    for rows, block in blocks(weights):
        columns = np.ascontiguousarray(block.T)
        found = running_sums(np.where(malignant, columns, 0.0), order, starts)  # (U + 1, b)
        alarms = running_sums(np.where(malignant, 0.0, columns), order, starts)
        allowed = (1 - specificity) * alarms[-1] * (1 + 1e-12)  # .1 of 30 is 2.9999999999999996
        best = np.where(alarms <= allowed, found, 0.0).max(axis=0)
        values[rows] = ratio(np.where(alarms[-1] > 0, best, np.nan), found[-1])
    return values


def net_benefit_curve_draws(
    is_malignant: Mask, score: Floats, weights: Weights, *, thresholds: Sequence[float]
) -> Floats:
    """Malignant rows referred per row, less benign ones at the price a threshold names, (B, T); high is good.

    TP / N - FP / N x t / (1 - t) for referral from probability t up: who refers from 10 % on holds nine
    needless referrals for one find to be worth it. At most the share of malignant rows; referring nobody
    is 0. `score` is a probability. Subtract two models' for a paired difference.

    Parameters
    ----------
    thresholds : sequence of T floats in (0, 1)

    References
    ----------
    Vickers and Elkin (2006), Decision curve analysis, Medical Decision Making 26(6).

    Examples
    --------
    >>> truth, score = np.array([True, False, False, False]), np.array([0.9, 0.6, 0.1, 0.1])
    >>> net_benefit_curve_draws(truth, score, np.ones((1, 4)), thresholds=[0.2]).tolist()
    [[0.1875]]
    """
    at = np.asarray(thresholds, dtype=np.float64)
    if not ((at > 0) & (at < 1)).all():
        raise ValueError(f"thresholds must lie between 0 and 1, got {at.tolist()}")
    worth = np.where(is_malignant[:, None], 1.0, -at / (1 - at))
    gains = np.where(score[:, None] >= at, worth, 0.0)
    total = weights.sum(axis=1, dtype=np.float64)[:, None]
    return ratio(weighted_sums(weights, gains), np.broadcast_to(total, (len(total), len(at))))


def confident_misses(
    is_malignant: Mask, pred_probs: Probs, is_malignant_class: Mask, *, min_confidence: float = 0.8
) -> Mask:
    """Malignant rows whose answer is a benign class stated with at least `min_confidence`, (N,).

    The rows nothing would catch: not flagged, and too sure to be deferred. Look at each one.
    """
    pred_probs, columns = _classes(pred_probs, is_malignant_class)
    if np.shape(is_malignant) != pred_probs.shape[:1]:
        raise ValueError(f"is_malignant must have shape {pred_probs.shape[:1]}, got {np.shape(is_malignant)}")
    is_sure = pred_probs.max(axis=1) >= min_confidence
    missed: Mask = np.asarray(is_malignant, dtype=bool) & is_sure
    missed &= ~is_flagged(pred_probs, columns)
    return missed


def harm_draws(is_malignant: Mask, flagged: Mask, is_deferred: Mask, weights: Weights) -> dict[str, Floats]:
    """What happens to the malignant rows: found, deferred to a person, or missed; shares of them, each (B,).

    A deferred row is deferred whatever the model would have said.
    """
    answered = is_malignant & ~is_deferred
    return {
        "right": _share(is_malignant, answered & flagged, weights),
        "deferred": _share(is_malignant, is_malignant & is_deferred, weights),
        "missed": _share(is_malignant, answered & ~flagged, weights),
    }


def _share(of: Mask, part: Mask, weights: Weights) -> Floats:
    """Weight of `part` over weight of `of`, (B,); NaN where there is none."""
    sums = weighted_sums(weights, np.column_stack([part, of]).astype(np.float64))
    return ratio(sums[:, 0], sums[:, 1])


def _classes(pred_probs: Probs, is_malignant_class: Mask) -> tuple[Probs, Mask]:
    pred_probs = np.asarray(pred_probs, dtype=np.float64)
    columns = np.asarray(is_malignant_class)
    if pred_probs.ndim != 2 or columns.shape != pred_probs.shape[1:] or columns.dtype != bool:
        raise ValueError(
            f"is_malignant_class must be bool, one a class of pred_probs {pred_probs.shape}, "
            f"got {columns.dtype} of shape {columns.shape}"
        )
    check_probs(pred_probs)
    return pred_probs, columns
