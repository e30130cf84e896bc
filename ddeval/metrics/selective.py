"""Selective prediction: if the model may defer, how wrong is it on what it answers?

`risk_coverage` holds the curve; `aurc`, `augrc`, `coverage_at_risk` are read off the same running sums.
The rule that goes into service is chosen in `ddeval.metrics.deferral`, on a calibration split: a
threshold picked on the images it is judged on looks better than it is.

An image is answered where its confidence is at or above the threshold; images of one confidence are
answered together, so no value depends on the order of rows. **Coverage** is the share answered, **risk**
the share wrong among the answered, **generalized risk** the share answered and wrong among all.
Confidence only ranks; it is the highest probability unless another of
`ddeval.metrics.deferral.score_rules` is given.
`labels`, `pred_probs`, `weights` and the `*_draws` twins are as in `ddeval.metrics.calibration`.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from scipy.special import xlogy

from ddeval.metrics.arrays import (
    Floats,
    Labels,
    Probs,
    Weights,
    blocks,
    check_labels_and_probs,
    check_weights,
    ratio,
)
from ddeval.metrics.binning import confidence_and_correct, running_sums, runs
from ddeval.metrics.deferral import choose_threshold, operating_point, score_rules

__all__ = [
    "augrc",
    "aurc",
    "choose_threshold",
    "coverage_at_risk",
    "eaurc",
    "failure_auroc",
    "operating_point",
    "risk_coverage",
    "score_rule_table",
    "score_rules",
    "selective_draws",
]

Curve = tuple[Floats, Floats]
"""Weight answered and weight answered wrongly, each (U + 1, B), from none down to the least sure of the
U distinct confidences."""

Read = Callable[[Curve], Floats]

TINY = 1e-300
"""Stands for 0 in a denominator whose numerator is 0."""


def risk_coverage(
    labels: Labels,
    pred_probs: Probs,
    *,
    confidence: Floats | None = None,
    weights: Weights | None = None,
    n_points: int | None = None,
) -> pd.DataFrame:
    """Risk against coverage, one row per distinct confidence, surest first; no rows without images.

    Parameters
    ----------
    labels, pred_probs, weights
        As in `ddeval.metrics.top_k_accuracy`.
    confidence : float array of shape (N,), optional
        Score that ranks the images, high is sure; the highest probability where None.
    n_points : int, optional
        Keep about so many rows, evenly spread and the last always: for a figure.

    Returns
    -------
    DataFrame
        `threshold` (answer at or above), `n_answered` (images, or their weight), `coverage`, `risk`,
        `generalized_risk`.

    Raises
    ------
    ValueError
        As `ddeval.metrics.calibration.reliability_table`; if `confidence` has another length or a NaN.

    Examples
    --------
    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.4, 0.6]])
    >>> risk_coverage(np.array([0, 1, 1, 0]), probs)
       threshold  n_answered  coverage  risk  generalized_risk
    0        0.9         1.0      0.25   0.0              0.00
    1        0.8         2.0      0.50   0.5              0.25
    2        0.6         4.0      1.00   0.5              0.50
    """
    score, correct, counts = _checked(labels, pred_probs, confidence, weights)
    _, curve = next(_curves(score, correct, counts))
    answered, errors = (sums[1:, 0] for sums in curve)
    total = counts.sum()
    table = pd.DataFrame(
        {
            "threshold": np.unique(score)[::-1],
            "n_answered": answered,
            "coverage": answered / total,
            "risk": errors / answered,
            "generalized_risk": errors / total,
        }
    )
    if n_points is None or n_points >= len(table):
        return table
    kept = np.unique(np.linspace(0, len(table) - 1, n_points).round().astype(int))
    return table.iloc[kept].reset_index(drop=True)


def aurc(
    labels: Labels,
    pred_probs: Probs,
    *,
    confidence: Floats | None = None,
    weights: Weights | None = None,
) -> float:
    """Area under the risk-coverage curve, in [0, 1]; low is good, and accuracy moves it too.

    The curve is joined by straight lines between the coverages a threshold can reach, and runs level
    from coverage 0 to the first of them (as fd-shifts does). Other conventions differ by .0002 on
    10,000 images. A constant confidence gives the error rate. NaN when there are no images.

    Arguments and errors as in `risk_coverage`.

    References
    ----------
    Geifman and El-Yaniv (2017), arXiv:1705.08500; Jaeger et al. (2023), arXiv:2211.15259.
    """
    return _one(_aurc, labels, pred_probs, confidence, weights)


def aurc_draws(
    labels: Labels, pred_probs: Probs, weights: Weights, *, confidence: Floats | None = None
) -> Floats:
    return _draws(_aurc, labels, pred_probs, confidence, weights)


def eaurc(
    labels: Labels,
    pred_probs: Probs,
    *,
    confidence: Floats | None = None,
    weights: Weights | None = None,
) -> float:
    """`aurc` less that of a perfect ranking at the same error rate e, e + (1 - e) ln(1 - e); low is good.

    What a better score could still gain. On few images it may fall below 0, because the perfect area
    is that of infinitely many. Arguments and errors as in `risk_coverage`; NaN when there are no images.
    """
    return _one(_eaurc, labels, pred_probs, confidence, weights)


def eaurc_draws(
    labels: Labels, pred_probs: Probs, weights: Weights, *, confidence: Floats | None = None
) -> Floats:
    return _draws(_eaurc, labels, pred_probs, confidence, weights)


def augrc(
    labels: Labels,
    pred_probs: Probs,
    *,
    confidence: Floats | None = None,
    weights: Weights | None = None,
) -> float:
    """Area under the generalized-risk-coverage curve, in [0, 1/2]; low is good. The number to lead with.

    The mean, over thresholds, of the share of all images answered wrongly. It equals
    (1 - A) a (1 - a) + (1 - a)^2 / 2 with accuracy a and A = `failure_auroc`, so unlike `aurc` it is not
    ruled by the few surest images. NaN when there are no images.

    Arguments and errors as in `risk_coverage`.

    References
    ----------
    Traub et al. (2024), Overcoming common flaws in the evaluation of selective classification,
    arXiv:2407.01032.
    """
    return _one(_augrc, labels, pred_probs, confidence, weights)


def augrc_draws(
    labels: Labels, pred_probs: Probs, weights: Weights, *, confidence: Floats | None = None
) -> Floats:
    return _draws(_augrc, labels, pred_probs, confidence, weights)


def failure_auroc(
    labels: Labels,
    pred_probs: Probs,
    *,
    confidence: Floats | None = None,
    weights: Weights | None = None,
) -> float:
    """Chance that a right answer is surer than a wrong one, in [0, 1]; 1 is best, a tie counts half.

    NaN when every answer is right or every answer is wrong. Arguments and errors as in `risk_coverage`.
    """
    return _one(_failure_auroc, labels, pred_probs, confidence, weights)


def failure_auroc_draws(
    labels: Labels, pred_probs: Probs, weights: Weights, *, confidence: Floats | None = None
) -> Floats:
    return _draws(_failure_auroc, labels, pred_probs, confidence, weights)


def coverage_at_risk(
    labels: Labels,
    pred_probs: Probs,
    risk: float = 0.05,
    *,
    confidence: Floats | None = None,
    weights: Weights | None = None,
) -> float:
    """Largest coverage a threshold reaches with a risk of at most `risk` on these images; high is good.

    NaN when no threshold does (everything would be deferred) and when there are no images. The best
    threshold in hindsight, so it flatters: what a threshold chosen beforehand keeps, with its bound,
    is `ddeval.metrics.deferral.choose_threshold`.

    Arguments and errors as in `risk_coverage`; `risk` lies in [0, 1).
    """
    return _one(_coverage_at(risk), labels, pred_probs, confidence, weights)


def coverage_at_risk_draws(
    labels: Labels,
    pred_probs: Probs,
    weights: Weights,
    *,
    risk: float = 0.05,
    confidence: Floats | None = None,
) -> Floats:
    return _draws(_coverage_at(risk), labels, pred_probs, confidence, weights)


def score_rule_table(labels: Labels, pred_probs: Probs, scores: dict[str, Floats]) -> pd.DataFrame:
    """How well each score of `score_rules` ranks right above wrong answers, the best `augrc` first.

    Columns `score`, `augrc`, `aurc`, `failure_auroc`, `coverage_at_risk_5` and `coverage_at_risk_10`.
    """
    rows = []
    for name, score in scores.items():
        row: dict[str, str | float] = {"score": name}
        for metric in (augrc, aurc, failure_auroc):
            row[metric.__name__] = metric(labels, pred_probs, confidence=score)
        for risk in (0.05, 0.10):
            row[f"coverage_at_risk_{100 * risk:g}"] = coverage_at_risk(
                labels, pred_probs, risk=risk, confidence=score
            )
        rows.append(row)
    return pd.DataFrame(rows).sort_values("augrc", kind="stable", ignore_index=True)


def selective_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> dict[str, Floats]:
    """All of the above from one pass over the draws, by the names they carry in a run's metrics."""
    reads = {
        "error_rate": _error_rate,
        "aurc": _aurc,
        "augrc": _augrc,
        "coverage_at_risk_5": _coverage_at(0.05),
        "coverage_at_risk_10": _coverage_at(0.10),
    }
    highest, correct = confidence_and_correct(labels, pred_probs)
    values = {name: np.empty(weights.shape[0]) for name in reads}
    for rows, curve in _curves(highest, correct, weights):
        for name, read in reads.items():
            values[name][rows] = read(curve)
    error_rate = values.pop("error_rate")  # what is left follows from the above, without another pass
    values["eaurc"] = values["aurc"] - _perfect_aurc(error_rate)
    values["failure_auroc"] = _failure_auroc_of(values["augrc"], error_rate)
    return values


def _aurc(curve: Curve) -> Floats:
    answered, errors = curve
    before, after = answered[:-1], answered[1:]
    risk = errors[1:] / np.maximum(after, TINY)  # 0 where nothing is answered yet: no width there
    risk_before = np.where(before > 0, errors[:-1] / np.maximum(before, TINY), risk)
    return ratio(((after - before) * (risk + risk_before) / 2).sum(axis=0), answered[-1])


def _eaurc(curve: Curve) -> Floats:
    return _aurc(curve) - _perfect_aurc(_error_rate(curve))


def _perfect_aurc(error_rate: Floats) -> Floats:
    area: Floats = error_rate + xlogy(1 - error_rate, 1 - error_rate)
    return area


def _augrc(curve: Curve) -> Floats:
    answered, errors = curve
    area: Floats = (np.diff(answered, axis=0) * (errors[:-1] + errors[1:]) / 2).sum(axis=0)
    return ratio(area, np.square(answered[-1]))


def _failure_auroc(curve: Curve) -> Floats:
    """The identity of `augrc` solved for it, so that the two cannot disagree."""
    return _failure_auroc_of(_augrc(curve), _error_rate(curve))


def _failure_auroc_of(augrc: Floats, error_rate: Floats) -> Floats:
    return 1 - ratio(augrc - np.square(error_rate) / 2, error_rate * (1 - error_rate))


def _error_rate(curve: Curve) -> Floats:
    return ratio(curve[1][-1], curve[0][-1])


def _coverage_at(risk: float) -> Read:
    if not 0.0 <= risk < 1.0:
        raise ValueError(f"risk must lie in [0, 1), got {risk}")

    def read(curve: Curve) -> Floats:
        answered, errors = curve
        allowed = risk * answered * (1 + 1e-12)  # .29 of 100 is 28.999999999999996
        largest: Floats = np.where(errors <= allowed, answered, 0.0).max(axis=0)
        return ratio(np.where(largest > 0, largest, np.nan), answered[-1])

    return read


def _one(
    read: Read,
    labels: Labels,
    pred_probs: Probs,
    confidence: Floats | None,
    weights: Weights | None,
) -> float:
    _, curve = next(_curves(*_checked(labels, pred_probs, confidence, weights)))
    return float(read(curve)[0])


def _draws(
    read: Read,
    labels: Labels,
    pred_probs: Probs,
    confidence: Floats | None,
    weights: Weights,
) -> Floats:
    highest, correct = confidence_and_correct(labels, pred_probs)
    values = np.empty(weights.shape[0])
    for rows, curve in _curves(highest if confidence is None else confidence, correct, weights):
        values[rows] = read(curve)
    return values


def _checked(
    labels: Labels, pred_probs: Probs, confidence: Floats | None, weights: Weights | None
) -> tuple[Floats, Floats, Weights]:
    labels, pred_probs = check_labels_and_probs(labels, pred_probs)
    weights = check_weights(weights, n_images=len(labels))
    highest, correct = confidence_and_correct(labels, pred_probs)
    score = highest if confidence is None else np.asarray(confidence, dtype=np.float64)
    if score.shape != labels.shape or np.isnan(score).any():
        raise ValueError(
            f"confidence must have shape {labels.shape} and no NaN, got shape {score.shape} "
            f"with {int(np.isnan(score).sum())} NaN"
        )
    held = weights[0] > 0
    return score[held], correct[held], weights[:, held]


def _curves(confidence: Floats, correct: Floats, weights: Weights) -> Iterator[tuple[slice, Curve]]:
    order, starts = runs(-confidence)
    wrong = 1.0 - correct[:, None]
    for rows, block in blocks(weights):
        columns = np.ascontiguousarray(block.T)  # (N, b): sums run down whole rows at a time
        yield rows, (running_sums(columns, order, starts), running_sums(columns * wrong, order, starts))
