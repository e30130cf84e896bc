"""Agreement between readers: how often do two clinicians name the same condition?

Nominal ratings of shape (units, readers), NaN (or None) where a reader did not read. Raw agreement
is the number to lead with; the chance-corrected three stand beside it, because each answers another
question: at 2 % prevalence raw agreement .97 can be Krippendorff's alpha -.02 and Gwet's AC1 .97.
This module counts ratings; it does not decide what the answer is (`ddeval.vet.consensus`).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.metrics.shares import stated_interval

Counts = npt.NDArray[np.float64]
"""(U, K): how many readers gave unit u the category k."""


def raw_agreement(ratings: npt.ArrayLike) -> float:
    """Share of reader pairs of one unit that agree, mean over units with two or more ratings, in [0, 1].

    NaN where no unit has two ratings.
    """
    counts = _counts(ratings)
    return float(_raw(counts, _once(counts))[0])


def krippendorff_alpha(ratings: npt.ArrayLike) -> float:
    """Krippendorff's alpha for nominal ratings; 1 is perfect, 0 is chance, below 0 is worse than chance.

    Units with a single rating are left out (they hold no pair). NaN ("not defined") where every
    rating is the same category: then nothing could have been disagreed about.

    Parameters
    ----------
    ratings : array of shape (units, readers)
        Any hashable categories; NaN or None = not read.

    References
    ----------
    Krippendorff (2011), Computing Krippendorff's Alpha-Reliability.

    Examples
    --------
    >>> round(krippendorff_alpha([[1, 1], [1, 2], [2, 2], [2, 2]]), 4)
    0.5333
    """
    counts = _counts(ratings)
    return float(_alpha(counts, _once(counts))[0])


def fleiss_kappa(ratings: npt.ArrayLike) -> float:
    """Fleiss' kappa; 1 is perfect, 0 is chance. Range, NaN and arguments as `krippendorff_alpha`.

    Where units have different numbers of ratings, chance agreement uses the share of each category
    among all ratings of units with two or more, and agreement is the mean over those units.

    References
    ----------
    Fleiss (1971), Measuring nominal scale agreement among many raters.
    """
    counts = _counts(ratings)
    return float(_fleiss(counts, _once(counts))[0])


def gwet_ac1(ratings: npt.ArrayLike) -> float:
    """Gwet's AC1; steady where one category is rare. Range, NaN and arguments as `krippendorff_alpha`.

    The number of categories is the number seen. Category shares are means over all units with a rating.

    References
    ----------
    Gwet (2008), Computing inter-rater reliability and its variance in the presence of high agreement.
    """
    counts = _counts(ratings)
    return float(_ac1(counts, _once(counts))[0])


def agreement_table(
    ratings: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    n_resamples: int = 2000,
) -> pd.DataFrame:
    """The four coefficients with 95 % percentile bootstrap intervals over units.

    Where all agree, raw agreement has the exact bound of so many units, and the others, which every resample
    repeats, have no interval.

    Returns
    -------
    DataFrame with one row a coefficient
        `coefficient`, `value`, `ci_low`, `ci_high`, `n_units` (with two or more ratings), `n_ratings`
        (in those units) and `n_undefined` (resamples where it is NaN; the interval is over the others).
    """
    counts = _counts(ratings)
    pairable = counts[counts.sum(axis=1) >= 2]
    n_units = len(pairable)
    draws = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=n_resamples) if n_units else None
    rows = []
    for name, coefficient in _COEFFICIENTS.items():
        replicates = np.full(1, np.nan) if draws is None else coefficient(pairable, draws.astype(float))
        value = float(coefficient(counts, _once(counts))[0])
        share_of = n_units if name == "raw_agreement" else None
        (low,), (high,), n_undefined = stated_interval([value], replicates[:, None], share_of=share_of)
        rows.append(
            {
                "coefficient": name,
                "value": value,
                "ci_low": float(low),
                "ci_high": float(high),
                "n_units": n_units,
                "n_ratings": int(pairable.sum()),
                "n_undefined": int(n_undefined[0]),
            }
        )
    return pd.DataFrame(rows)


def self_consistency(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[float, int]:
    """Share of hidden repeats a reader answered as the first time, and the number of repeats.

    Repeats with either reading missing are left out; NaN with 0 where none is left.
    """
    pairs = pd.DataFrame({"first": np.asarray(first, object), "second": np.asarray(second, object)}).dropna()
    return (float((pairs["first"] == pairs["second"]).mean()) if len(pairs) else float("nan")), len(pairs)


def _counts(ratings: npt.ArrayLike) -> Counts:
    table = np.asarray(ratings, dtype=object)
    if table.ndim != 2:
        raise ValueError(f"ratings must have shape (units, readers), got {table.shape}")
    flat, categories = pd.factorize(table.ravel())  # NaN and None become -1
    codes = flat.reshape(table.shape)
    counts = np.zeros((len(table), len(categories)))
    units, readers = np.nonzero(codes >= 0)
    np.add.at(counts, (units, codes[units, readers]), 1)
    return counts


def _once(counts: Counts) -> npt.NDArray[np.float64]:
    return np.ones((1, len(counts)))


def _pair_agreement(counts: Counts) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Share of agreeing pairs of each unit, and which units have a pair."""
    m = counts.sum(axis=1)
    has_pair = m >= 2
    agreeing = (counts * (counts - 1)).sum(axis=1)
    return np.divide(agreeing, m * (m - 1), out=np.zeros(len(m)), where=has_pair), has_pair


def _raw(counts: Counts, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    share, has_pair = _pair_agreement(counts)
    with np.errstate(invalid="ignore"):  # no pair at all is 0/0, and NaN is the answer
        result: npt.NDArray[np.float64] = (weights @ (share * has_pair)) / (weights @ has_pair)
    return result


def _alpha(counts: Counts, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    m = counts.sum(axis=1)
    paired = counts * (m >= 2)[:, None]
    differing = np.divide(m**2 - (counts**2).sum(axis=1), m - 1, out=np.zeros(len(m)), where=m >= 2)
    totals = weights @ paired  # (B, K)
    n = totals.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (weights @ differing) / n
        expected = (n**2 - (totals**2).sum(axis=1)) / (n * (n - 1))
        return np.where(expected > 0, 1 - observed / expected, np.nan)


def _fleiss(counts: Counts, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    totals = weights @ (counts * (counts.sum(axis=1) >= 2)[:, None])
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = ((totals / totals.sum(axis=1, keepdims=True)) ** 2).sum(axis=1)
        return np.where(chance < 1, (_raw(counts, weights) - chance) / (1 - chance), np.nan)


def _ac1(counts: Counts, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    m = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, m, out=np.zeros_like(counts), where=m > 0)
    n_categories = counts.shape[1]
    if n_categories < 2:
        return np.full(len(weights), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        prevalence = (weights @ shares) / (weights @ (m[:, 0] > 0))[:, None]
        chance = (prevalence * (1 - prevalence)).sum(axis=1) / (n_categories - 1)
        result: npt.NDArray[np.float64] = (_raw(counts, weights) - chance) / (1 - chance)
    return result


_COEFFICIENTS: dict[str, Any] = {
    "raw_agreement": _raw,
    "krippendorff_alpha": _alpha,
    "fleiss_kappa": _fleiss,
    "gwet_ac1": _ac1,
}
