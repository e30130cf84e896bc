"""Decisions: what does a patient with something malignant get from this model, and at what price?

Malignant or not is a fact about a **row** (its diagnosis, so a melanoma inside `other` counts) and about a
**class** (what the model can say). The first is the truth here, `is_malignant` (N,); the second, with the
probabilities, gives the score `malignant_probability` or the answer `is_flagged`. Which diagnosis is
malignant stands in conditions.yaml and is not read here; any other group (urgent) takes the same functions.

A row is referred where its score is at or above the threshold, rows of one score together. A metric is
NaN where the rows it is about are missing. `*_draws` twins take weights (B, N) and return (B,).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.metrics.arrays import (
    Floats,
    Probs,
    Weights,
    blocks,
    check_probs,
    check_weights,
    ratio,
    weighted_means,
    weighted_sums,
)
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


def sensitivity_at_specificity(
    is_malignant: Mask, score: Floats, *, specificity: float = 0.9, weights: Weights | None = None
) -> float:
    """Share of malignant rows referred by the most generous threshold that keeps `specificity`; 1 is best.

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
    weights : float array of shape (N,), optional

    Raises
    ------
    ValueError
        If shapes disagree, a score is NaN, or `specificity` is outside 0 to 1.

    Examples
    --------
    One benign row of four may be referred: the one at .8, and with it the malignant ones above .5.

    >>> truth = np.array([1, 0, 1, 0, 1, 0, 0], dtype=bool)
    >>> score = np.array([0.9, 0.8, 0.7, 0.5, 0.4, 0.2, 0.1])
    >>> sensitivity_at_specificity(truth, score, specificity=0.75)
    0.6666666666666666
    """
    truth, score, weights = _checked(is_malignant, score, weights)
    return float(sensitivity_at_specificity_draws(truth, score, weights, specificity=specificity)[0])


def sensitivity_at_specificity_draws(
    is_malignant: Mask, score: Floats, weights: Weights, *, specificity: float = 0.9
) -> Floats:
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


def missed_per_1000(
    is_malignant: Mask, is_referred: Mask, *, prevalence: float, weights: Weights | None = None
) -> float:
    """Malignant cases not referred among 1,000 patients of whom `prevalence` are malignant; 0 is best.

    1,000 x prevalence x (1 - sensitivity): the share of malignant rows in a test split is a choice of
    its makers, so the prevalence where the model will serve is stated. `is_referred` is any rule: the
    answer (`is_flagged`), a threshold, a deferral, or one of them. NaN without a malignant row.

    Parameters
    ----------
    is_malignant, is_referred : bool arrays of shape (N,)
    prevalence : float in [0, 1]

    Raises
    ------
    ValueError
        If shapes disagree or `prevalence` is outside 0 to 1.

    Examples
    --------
    >>> missed_per_1000(np.array([True, True, False]), np.array([True, False, False]), prevalence=0.02)
    10.0
    """
    truth, referred, weights = _checked(is_malignant, is_referred, weights)
    return float(missed_per_1000_draws(truth, referred, weights, prevalence=prevalence)[0])


def missed_per_1000_draws(
    is_malignant: Mask, is_referred: Mask, weights: Weights, *, prevalence: float
) -> Floats:
    _check_share("prevalence", prevalence)
    return 1000 * prevalence * _share(is_malignant, is_malignant & ~is_referred.astype(bool), weights)


def net_benefit(
    is_malignant: Mask, score: Floats, *, threshold: float, weights: Weights | None = None
) -> float:
    """Malignant rows referred per row, less benign ones at the price the threshold names; high is good.

    TP / N - FP / N x t / (1 - t) for referral from probability t up: who refers from 10 % on holds nine
    needless referrals for one find to be worth it. At most the share of malignant rows; referring nobody
    is 0. `score` is a probability. NaN without rows.

    Parameters
    ----------
    threshold : float in (0, 1)

    References
    ----------
    Vickers and Elkin (2006), Decision curve analysis, Medical Decision Making 26(6).

    Examples
    --------
    >>> net_benefit(np.array([True, False, False, False]), np.array([0.9, 0.6, 0.1, 0.1]), threshold=0.2)
    0.1875
    """
    truth, score, weights = _checked(is_malignant, score, weights)
    return float(net_benefit_draws(truth, score, weights, threshold=threshold)[0])


def net_benefit_draws(is_malignant: Mask, score: Floats, weights: Weights, *, threshold: float) -> Floats:
    return net_benefit_curve_draws(is_malignant, score, weights, thresholds=[threshold])[:, 0]


def net_benefit_curve(
    is_malignant: Mask, score: Floats, *, thresholds: Sequence[float], weights: Weights | None = None
) -> pd.DataFrame:
    """`net_benefit` at each threshold beside referring everybody; referring nobody is 0 throughout.

    Columns `threshold`, `net_benefit`, `refer_all`, `n_referred`. Arguments and errors as there.
    """
    truth, score, weights = _checked(is_malignant, score, weights)
    at = np.asarray(thresholds, dtype=np.float64)
    everybody = np.full_like(score, np.inf)
    return pd.DataFrame(
        {
            "threshold": at,
            "net_benefit": net_benefit_curve_draws(truth, score, weights, thresholds=thresholds)[0],
            "refer_all": net_benefit_curve_draws(truth, everybody, weights, thresholds=thresholds)[0],
            "n_referred": weighted_sums(weights, (score[:, None] >= at).astype(np.float64))[0],
        }
    )


def net_benefit_curve_draws(
    is_malignant: Mask, score: Floats, weights: Weights, *, thresholds: Sequence[float]
) -> Floats:
    """Net benefit of each draw at each threshold, (B, T): subtract two models' for a paired difference."""
    at = np.asarray(thresholds, dtype=np.float64)
    if not ((at > 0) & (at < 1)).all():
        raise ValueError(f"thresholds must lie between 0 and 1, got {at.tolist()}")
    worth = np.where(is_malignant[:, None], 1.0, -at / (1 - at))
    gains = np.where(score[:, None] >= at, worth, 0.0)
    total = weights.sum(axis=1, dtype=np.float64)[:, None]
    return ratio(weighted_sums(weights, gains), np.broadcast_to(total, (len(total), len(at))))


def expected_cost(
    truth: npt.NDArray[np.integer[Any]],
    action: npt.NDArray[np.integer[Any]],
    costs: Floats,
    *,
    weights: Weights | None = None,
) -> float:
    """Mean cost of doing `action` where `truth` holds, in the unit of `costs`; low is good. NaN without rows.

    Parameters
    ----------
    truth : int array of shape (N,)
        Row of `costs` of each image: its group by diagnosis, or its class.
    action : int array of shape (N,)
        Column of `costs`: what the model's answer leads to; deferring is an action with a cost too.
    costs : float array of shape (G, A)

    Raises
    ------
    ValueError
        If shapes disagree, an index is outside `costs`, or a cost is not finite.

    Examples
    --------
    A missed malignancy costs 100, a needless referral 1.

    >>> costs = np.array([[0.0, 100.0], [1.0, 0.0]])
    >>> expected_cost(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), costs)
    25.25
    """
    truth, action, weights = _checked(truth, action, weights)
    costs = np.asarray(costs, dtype=np.float64)
    if costs.ndim != 2 or not np.isfinite(costs).all():
        raise ValueError(f"costs must be finite and of shape (G, A), got shape {costs.shape}")
    for name, index, n in (("truth", truth, costs.shape[0]), ("action", action, costs.shape[1])):
        if len(index) and not (index.min() >= 0 and index.max() < n):
            raise ValueError(
                f"{name} must lie in 0..{n - 1} for costs of shape {costs.shape}, "
                f"got {index.min()} to {index.max()}"
            )
    return float(expected_cost_draws(truth, action, weights, costs=costs)[0])


def expected_cost_draws(
    truth: npt.NDArray[np.integer[Any]],
    action: npt.NDArray[np.integer[Any]],
    weights: Weights,
    *,
    costs: Floats,
) -> Floats:
    return weighted_means(weights, costs[truth, action])


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


def harm_table(
    is_malignant: Mask,
    flagged: Mask,
    is_deferred: Mask,
    *,
    prevalence: float,
    weights: Weights | None = None,
) -> pd.DataFrame:
    """What happens to the malignant rows: found, deferred to a person, or missed; shares add up to 1.

    A deferred row is deferred whatever the model would have said. Rows `right`, `deferred`, `missed`;
    columns `outcome`, `n_images` (or weight), `share` of the malignant rows, `per_1000` patients at
    `prevalence`. NaN shares without a malignant row.
    """
    truth, said, weights = _checked(is_malignant, flagged, weights)
    _, deferred, _ = _checked(is_malignant, is_deferred, None)
    _check_share("prevalence", prevalence)
    shares = harm_draws(truth, said, deferred, weights)
    table = pd.DataFrame({"outcome": list(shares), "share": [share[0] for share in shares.values()]})
    table.insert(1, "n_images", table["share"].fillna(0.0) * weights[0, truth].sum())
    return table.assign(per_1000=1000 * prevalence * table["share"])


def harm_draws(is_malignant: Mask, flagged: Mask, is_deferred: Mask, weights: Weights) -> dict[str, Floats]:
    """Shares of the malignant rows by outcome, each (B,)."""
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


def _checked(first: Any, second: Any, weights: Weights | None) -> tuple[Any, Any, Weights]:
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"two arrays of shape (N,) are needed, got {first.shape} and {second.shape}")
    if np.issubdtype(second.dtype, np.floating) and np.isnan(second).any():
        raise ValueError(f"score has NaN in row {int(np.flatnonzero(np.isnan(second))[0])}")
    return first, second, check_weights(weights, n_images=len(first))


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")
