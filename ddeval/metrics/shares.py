"""Shares: intervals of a share, of a paired difference and of a gap, where few patients carry them.

A percentile interval knows what resampling shows. Nineteen right of twenty resample to [.85, 1], a pair of
models of which one never lost resamples to a difference that cannot be below 0, and a criterion would pass
on either. So the ends that are stated beside a value are never inside those of the established interval for
few patients: Wilson, Agresti and Min, Agresti and Caffo. Where patients are many, the two are one.
"""

import numpy as np
import numpy.typing as npt
from scipy import stats

from ddeval.metrics.arrays import Floats
from ddeval.metrics.resampling import CONFIDENCE_LEVEL, percentile_interval

MANY_PATIENTS = 50
"""Patients of a class from which the draws alone tell how far its AUROC may be off."""


def stated_interval(
    value: npt.ArrayLike,
    replicates: Floats,
    *,
    share_of: npt.ArrayLike | None = None,
    confidence_level: float = CONFIDENCE_LEVEL,
) -> tuple[Floats, Floats, npt.NDArray[np.intp]]:
    """Ends of bootstrap intervals as stated beside their values, and draws without a value, (M,) each.

    Percentiles of the replicates; of a share, which `share_of` groups carry, those of `share_ends`. NaN
    where the value is undefined on the data themselves, and where every resample repeats it: one value
    bounds nothing.

    Parameters
    ----------
    value : float array of shape (M,)
    replicates : float array of shape (B, M)
    """
    value = np.asarray(value, dtype=np.float64)
    low, high, n_undefined = percentile_interval(replicates, confidence_level=confidence_level)
    if share_of is not None:
        low, high = share_ends(
            value, low, high, deviation(replicates), share_of, confidence_level=confidence_level
        )
    nothing = (low == high) | np.isnan(value)
    return np.where(nothing, np.nan, low), np.where(nothing, np.nan, high), n_undefined


def share_ends(
    share: npt.ArrayLike,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    spread: npt.ArrayLike,
    n_groups: npt.ArrayLike,
    *,
    confidence_level: float = CONFIDENCE_LEVEL,
) -> tuple[Floats, Floats]:
    """The ends of a share's bootstrap interval, moved out to those of the exact or of Wilson's interval.

    A share of exactly 0 or 1, which every resample repeats, gets the bound of Clopper and Pearson with a
    group for a trial: 1 has a lower end of tail ** (1 / groups). Another share gets Wilson's interval for
    as many independent images as its draws say (`effective_n`), where that reaches further.

    Parameters
    ----------
    share, low, high : float arrays of shape (M,)
    spread : float array of shape (M,)
        Standard deviation of the replicates; without one (0 or NaN) the ends stay.
    n_groups : int array of shape (M,)
        Groups the share is over.

    References
    ----------
    Clopper and Pearson (1934), Biometrika 26; Wilson (1927), J. Am. Stat. Assoc. 22; Korn and Graubard
    (1998), Survey Methodology 24.

    Examples
    --------
    Six of six; nineteen of twenty, whose draws end at 1: Wilson has [.764, .991].

    >>> low, high = share_ends([1.0, 0.95], [1.0, 0.85], [1.0, 1.0], [0.0, 0.0487], [6, 20])
    >>> low.round(3).tolist(), high.tolist()
    ([0.541, 0.764], [1.0, 1.0])
    """
    share, low, high = (np.asarray(x, dtype=np.float64) for x in (share, low, high))
    tail = (1.0 - confidence_level) / 2.0
    bound = tail ** (1.0 / np.maximum(np.asarray(n_groups), 1))
    low = np.where(share == 1.0, np.minimum(low, bound), low)
    high = np.where(share == 0.0, np.maximum(high, 1.0 - bound), high)
    n = effective_n(share, spread, n_groups, confidence_level=confidence_level)
    z = stats.norm.ppf(1.0 - tail)
    is_inside = (share > 0) & (share < 1) & np.isfinite(n) & (n > 0)
    n = np.where(is_inside, n, 1.0)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z * np.sqrt(np.maximum(share * (1 - share), 0.0) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return (
        np.where(is_inside, np.fmin(low, centre - reach), low),
        np.where(is_inside, np.fmax(high, centre + reach), high),
    )


def area_ends(
    area: npt.ArrayLike,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    n_patients: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    confidence_level: float = CONFIDENCE_LEVEL,
) -> tuple[Floats, Floats]:
    """The ends of an AUROC's bootstrap interval, moved out to Newcombe's where few patients have the class.

    Draws that hold the one patient of a class hold the same rank each time, and see the others' chance alone:
    an AUROC of one patient covers the truth in 17 to 40 % of samples, of ten in 79 to 90 %. Newcombe's method
    5 solves for the areas that are no further from the one seen than their own standard error (Hanley and
    McNeil's) allows. From `MANY_PATIENTS` on, and where the ends are NaN, they stay.

    Parameters
    ----------
    area, low, high : float arrays of shape (M,)
    n_patients : int arrays of shape (M,)
        With the class, and with another.

    References
    ----------
    Newcombe (2006), Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part
    2, Statistics in Medicine 25; Hanley and McNeil (1982), Radiology 143.

    Examples
    --------
    >>> low, high = area_ends([0.93], [0.91], [0.95], ([1], [200]))
    >>> low.round(2).tolist(), high.round(3).tolist()
    ([0.38], [0.996])
    """
    area, low, high = (np.asarray(x, dtype=np.float64) for x in (area, low, high))
    m, n = (np.asarray(x, dtype=np.float64) for x in n_patients)
    z = stats.norm.ppf(0.5 + confidence_level / 2)
    is_few = np.isfinite(area) & np.isfinite(low) & (m > 0) & (n > 0) & (m < MANY_PATIENTS)
    seen, m, n = np.where(is_few, area, 0.5), np.where(is_few, m, 1.0), np.where(is_few, n, 1.0)

    def reach(truth: Floats) -> Floats:
        half = (m + n) / 2 - 1
        by_pairs = 1 + half * (1 - truth) / (2 - truth) + half * truth / (1 + truth)
        return np.asarray(z * np.sqrt(truth * (1 - truth) * by_pairs / (m * n)))

    ends = []
    for edge in (0.0, 1.0):  # between the area, which is within reach of itself, and the edge, which is not
        inside, outside = seen.copy(), np.full_like(seen, edge)
        for _ in range(50):
            middle = (inside + outside) / 2
            is_within = np.abs(seen - middle) <= reach(middle)
            inside, outside = np.where(is_within, middle, inside), np.where(is_within, outside, middle)
        ends.append(inside)
    return np.where(is_few, np.fmin(low, ends[0]), low), np.where(is_few, np.fmax(high, ends[1]), high)


def effective_n(
    share: npt.ArrayLike,
    spread: npt.ArrayLike,
    n_groups: npt.ArrayLike,
    *,
    confidence_level: float = CONFIDENCE_LEVEL,
) -> Floats:
    """Independent images that would spread as the draws of the share do, (M,).

    Less where so many come from few groups, whose spread is itself uncertain: by the squared quantiles of
    Student's t with a degree of freedom less than these images, and than groups (Korn and Graubard 1998).
    Rows that merely repeat those of their group change nothing. NaN without a spread.
    """
    share, spread = np.asarray(share, dtype=np.float64), np.asarray(spread, dtype=np.float64)
    upper = 1.0 - (1.0 - confidence_level) / 2.0
    with np.errstate(divide="ignore", invalid="ignore"):  # no spread: NaN, and NaN is the answer
        n = np.where(spread > 0, share * (1 - share) / spread**2, np.nan)
    t_n, t_groups = (
        stats.t.ppf(upper, np.maximum(np.asarray(of, dtype=np.float64) - 1.0, 1.0)) for of in (n, n_groups)
    )
    return np.asarray(n * np.minimum(t_n / t_groups, 1.0) ** 2)


def paired_interval(
    difference: float,
    replicates: Floats,
    *,
    n_groups: int | None = None,
    confidence_level: float = CONFIDENCE_LEVEL,
) -> tuple[float, float, float]:
    """Ends and two-sided p-value of a paired difference from its replicates (B,), as they are stated.

    Percentiles and `two_sided_p`; of shares (`n_groups` is given) no surer than `paired_ends`. NaN where
    every resample repeats the difference.
    """
    (low,), (high,), _ = stated_interval([difference], replicates[:, None], confidence_level=confidence_level)
    if np.isnan(low):
        return float("nan"), float("nan"), float("nan")
    p_value = two_sided_p(replicates)
    if n_groups is not None:
        spread = float(deviation(replicates[:, None])[0])
        ends = paired_ends(difference, spread, n_groups, confidence_level=confidence_level)
        low, high, p_value = np.fmin(low, ends[0]), np.fmax(high, ends[1]), np.fmax(p_value, ends[2])
    return float(low), float(high), float(p_value)


def two_sided_p(drawn: Floats) -> float:
    """Two-sided, from the share of resamples at or beyond 0; NaN where no resample has a value."""
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return float("nan")
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return float(min(1.0, 2 * (1 + tail) / (1 + drawn.size)))


def paired_ends(
    difference: float,
    spread: float,
    n_groups: int,
    *,
    confidence_level: float = CONFIDENCE_LEVEL,
) -> tuple[float, float, float]:
    """Ends and two-sided p-value of a paired difference of shares, for few groups.

    Agresti and Min's: half a group more in each of the four cells (both right, one, the other, neither),
    then the normal interval. The cells need not be known: what they give is in the difference and its
    `spread`, the standard deviation of the replicates. NaN without a group.

    References
    ----------
    Agresti and Min (2005), Simple improved confidence intervals for comparing matched proportions,
    Statistics in Medicine 24.

    Examples
    --------
    Twenty patients, one lost and none gained: the draws say [-.15, 0], the loss may be larger.

    >>> low, high, p = paired_ends(-0.05, 0.0487, 20)
    >>> round(low, 3), round(high, 3), round(p, 2)  # -1 / 22, and (2 - 1 / 22) ** .5 / 22
    (-0.17, 0.079, 0.47)
    """
    n = float(n_groups)
    if not (n > 0 and np.isfinite(difference) and np.isfinite(spread)):
        return float("nan"), float("nan"), float("nan")
    centre = difference * n / (n + 2)
    one_way = n**2 * spread**2 + n * difference**2  # groups in which the two differ
    reach = np.sqrt(max(one_way + 1 - (n * difference) ** 2 / (n + 2), 0.0)) / (n + 2)
    return _normal(centre, float(reach), confidence_level)


def detectable(spread: float, n_groups: int, reach: float) -> float:
    """The paired difference d of shares that lies `reach` of its own standard errors from 0.

    As `paired_ends` sees it. A difference that is there makes patients differ who did not before, so it
    spreads more than `spread`, that of what was seen, says: by a variance of (d - d^2) / groups. Where that
    is left out, a difference said to be found in 80 % of samples is found in 22 to 65 % of those of 40 to
    150 patients. NaN without a group.

    Examples
    --------
    >>> round(detectable(0.05, 60, 2.8), 3), round(detectable(0.003, 9000, 2.8), 4)  # for .14 and .0084
    (0.215, 0.0089)
    """
    if not n_groups > 0:
        return float("nan")
    share = reach**2 / n_groups
    root = np.sqrt(share**2 + 4 * (1 + share) * reach**2 * (spread**2 + 1 / n_groups**2))
    return float((share + root) / (2 * (1 + share)) * (n_groups + 2) / n_groups)


def gap_ends(
    shares: tuple[float, float],
    effective: tuple[float, float],
    *,
    confidence_level: float = CONFIDENCE_LEVEL,
) -> tuple[float, float, float]:
    """Ends and two-sided p-value of the gap between the shares of two sets of patients, for few of them.

    Agresti and Caffo's: one more right and one more wrong on either side, then the normal interval.
    `effective` is the number of independent images behind each share (`effective_n`); of a share of 0 or
    1, its groups.

    References
    ----------
    Agresti and Caffo (2000), Simple and effective confidence intervals for proportions, Am. Stat. 54.

    Examples
    --------
    Twenty of twenty against 180 of 200 is no sign of a better group.

    >>> low, high, p = gap_ends((1.0, 0.9), (20, 200))
    >>> round(low, 3), round(high, 3), p > 0.05
    (-0.038, 0.155, True)
    """
    n = np.asarray(effective, dtype=np.float64)
    if not (np.isfinite(n).all() and np.isfinite(shares).all()):
        return float("nan"), float("nan"), float("nan")
    smoothed = (np.asarray(shares) * n + 1) / (n + 2)
    reach = float(np.sqrt((smoothed * (1 - smoothed) / (n + 2)).sum()))
    return _normal(float(smoothed[0] - smoothed[1]), reach, confidence_level)


def deviation(replicates: Floats) -> Floats:
    """Standard deviation of each column of replicates (B, M) over the draws that have a value, (M,)."""
    held = np.isfinite(replicates)
    n = held.sum(axis=0)
    at_hand = np.where(held, replicates, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):  # fewer than two values: NaN
        apart = np.where(held, replicates - at_hand.sum(axis=0) / n, 0.0)
        return np.asarray(np.sqrt(np.where(n > 1, (apart**2).sum(axis=0) / (n - 1), np.nan)))


def _normal(centre: float, reach: float, confidence_level: float) -> tuple[float, float, float]:
    z = float(stats.norm.ppf(0.5 + confidence_level / 2))
    p_value = 2 * stats.norm.sf(abs(centre) / reach) if reach > 0 else float("nan")
    return centre - z * reach, centre + z * reach, float(p_value)
