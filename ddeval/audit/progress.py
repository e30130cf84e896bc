"""Progress: what has vetting found so far, how many errors are left, and when is it enough?

Precision comes from the ranked cases in the order of their rank, errors left from the designed sample;
neither is guessed from the other.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from ddeval.metrics.truth import Estimate, Sample, estimate

WINDOW = 50
ENOUGH = 0.10
"""Where fewer than one in ten of the next ranked cases is wrong, readers are better spent elsewhere."""


class ErrorsLeft(NamedTuple):
    """Wrong labels in the split, found and not found."""

    total: Estimate
    """Share of rows with a wrong label, and its interval."""
    n_found: int
    left: float
    left_low: float
    left_high: float


class Stop(NamedTuple):
    """Whether to go on down the ranking."""

    is_enough: bool
    precision_high: float
    """Upper 95 % bound of the precision over the last cases; NaN before there are enough of them."""
    n_window: int


def exact_interval(n_hits: int, n: int, *, confidence_level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share: never covers less than it says; 0 to 1 without any row."""
    if n == 0:
        return 0.0, 1.0
    tail = (1 - confidence_level) / 2
    low = stats.beta.ppf(tail, n_hits, n - n_hits + 1) if n_hits > 0 else 0.0
    high = stats.beta.ppf(1 - tail, n_hits + 1, n - n_hits) if n_hits < n else 1.0
    return float(low), float(high)


def precision_at_k(
    is_error: npt.ArrayLike, *, ks: tuple[int, ...] = (10, 20, 50, 100, 200, 500)
) -> pd.DataFrame:
    """Share of wrong labels among the first k ranked cases, `k, n_errors, precision, ci_low, ci_high`.

    Parameters
    ----------
    is_error : float array of shape (n,)
        In order of rank; 1 wrong, 0 right, NaN without verdict (not counted, and k counts verdicts).
    """
    verdicts = np.asarray(is_error, dtype=np.float64)
    verdicts = verdicts[~np.isnan(verdicts)]
    rows = []
    for k in [k for k in ks if k < len(verdicts)] + ([len(verdicts)] if len(verdicts) else []):
        n_errors = int(verdicts[:k].sum())
        rows.append((k, n_errors, n_errors / k, *exact_interval(n_errors, k)))
    return pd.DataFrame(rows, columns=["k", "n_errors", "precision", "ci_low", "ci_high"])


def errors_left(
    is_error: npt.ArrayLike, strata: npt.ArrayLike, sample: Sample, *, confidence_level: float = 0.95
) -> ErrorsLeft:
    """Wrong labels that nobody has found yet, from the verdicts on a designed sample.

    The estimate is over rows that can be judged, as that of `ddeval.metrics.truth.estimate`, whose
    arguments and errors these are; `is_error` (N,) is 1 where the given label is wrong.
    """
    verdicts = np.asarray(is_error, dtype=np.float64)
    total = estimate(verdicts, strata, sample, confidence_level=confidence_level)
    n_found = int(np.nansum(verdicts[sample.index]))
    n_judged = len(verdicts) * (1 - total.without_verdict)
    left, low, high = (max(share * n_judged - n_found, 0.0) for share in total[:3])
    return ErrorsLeft(total, n_found, left, low, high)


def stop_rule(is_error: npt.ArrayLike) -> Stop:
    """Stop when the upper bound of the precision over the last `WINDOW` ranked verdicts is below `ENOUGH`.

    `is_error` as in `precision_at_k`. With a window of 50 the bound falls below .10 when at most one of
    them was wrong.
    """
    verdicts = np.asarray(is_error, dtype=np.float64)
    verdicts = verdicts[~np.isnan(verdicts)]
    if len(verdicts) < WINDOW:
        return Stop(False, float("nan"), len(verdicts))
    high = exact_interval(int(verdicts[-WINDOW:].sum()), WINDOW, confidence_level=0.90)[1]  # one-sided 95 %
    return Stop(high < ENOUGH, high, WINDOW)
