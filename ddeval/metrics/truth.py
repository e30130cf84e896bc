"""Truth: how accurate is the model against a vetted reference, when only a few rows can be vetted?

`design` draws the rows to vet, with a known probability each; `estimate` turns their verdicts into an
accuracy for the whole split with an interval. A row is the unit that is drawn and read: an image, or a
case with `sizes`. Nothing here chooses strata (`ddeval.audit.strata`) or makes a verdict (`ddeval.vet`);
strict and lenient accuracy are two `correct` arrays.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.metrics.arrays import Floats
from ddeval.metrics.reader_error import ReaderError
from ddeval.metrics.stratified import Drawn, interval, moments, response_variance, tuned_slope

Rows = npt.NDArray[np.intp]

EQUAL_SHARE = 0.5
"""Share of the rows to vet that is spread evenly over the strata; the rest follows their sizes. Even alone
starves a large stratum, where one error weighs much; in proportion alone starves the doubtful ones."""


class Sample(NamedTuple):
    """Rows to vet, and how likely each was to be drawn."""

    index: Rows  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    """(n,): rows of the split, ascending."""
    inclusion_probability: Floats
    """(n,): of the rows of `index`, in (0, 1]."""


class Estimate(NamedTuple):
    """Accuracy against the vetted reference over the whole split."""

    value: float
    ci_low: float
    ci_high: float
    n_vetted: int
    """Sampled rows with a verdict."""
    n_without_verdict: int
    """Sampled rows without one: ungradable, off-topic, duplicate, or not read yet."""
    without_verdict: float
    """Estimated share of such rows in the split; `value` is over the others."""
    worst_case: float
    """Accuracy if the model were wrong on every row without a verdict."""
    best_case: float
    """Accuracy if it were right on all of them."""
    std_error: float
    effective_n: float
    """Rows a simple random sample would have needed for the same standard error."""


def design(
    strata: npt.ArrayLike, n: int, *, rng: np.random.Generator, spread: npt.ArrayLike | None = None
) -> Sample:
    """Draw `n` rows to vet at random within strata; each row of a stratum is equally likely.

    Half of the rows go to the strata evenly, half by their sizes, so that neither the large stratum nor
    the doubtful one is starved. With `spread`, allocation is Neyman's: a stratum gets rows in proportion
    to its size times its mean spread (a fifth still by size, should the guess be wrong). Every stratum
    gets two rows at least, or all it has; one where n is too small for two.

    Parameters
    ----------
    strata : array of shape (N,)
        Stratum of each row, of any hashable kind. Must not depend on the truth.
    n : int
        Rows to vet, from the number of strata to N.
    spread : float array of shape (N,), optional
        Expected standard deviation of each row's verdict: sqrt(p (1 - p)) for a chance p of being right
        (`ddeval.audit.strata.expected_correct`). It steers the draw and never enters the estimate.

    Raises
    ------
    ValueError
        If a stratum is missing, n does not fit, or `spread` is negative or not finite.

    References
    ----------
    Neyman (1934), J. R. Stat. Soc. 97; Cochran (1977), Sampling Techniques, chapter 5.

    Examples
    --------
    >>> sample = design(["a"] * 80 + ["b"] * 20, 20, rng=np.random.default_rng(0))
    >>> np.bincount(sample.index >= 80).tolist()  # half of 20 evenly, half as 80 : 20
    [13, 7]
    >>> sample.inclusion_probability[[0, -1]].round(3).tolist()
    [0.162, 0.35]
    """
    stratum, n_strata = _codes(strata)
    sizes = np.bincount(stratum, minlength=n_strata)
    if not n_strata <= n <= len(stratum):
        raise ValueError(
            f"n must lie between the number of strata and of rows ({n_strata} to {len(stratum)}), got {n}"
        )
    if spread is None:
        wanted = n * (EQUAL_SHARE / n_strata + (1 - EQUAL_SHARE) * sizes / len(stratum))
    else:
        spread = np.asarray(spread, dtype=np.float64)
        if spread.shape != stratum.shape or not (np.isfinite(spread) & (spread >= 0)).all():
            raise ValueError(f"spread must be finite, not negative and of shape ({len(stratum)},)")
        mass = np.bincount(stratum, weights=spread, minlength=n_strata) + 1e-12 * sizes
        wanted = n * (0.8 * mass / mass.sum() + 0.2 * sizes / len(stratum))
    drawn = _whole(wanted, sizes, n)

    keys = rng.random(len(stratum))  # one number a row: the draw in a stratum ignores the others
    order = np.lexsort((keys, stratum))
    place = np.arange(len(stratum)) - (np.cumsum(sizes) - sizes)[stratum[order]]
    index = np.sort(order[place < drawn[stratum[order]]])
    return Sample(index, (drawn / sizes)[stratum[index]])


def estimate(
    correct: npt.ArrayLike,
    strata: npt.ArrayLike,
    sample: Sample,
    *,
    sizes: npt.ArrayLike | None = None,
    outside: npt.ArrayLike | None = None,
    proxy: npt.ArrayLike | None = None,
    reader_error: ReaderError | None = None,
    confidence_level: float = 0.95,
) -> Estimate:
    """Accuracy over the whole split from the verdicts on a designed sample, with its interval.

    Stratified mean (Horvitz-Thompson with known stratum sizes) over rows that have a verdict. A row of
    the sample whose verdict is NaN counts as without verdict and is bounded, never guessed; rows outside
    the sample are not looked at, so filling them in changes nothing. The interval is for this split
    (finite-population correction). Which rows of a stratum end without verdict is taken as chance, so a
    stratum drawn whole carries doubt where some of its rows got none. Each stratum adds 1 / (strata + 1)
    pseudo-verdicts of either kind, so that one with 0 or all hits still carries doubt, and the third moment
    shifts both ends (Cornish-Fisher). NaN where a stratum has no sampled row or no row has a verdict.

    Parameters
    ----------
    correct : float array of shape (N,)
        1 where the model agrees with the vetted reference, 0 where not, or the share of a case's images;
        NaN where not vetted.
    strata : array of shape (N,)
        As given to `design`.
    sample : Sample
        From `design`, or batches joined by `joined`.
    sizes : float array of shape (N,), optional
        Images of each row when rows are cases: the value is then per image (a ratio, with the case as the
        unit of sampling); without it every row counts once.
    outside : bool array of shape (N,), optional
        Rows that were read and are no part of the number (in a closed set, `other`): known to be so, hence
        not without verdict, and not in the bounds.
    proxy : float array of shape (N,), optional
        A guess of `correct` for every row: prediction-powered estimate with the weight of the guess tuned
        to the smallest variance (PPI++), so a useless guess costs nothing.
    reader_error : ReaderError, optional
        How often the consensus itself is wrong: corrects the value and widens the interval.
    confidence_level : float in (0, 1)

    Raises
    ------
    ValueError
        If shapes disagree, a verdict of the sample is outside 0 to 1, a row is sampled twice, or a
        probability is outside (0, 1].

    References
    ----------
    Sarndal, Swensson and Wretman (1992), Model Assisted Survey Sampling; Angelopoulos, Duchi and Zrnic
    (2023), PPI++, arXiv:2311.01453; Hall (1992), The Bootstrap and Edgeworth Expansion.

    Examples
    --------
    >>> strata = np.array(["sure"] * 80 + ["doubtful"] * 20)
    >>> sample = Sample(np.array([0, 1, 2, 3, 80, 81, 82, 83]), np.repeat([4 / 80, 4 / 20], 4))
    >>> correct = np.full(100, np.nan)
    >>> correct[sample.index] = [1, 1, 1, 1, 1, 1, 0, 0]
    >>> round(estimate(correct, strata, sample).value, 3)  # 0.8 x 4/4 + 0.2 x 2/4
    0.9
    """
    if not 0.0 < confidence_level < 1.0:
        raise ValueError(f"confidence_level must lie between 0 and 1, got {confidence_level}")
    stratum, n_strata = _codes(strata)
    n_rows = len(stratum)
    size = _column("sizes", sizes, n_rows, default=1.0)
    size = size / size.mean()
    index, verdict, inclusion = _checked(correct, sample, n_rows)
    is_outside = _flags("outside", outside, n_rows)[index]
    has_verdict = ~np.isnan(verdict) & ~is_outside
    is_lost = ~has_verdict & ~is_outside
    weight = np.bincount(stratum, minlength=n_strata) / n_rows
    drawn = Drawn.of(stratum[index], inclusion, n_strata)
    if not has_verdict.any() or (drawn.n == 0).any():
        return _undefined(has_verdict, is_lost)

    counted = size[index] * has_verdict
    right = counted * np.where(has_verdict, verdict, 0.0)
    whole = float(weight @ drawn.mean(counted))
    value = float(weight @ drawn.mean(right)) / whole
    residual = answered = right - value * counted
    if proxy is not None:
        guess = _column("proxy", proxy, n_rows, default=0.0)
        aid = size * (guess - np.average(guess, weights=size))  # its mean over the split is known: 0
        aid_of = aid[index]
        slope = tuned_slope(residual, aid_of, weight, drawn)
        value -= slope * float(weight @ drawn.mean(aid_of)) / whole
        residual = right - value * counted - slope * aid_of

    ends = np.array([-value, 1.0 - value])[:, None] * drawn.mean(counted)  # residuals of 0 and of 1
    shift, variance, third = moments(residual, ends, weight, drawn, pseudo=1.0 / (n_strata + 1))
    variance += response_variance(answered, is_lost, weight, drawn)
    shift, variance, third = shift / whole, variance / whole**2, third / whole**3
    if reader_error is not None:
        gain = 1.0 - reader_error.miss - reader_error.false_hit
        value = (value - reader_error.false_hit) / gain
        shift, third = shift / gain, third / gain**3
        # the finite-population correction has taken a part of the readers' chance errors with it
        chance = sum(
            share * p * (1 - p)
            for share, p in ((value, reader_error.miss), (1 - value, reader_error.false_hit))
        )
        read = drawn.sum((1 - drawn.missing) * (drawn.relative * counted) ** 2) / drawn.n**2
        variance += max(chance, 0.0) * float(weight**2 @ read) / whole**2
        variance = (variance + (value * reader_error.miss_se) ** 2) / gain**2
    low, high = interval(value, shift, variance, third, confidence_level)
    left = float(weight @ drawn.mean(size[index] * is_lost))
    left /= float(weight @ drawn.mean(size[index] * ~is_outside))
    value = min(max(value, 0.0), 1.0)
    return Estimate(
        value=value,
        ci_low=low,
        ci_high=high,
        n_vetted=int(has_verdict.sum()),
        n_without_verdict=int(is_lost.sum()),
        without_verdict=left,
        worst_case=value * (1 - left),
        best_case=value * (1 - left) + left,
        std_error=float(np.sqrt(variance)),
        effective_n=value * (1 - value) / variance if variance > 0 else np.inf,
    )


def joined(samples: Sequence[Sample], probabilities: Sequence[npt.ArrayLike]) -> Sample:
    """Batches of one split as one sample: a row's probability is 1 - (1 - p) (1 - q) ...

    Parameters
    ----------
    samples : sequence of Sample
    probabilities : sequence of float arrays of shape (N,)
        How likely each batch was to hold each row, had no earlier batch held it: also of the rows it did not
        draw. A batch may be drawn from all rows or from those the earlier ones left.

    Examples
    --------
    >>> first = Sample(np.arange(10), np.full(10, 0.1))
    >>> second = Sample(np.arange(10, 19), np.full(9, 0.1))  # 9 of the 90 that were left
    >>> both = joined([first, second], [np.full(100, 0.1), np.full(100, 0.1)])
    >>> len(both.index), both.inclusion_probability[0].round(3).item()  # 19 of 100
    (19, 0.19)
    """
    index = functools.reduce(np.union1d, (sample.index for sample in samples))
    missed = np.prod([1.0 - np.asarray(one, dtype=np.float64)[index] for one in probabilities], axis=0)
    return Sample(index, 1.0 - missed)


def _undefined(has_verdict: npt.NDArray[np.bool_], is_lost: npt.NDArray[np.bool_]) -> Estimate:
    nan = float("nan")
    return Estimate(nan, nan, nan, int(has_verdict.sum()), int(is_lost.sum()), nan, nan, nan, nan, nan)


def _whole(wanted: Floats, sizes: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Whole numbers near `wanted` that sum to n, at least 1 or 2 and at most the stratum's size."""
    floor = np.minimum(2 if n >= 2 * len(sizes) else 1, sizes).astype(np.float64)
    low, high = 0.0, n / max(wanted[wanted > 0].min(initial=np.inf), 1e-12) + 1.0
    for _ in range(200):  # scale until the clipped allocation sums to n
        scale = (low + high) / 2
        if np.clip(wanted * scale, floor, sizes).sum() < n:
            low = scale
        else:
            high = scale
    exact = np.clip(wanted * high, floor, sizes)
    drawn: npt.NDArray[np.int64] = np.floor(exact + 1e-9).astype(np.int64)
    for h in np.argsort(drawn - exact, kind="stable"):
        if drawn.sum() < n and drawn[h] < sizes[h]:
            drawn[h] += 1
    return drawn


def _codes(strata: npt.ArrayLike) -> tuple[Rows, int]:
    array = np.asarray(strata)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"strata must have shape (N,) with N > 0, got {array.shape}")
    codes, names = pd.factorize(array, sort=array.dtype != object)
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise ValueError(
            f"strata must name one for every row; row {row} has none, {(codes < 0).sum()} in all"
        )
    return codes.astype(np.intp), len(names)


def _column(name: str, values: npt.ArrayLike | None, n_rows: int, *, default: float) -> Floats:
    if values is None:
        return np.full(n_rows, default)
    column = np.asarray(values, dtype=np.float64)
    if column.shape != (n_rows,) or not np.isfinite(column).all():
        raise ValueError(f"{name} must be finite and of shape ({n_rows},), got shape {column.shape}")
    if name == "sizes" and not (column > 0).all():
        raise ValueError("sizes must be positive")
    return column


def _flags(name: str, values: npt.ArrayLike | None, n_rows: int) -> npt.NDArray[np.bool_]:
    if values is None:
        return np.zeros(n_rows, dtype=bool)
    flags = np.asarray(values)
    if flags.shape != (n_rows,) or flags.dtype != bool:
        raise ValueError(
            f"{name} must be bool and of shape ({n_rows},), got {flags.dtype} of shape {flags.shape}"
        )
    return flags


def _checked(correct: npt.ArrayLike, sample: Sample, n_rows: int) -> tuple[Rows, Floats, Floats]:
    correct = np.asarray(correct, dtype=np.float64)
    index, inclusion = np.asarray(sample.index), np.asarray(sample.inclusion_probability, dtype=np.float64)
    if correct.shape != (n_rows,):
        raise ValueError(f"correct must have shape ({n_rows},) as strata, got {correct.shape}")
    if index.shape != inclusion.shape or index.ndim != 1:
        raise ValueError(f"index and inclusion_probability differ: {index.shape} and {inclusion.shape}")
    if len(index) and (index.min() < 0 or index.max() >= n_rows):
        raise ValueError(f"sample.index must lie in 0..{n_rows - 1}")
    if len(np.unique(index)) < len(index):
        raise ValueError("a row is sampled twice; join batches with `joined`")
    if not ((inclusion > 0) & (inclusion <= 1)).all():
        raise ValueError("inclusion probabilities must lie in (0, 1]")
    verdict = correct[index]
    if not (np.isnan(verdict) | ((verdict >= 0) & (verdict <= 1))).all():
        raise ValueError("verdicts must lie in 0 to 1, or be NaN where there is none")
    return index.astype(np.intp), verdict, inclusion
