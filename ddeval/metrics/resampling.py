"""Resampling: how far would a number move, had other patients come?

The percentile bootstrap over groups. A resample draws as many groups as there are, with replacement;
it is a row of weights, the number of times each image's group came up. One stream of draws serves every
metric of a run and every run of a comparison, in one pass, so that all of them see the same resamples.
Nothing here knows what a label is.
"""

import inspect
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binom

from ddeval.metrics.arrays import BLOCK_CELLS, Floats, Weights

N_RESAMPLES = 2000
CONFIDENCE_LEVEL = 0.95

FEWEST_IN_BLOCK = 8
"""Resamples weighed at once where images are so many that `BLOCK_CELLS` hold fewer."""

N_THREADS = min(os.cpu_count() or 1, 4)
"""Blocks weighed at once; sums release the interpreter. The numbers do not depend on it."""

FLOAT32_IMAGES = 2**20
"""Up to here a sum of counts stays below 2**24, where float32 is exact; above, weights are float64."""


Result = TypeVar("Result")


class Estimate(NamedTuple):
    """A statistic and its percentile bootstrap interval."""

    value: float
    """The statistic on the data as given."""
    ci_low: float
    """NaN, as is ci_high, when no resample has a value."""
    ci_high: float
    n_images: int
    n_groups: int
    n_undefined: int
    """Resamples in which the statistic was NaN; the interval is over the others."""


def bootstrap(
    statistic: Callable[..., float],
    *arrays: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
    confidence_level: float = CONFIDENCE_LEVEL,
) -> Estimate:
    """Interval for `statistic(*arrays)`, drawing groups with replacement.

    Photographs of one lesion are not independent, so the lesion is the unit drawn. Every array is
    indexed by the same rows: pass two models' probabilities and a statistic that subtracts, and the
    comparison is paired. A metric `m` of this package is worked out for many draws at once by the
    `m_draws` beside it; any other statistic that takes `weights` is called with the weights (N,) of each
    draw; one that does not is called on the rows of each draw. The draws are the same each way.

    The interval is too short where few groups carry the number: on planted data a 95 % interval of a
    class's sensitivity held the truth in 60 % of samples with 5 groups of that class, in 87 % with 10
    and in 94 % with 20 or more. A share of exactly 0 or 1 has an interval of no width here. What is stated
    of a share beside its value is wider (`ddeval.metrics.shares`).

    Parameters
    ----------
    statistic : callable
        Takes the arrays, returns a float; NaN where it is undefined.
    *arrays : arrays of first dimension N
    groups : array of shape (N,)
        Patient or lesion of each image.
    rng : numpy Generator
        Required: an interval nobody can reproduce is not a result.
    n_resamples, confidence_level : int, float in (0, 1)

    Returns
    -------
    Estimate
        `value`, `ci_low`, `ci_high`, `n_images`, `n_groups`, `n_undefined` (resamples without a value).

    Raises
    ------
    ValueError
        If there are no images, lengths differ, a group is missing, or a number is out of its range.

    References
    ----------
    Efron (1979), Bootstrap Methods: Another Look at the Jackknife. Field & Welsh (2007),
    Bootstrapping Clustered Data.

    Examples
    --------
    >>> right = np.array([1.0, 1.0, 0.0, 1.0])
    >>> lesions = np.array(["a", "a", "b", "c"])
    >>> bootstrap(np.mean, right, groups=lesions, rng=np.random.default_rng(0))
    Estimate(value=0.75, ci_low=0.0, ci_high=1.0, n_images=4, n_groups=3, n_undefined=0)
    """
    drawn = replicates(statistic, *arrays, groups=groups, rng=rng, n_resamples=n_resamples)
    value = float(statistic(*(_as_array(a) for a in arrays)))
    low, high, n_undefined = percentile_interval(drawn[:, None], confidence_level=confidence_level)
    n_groups = group_codes(groups)[1]
    return Estimate(value, float(low[0]), float(high[0]), len(groups), n_groups, int(n_undefined[0]))


def replicates(
    statistic: Callable[..., float],
    *arrays: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> Floats:
    """The statistic in each of the resamples of `bootstrap`, (B,)."""
    group_of, n_groups = group_codes(groups)
    arrays = tuple(_as_array(a) for a in arrays)
    if any(len(a) != len(group_of) for a in arrays):
        raise ValueError(f"groups has {len(group_of)} rows, arrays have {[len(a) for a in arrays]}")
    blocks = group_weights(group_of, n_groups, rng=rng, n_resamples=n_resamples)
    return np.concatenate(list(weighed(_draws_of(statistic, arrays), blocks)))


def group_codes(groups: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], int]:
    """Place of each image's group among the sorted ones, so that row order changes no draw; their count."""
    if len(groups) == 0:
        raise ValueError("groups is empty: there is nothing to resample")
    codes, names = pd.factorize(np.asarray(groups), sort=True)
    missing = np.flatnonzero(codes < 0)
    if missing.size:
        raise ValueError(
            f"groups must name a group for each image; row {missing[0]} is empty, {missing.size} rows in all"
        )
    return codes, len(names)


def group_weights(
    group_of: npt.NDArray[np.intp], n_groups: int, *, rng: np.random.Generator, n_resamples: int = N_RESAMPLES
) -> Iterator[Weights]:
    """Weights (b, N) of successive resamples, `n_resamples` in all, so few at a time that memory stays flat.

    Each is the transpose of a contiguous (N, b) array: sums over images run along contiguous draws.
    """
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy Generator such as np.random.default_rng(0), got {rng!r}")
    dtype = np.float32 if len(group_of) <= FLOAT32_IMAGES else np.float64
    size = max(BLOCK_CELLS // len(group_of), FEWEST_IN_BLOCK)
    for start in range(0, n_resamples, size):
        counts = np.empty((n_groups, min(size, n_resamples - start)), dtype=dtype)
        for draw in range(counts.shape[1]):
            drawn = rng.integers(n_groups, size=n_groups)
            counts[:, draw] = np.bincount(drawn, minlength=n_groups)
        yield counts[group_of].T


def weighed(measure: Callable[[Weights], Result], blocks: Iterator[Weights]) -> Iterator[Result]:
    """`measure` of each block, in their order, a few blocks at a time on as many threads."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(N_THREADS) as pool:
        for weights in blocks:
            waiting.append(pool.submit(measure, weights))
            if len(waiting) > N_THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def percentile_interval(
    replicates: Floats, *, confidence_level: float = CONFIDENCE_LEVEL
) -> tuple[Floats, Floats, npt.NDArray[np.intp]]:
    """Low and high end of each column of replicates (B, M) and its number of NaN, each (M,).

    Percentiles are over the values that are not NaN, interpolated linearly; NaN where none is left.
    """
    if not 0.0 < confidence_level < 1.0:
        raise ValueError(f"confidence_level must lie between 0 and 1, got {confidence_level}")
    if not len(replicates):
        nothing = np.full(replicates.shape[1], np.nan)
        return nothing, nothing, np.zeros(replicates.shape[1], dtype=np.intp)
    ranked = np.sort(replicates, axis=0)  # NaN sorts last
    n_undefined = np.isnan(ranked).sum(axis=0)
    last = np.maximum(len(ranked) - n_undefined - 1, 0)
    tail = (1.0 - confidence_level) / 2.0
    low, high = (_at(ranked, q * last) for q in (tail, 1.0 - tail))
    return low, high, n_undefined


def quantile_interval(values: Floats, quantile: float) -> tuple[float, float, float]:
    """A quantile of independent values with its exact 95 % interval from order statistics.

    The number of values below the true quantile is binomial, whatever their distribution. An end that so
    few values cannot reach is NaN: above p95 that is so below 59 values.

    Examples
    --------
    >>> quantile_interval(np.arange(1.0, 101.0), 0.5)
    (50.5, 40.0, 61.0)
    """
    ranked = np.sort(np.asarray(values, dtype=np.float64))
    n, tail = len(ranked), (1.0 - CONFIDENCE_LEVEL) / 2.0
    if not n:
        return float("nan"), float("nan"), float("nan")
    low, high = int(binom.ppf(tail, n, quantile)), int(binom.ppf(1 - tail, n, quantile)) + 1
    ends = [float(ranked[place - 1]) if 1 <= place <= n else float("nan") for place in (low, high)]
    return float(np.quantile(ranked, quantile)), ends[0], ends[1]


def _at(ranked: Floats, position: Floats) -> Floats:
    """Value of each column at a fractional row."""
    below = np.floor(position).astype(np.intp)
    lower = np.take_along_axis(ranked, below[None, :], axis=0)[0]
    upper = np.take_along_axis(ranked, np.ceil(position).astype(np.intp)[None, :], axis=0)[0]
    value: Floats = lower + (position - below) * (upper - lower)
    return value


def _as_array(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    values = np.asarray(values)
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def _draws_of(
    statistic: Callable[..., float], arrays: tuple[npt.NDArray[Any], ...]
) -> Callable[[Weights], Floats]:
    """The statistic as a function of weights (b, N), by the cheapest of the three ways it allows."""
    module, name = inspect.getmodule(statistic), getattr(statistic, "__name__", "")
    twin = getattr(module, f"{name}_draws", None)
    if twin is not None and getattr(module, name, None) is statistic:
        return lambda weights: twin(*arrays, weights)
    if _takes_weights(statistic):
        return lambda weights: np.array([float(statistic(*arrays, weights=w)) for w in weights.astype(float)])

    def on_rows(weights: Weights) -> Floats:
        rows = (np.repeat(np.arange(len(w)), w.astype(np.intp)) for w in weights)
        return np.array([float(statistic(*(a[r] for a in arrays))) for r in rows])

    return on_rows


def _takes_weights(statistic: Callable[..., float]) -> bool:
    try:
        return "weights" in inspect.signature(statistic).parameters
    except (TypeError, ValueError):  # a compiled function has no signature
        return False
