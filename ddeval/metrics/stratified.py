"""Stratified sums: mean, variance, skewness and interval of a weighted sum of stratum means.

The engine under `ddeval.metrics.truth`. It works on residuals, so that a ratio and a model-assisted
estimate are the same three lines. This module draws nothing and reads no verdict.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from ddeval.metrics.arrays import Floats

Rows = npt.NDArray[np.intp]


class Drawn(NamedTuple):
    """The sampled rows by stratum: counts, weights inside the stratum, and the share not drawn."""

    stratum: Rows
    n: Floats
    """(H,): sampled rows."""
    relative: Floats
    """(n,): weight of a row against the others of its stratum; mean 1, all 1 in a plain design."""
    missing: Floats
    """(n,): 1 - inclusion probability."""

    @classmethod
    def of(cls, stratum: Rows, inclusion: Floats, n_strata: int) -> "Drawn":
        n = np.bincount(stratum, minlength=n_strata).astype(np.float64)
        weights = 1.0 / inclusion
        total = np.bincount(stratum, weights=weights, minlength=n_strata)
        with np.errstate(invalid="ignore", divide="ignore"):  # a stratum without rows is caught later
            relative = weights * (n / total)[stratum]
        return cls(stratum, n, relative, 1.0 - inclusion)

    def sum(self, values: Floats) -> Floats:
        sums: Floats = np.bincount(self.stratum, weights=values, minlength=len(self.n)).astype(np.float64)
        return sums

    def mean(self, values: Floats) -> Floats:
        means: Floats = self.sum(self.relative * values) / self.n
        return means


def moments(
    residual: Floats, ends: Floats, weight: Floats, drawn: Drawn, *, pseudo: float
) -> tuple[float, float, float]:
    """Shift, variance and third moment of the stratified sum, with `pseudo` extra verdicts of either kind."""
    n = drawn.n + 2 * pseudo
    plain = drawn.mean(residual)
    centre = (drawn.n * plain + pseudo * ends.sum(axis=0)) / n
    missing = drawn.sum(drawn.missing) / drawn.n
    apart = drawn.relative * (residual - centre[drawn.stratum])
    second = drawn.sum(drawn.missing * apart**2) + pseudo * missing * ((ends - centre) ** 2).sum(axis=0)
    third = drawn.sum(drawn.missing**1.5 * apart**3) + pseudo * missing**1.5 * ((ends - centre) ** 3).sum(0)
    return (
        float(weight @ (missing * (centre - plain))),
        float(weight**2 @ (second / (n * (n - 1)))),
        float(weight**3 @ (2 * third / n**3)),
    )


def response_variance(
    answered: Floats, is_lost: npt.NDArray[np.bool_], weight: Floats, drawn: Drawn
) -> float:
    """What the chance of ending without verdict adds to the variance of a stratified sum.

    `answered` is the residual of a row with a verdict, 0 of others; `is_lost` those without. A row drawn with
    probability p and answered with chance q adds (1 - p) S^2 by the draw, which `moments` counts, and
    p (1 - q) times the mean square by the answer, which the finite-population correction has taken with it
    (response as a second phase: Sarndal, Swensson and Wretman 1992, chapter 15).
    """
    lost = drawn.sum(is_lost.astype(np.float64)) / drawn.n
    square = drawn.sum((1.0 - drawn.missing) * (drawn.relative * answered) ** 2)
    return float(weight**2 @ (lost * square / (drawn.n * np.maximum(drawn.n - 1.0, 1.0))))


def interval(value: float, shift: float, variance: float, third: float, level: float) -> tuple[float, float]:
    """Cornish-Fisher quantiles around value + shift, inside 0 to 1 and never without the value."""
    if variance <= 0:  # everything was vetted
        return value, value
    deviation = np.sqrt(variance)
    skew = third / deviation**3
    z = stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    low, high = value + shift + deviation * (z + skew * (z**2 - 1) / 6)
    inside = np.clip([min(low, value), max(high, value)], 0.0, 1.0)
    return float(inside[0]), float(inside[1])


def tuned_slope(residual: Floats, aid: Floats, weight: Floats, drawn: Drawn) -> float:
    """Slope of the residual on the guess that makes the stratified variance smallest."""
    share = (weight / drawn.n) ** 2
    apart = aid - drawn.mean(aid)[drawn.stratum]
    scale = share[drawn.stratum] * drawn.missing * drawn.relative**2 * apart
    below = float(scale @ apart)
    return float(scale @ (residual - drawn.mean(residual)[drawn.stratum])) / below if below > 0 else 0.0
