"""Paired comparison: is this checkpoint better than that one, on the same images, for the same patients?

One stream of resamples serves every run and metric, so that a difference is taken within a resample
and what the runs share cancels. Two overlapping intervals are not a test; the interval of the
difference is. Which runs may be compared is decided before (same images, labels and classes): the
arrays here are already aligned.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from ddeval.metrics.arrays import Floats, Labels, Probs, Weights, check_labels_and_probs, weighted_means
from ddeval.metrics.discrimination import label_ranks
from ddeval.metrics.measures import COUNTED_OVER, OF_OTHER, SHARES, measure_of, rows_counted
from ddeval.metrics.readings import Reading, case_codes, checked_names, joined_groups, run_readings
from ddeval.metrics.resampling import (
    CONFIDENCE_LEVEL,
    N_RESAMPLES,
    group_codes,
    group_weights,
    weighed,
)
from ddeval.metrics.shares import detectable, deviation, paired_interval, stated_interval

POWER = 0.8
"""Chance with which the minimum detectable effect would be found."""

Key = tuple[str, str]
"""Subset and metric."""

LOWER_IS_BETTER = (
    "nll", "brier_score", "aurc", "eaurc", "augrc", "target_wrong", "answered_wrong", "calibration_gap",
    "expected_cost", "malignant_missed", "malignant_missed_per_1000", "urgent_missed",
    "urgent_missed_per_1000",
)  # fmt: skip


SHARE_ENDS = ("_right", "_deferred", "_missed", "answered")
"""End the names of further numbers that are shares."""


class Comparison(NamedTuple):
    """Several runs on the same images."""

    values: pd.DataFrame
    """`run, metric, subset, value, ci_low, ci_high, n_images, n_groups, n_undefined`: each run on its own."""
    differences: pd.DataFrame
    """`run, baseline, metric, subset, difference` (run - baseline), `ci_low, ci_high, se, p_value,
    p_holm, minimum_detectable, n_images, n_groups, n_undefined`, a row a pair and metric."""
    mcnemar: pd.DataFrame
    """`run, baseline, n_only_run, n_only_baseline` (right alone), `p_value` (exact), `se_paired`,
    `se_unpaired`: counts images as if each were a patient."""
    best: pd.DataFrame
    """`metric, subset, run, shortfall` (how far below the best it may lie) and `is_in_best_set`."""
    n_images: int
    n_groups: int


def compare(
    labels: Labels,
    probs_by_run: Mapping[str, Probs],
    *,
    groups: npt.NDArray[Any],
    rng: np.random.Generator,
    baseline: str | None = None,
    class_names: Sequence[str] | None = None,
    other_class: str | None = None,
    case_ids: npt.NDArray[Any] | None = None,
    more: Mapping[str, Callable[[Weights], Mapping[Key, Floats]]] | None = None,
    more_over: Mapping[Key, npt.NDArray[np.bool_]] | None = None,
    n_resamples: int = N_RESAMPLES,
    confidence_level: float = CONFIDENCE_LEVEL,
) -> Comparison:
    """Differences between runs with intervals over groups, adjusted p-values, and the set of the best.

    The interval of a difference is the percentile interval of the paired differences; the p-value is
    twice the smaller share of resamples on either side of 0, each side counted with the value itself
    ((1 + n) / (1 + B)). Of shares both are no surer than Agresti and Min's for so many groups
    (`ddeval.metrics.shares.paired_ends`). So p is below 1 - `confidence_level` exactly where the interval
    leaves out 0 (to a resample). Holm adjusts over the pairs of one metric. The minimum detectable effect
    is the difference that would be found, by its own p, in 80 % of such samples. NaN where a metric is
    undefined; where every resample repeats the difference (one patient, equal answers) it stands alone,
    and what would say how far it may be off is NaN.

    A run is in the best set of a metric unless some other run is better by more than chance allows for
    the largest of all pairs at once (max-T over the same resamples).

    Parameters
    ----------
    labels : int array of shape (N,)
    probs_by_run : mapping of run name to float array of shape (N, K)
        Two or more runs, the same classes in the same order.
    groups : array of shape (N,)
    rng : numpy Generator
    baseline : str, optional
        Every other run is compared with this one; without it every pair is, the later with the earlier.
    class_names, other_class, case_ids
        As in `ddeval.metrics.summary.summarise`.
    more : mapping of run to function, optional
        Further numbers of each run, (subset, metric) -> (B,), as a function of weights (B, N): decisions,
        subgroups. The same keys for every run; they see the same resamples.
    more_over : mapping of (subset, metric) to bool array of shape (N,), optional
        Images that a number of `more` is over; all where not named.

    Returns
    -------
    Comparison
        Frames `values`, `differences`, `mcnemar` and `best`, with `n_images` and `n_groups`.

    Raises
    ------
    ValueError
        For fewer than two runs, an unknown baseline, or arrays that do not fit.

    References
    ----------
    Holm (1979); Hsu (1996), Multiple Comparisons; McNemar (1947).
    """
    runs = list(probs_by_run)
    if len(runs) < 2:
        raise ValueError(f"a comparison needs two runs or more, got {len(runs)}")
    if baseline is not None and baseline not in runs:
        raise ValueError(f"baseline {baseline!r} is not one of {', '.join(runs)}")
    if not 0.0 < confidence_level < 1.0:
        raise ValueError(f"confidence_level must lie between 0 and 1, got {confidence_level}")
    checked = {run: check_labels_and_probs(labels, probs)[1] for run, probs in probs_by_run.items()}
    widths = {probs.shape[1] for probs in checked.values()}
    if len(widths) > 1:
        raise ValueError(f"runs have {sorted(widths)} classes; compare runs of one class list")
    labels = np.asarray(labels, dtype=np.int64)
    (width,) = widths
    names = checked_names(class_names or [str(k) for k in range(width)], other_class, width)

    group_of, n_groups = group_codes(groups)
    case_of = None if case_ids is None else case_codes(case_ids)
    if case_of is not None:
        group_of, n_groups = joined_groups(group_of, case_of)
    readings = {
        run: run_readings(labels, probs, names, other_class, case_of=case_of)[0]
        for run, probs in checked.items()
    }
    replicates, values = _replicates(
        readings, more or {}, group_of, n_groups, rng=rng, n_resamples=n_resamples
    )

    pairs = (
        [(run, baseline) for run in runs if run != baseline]
        if baseline is not None
        else [(later, earlier) for earlier, later in combinations(runs, 2)]
    )
    keys = list(values[runs[0]])
    counted = {run: _counted(keys, readings[run], group_of, more_over or {}) for run in runs}
    return Comparison(
        values=_value_rows(values, replicates, counted, confidence_level),
        differences=_difference_rows(values, replicates, counted, pairs, confidence_level),
        mcnemar=pd.DataFrame([_mcnemar(labels, checked, names, other_class, pair) for pair in pairs]),
        best=_best_rows(values, replicates, keys, runs, confidence_level),
        n_images=len(labels),
        n_groups=n_groups,
    )


def mean_interval(
    values: Floats,
    rows: npt.NDArray[np.intp],
    group_of: npt.NDArray[np.intp],
    n_groups: int,
    *,
    is_share: bool,
    seed: int,
    n_resamples: int,
) -> tuple[float, float, float]:
    """Mean of the values of `rows` with its interval, over the draws of `compare` with this seed.

    `is_share`: the interval is that of a share, else that of a paired difference of shares (values -1 to 1).
    """

    def mean(weights: Weights) -> Floats:
        return weighted_means(weights[:, rows], values)

    drawn = group_weights(group_of, n_groups, rng=np.random.default_rng(seed), n_resamples=n_resamples)
    replicates, n_held = np.concatenate(list(weighed(mean, drawn))), len(np.unique(group_of[rows]))
    value = float(values.mean()) if len(values) else float("nan")
    if not is_share:
        return value, *paired_interval(value, replicates, n_groups=n_held)[:2]
    (low,), (high,), _ = stated_interval([value], replicates[:, None], share_of=n_held)
    return value, float(low), float(high)


def holm(p_values: npt.ArrayLike) -> Floats:
    """Holm's step-down adjusted p-values, NaN where the p-value is NaN (and not counted in the family).

    Examples
    --------
    >>> [round(float(p), 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: int(np.isfinite(p).sum())]  # NaN sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def flips(labels: Labels, probs_a: Probs, probs_b: Probs) -> npt.NDArray[np.int64]:
    """+1 where run a is right and b wrong, -1 the other way round, 0 where they agree; shape (N,)."""
    a, b = (label_ranks(labels, probs) == 0 for probs in (probs_a, probs_b))
    result: npt.NDArray[np.int64] = a.astype(np.int64) - b.astype(np.int64)
    return result


Replicates = dict[str, dict[Key, Floats]]
"""Run -> key -> value in each resample, (B,)."""


def _replicates(
    readings: Mapping[str, Sequence[Reading]],
    more: Mapping[str, Callable[[Weights], Mapping[Key, Floats]]],
    group_of: npt.NDArray[np.intp],
    n_groups: int,
    *,
    rng: np.random.Generator,
    n_resamples: int,
) -> tuple[Replicates, dict[str, dict[Key, float]]]:
    """Every scalar metric of every run, in each resample and on the data as given."""
    measures = {run: [(r, measure_of(r)) for r in of_run] for run, of_run in readings.items()}

    def measure_all(weights: Weights) -> Replicates:
        return {
            run: {
                (reading.subset, name): numbers
                for reading, measure in of_run
                for name, numbers in measure(weights.T[reading.image_of].T).items()
                if numbers.ndim == 1
            }
            | (dict(more[run](weights)) if run in more else {})
            for run, of_run in measures.items()
        }

    drawn = list(weighed(measure_all, group_weights(group_of, n_groups, rng=rng, n_resamples=n_resamples)))
    replicates = {
        run: {key: np.concatenate([block[run][key] for block in drawn]) for key in drawn[0][run]}
        for run in measures
    }
    point = measure_all(np.ones((1, len(group_of))))
    values = {run: {key: float(v[0]) for key, v in of_run.items()} for run, of_run in point.items()}
    return replicates, values


def _counted(
    keys: Sequence[Key],
    readings: Sequence[Reading],
    group_of: npt.NDArray[np.intp],
    more_over: Mapping[Key, npt.NDArray[np.bool_]],
) -> dict[Key, tuple[int, int, bool]]:
    """Images and groups that each number of a run is over, and whether it is a share of them."""
    of_reading = {(r.subset, r.prefix): (r, rows_counted(r, group_of)) for r in readings}
    found = {}
    for subset, metric in keys:
        prefix = next((p for s, p in of_reading if s == subset and p and metric.startswith(p)), "")
        if metric in OF_OTHER:
            prefix = "open_"
        if (subset, metric) in more_over:
            at = more_over[subset, metric]
            is_share = metric.endswith(SHARE_ENDS)
            found[subset, metric] = (int(at.sum()), len(np.unique(group_of[at])), is_share)
        elif (subset, prefix) in of_reading:
            reading, counts = of_reading[subset, prefix]
            name, k = metric.removeprefix(prefix), reading.other or 0
            n_images, n_groups = counts[COUNTED_OVER.get(name, "all")]
            found[subset, metric] = (int(n_images[k]), int(n_groups[k]), name in SHARES)
        else:
            found[subset, metric] = (len(group_of), len(np.unique(group_of)), metric.endswith(SHARE_ENDS))
    return found


def _value_rows(
    values: Mapping[str, Mapping[Key, float]],
    replicates: Replicates,
    counted: Mapping[str, Mapping[Key, tuple[int, int, bool]]],
    confidence_level: float,
) -> pd.DataFrame:
    rows = []
    for run, of_run in replicates.items():
        for (subset, metric), (n_images, n_groups, is_share) in counted[run].items():
            value = values[run][subset, metric]
            low, high, n_undefined = stated_interval(
                [value],
                of_run[subset, metric][:, None],
                share_of=n_groups if is_share else None,
                confidence_level=confidence_level,
            )
            row = {"run": run, "metric": metric, "subset": subset, "value": value}
            row |= {"ci_low": low[0], "ci_high": high[0], "n_images": n_images, "n_groups": n_groups}
            rows.append(row | {"n_undefined": int(n_undefined[0])})
    return pd.DataFrame(rows)


def _difference_rows(
    values: Mapping[str, Mapping[Key, float]],
    replicates: Replicates,
    counted: Mapping[str, Mapping[Key, tuple[int, int, bool]]],
    pairs: Sequence[tuple[str, str]],
    confidence_level: float,
) -> pd.DataFrame:
    rows = []
    reach = stats.norm.ppf(1 - (1 - confidence_level) / 2) + stats.norm.ppf(POWER)
    for key in next(iter(counted.values())):
        of_key = []
        for run, base in pairs:
            n_images, n_groups, is_share = counted[run][key]
            difference = values[run][key] - values[base][key]
            drawn = replicates[run][key] - replicates[base][key]
            low, high, p_value = paired_interval(
                difference,
                drawn,
                n_groups=n_groups if is_share else None,
                confidence_level=confidence_level,
            )
            se = float(deviation(drawn[:, None])[0]) if np.isfinite(low) else np.nan
            of_key.append(
                {
                    "run": run,
                    "baseline": base,
                    "metric": key[1],
                    "subset": key[0],
                    "difference": difference,
                    "ci_low": low,
                    "ci_high": high,
                    "se": se,
                    "p_value": p_value,
                    "minimum_detectable": detectable(se, n_groups, reach) if is_share else reach * se,
                    "n_images": n_images,
                    "n_groups": n_groups,
                    "n_undefined": int(np.isnan(drawn).sum()),
                }
            )
        for row, p in zip(of_key, holm([row["p_value"] for row in of_key]), strict=True):
            rows.append(row | {"p_holm": float(p)})
    return pd.DataFrame(rows)


def _best_rows(
    values: Mapping[str, Mapping[Key, float]],
    replicates: Replicates,
    keys: Sequence[Key],
    runs: Sequence[str],
    confidence_level: float,
) -> pd.DataFrame:
    rows = []
    for key in keys:
        point = np.array([values[run][key] for run in runs])
        drawn = np.stack([replicates[run][key] for run in runs])  # (R, B)
        if key[1].endswith("calibration_gap"):  # nearest to 0 is best, whichever side it lies on
            point, drawn = -np.abs(point), -np.abs(drawn)
        elif key[1].removeprefix("open_") in LOWER_IS_BETTER:
            point, drawn = -point, -drawn
        shortfall, is_best = _best_set(point, drawn, confidence_level)
        rows += [
            {"metric": key[1], "subset": key[0], "run": run, "shortfall": short, "is_in_best_set": best}
            for run, short, best in zip(runs, shortfall.tolist(), is_best.tolist(), strict=True)
        ]
    return pd.DataFrame(rows)


def _best_set(point: Floats, drawn: Floats, confidence_level: float) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """How far each run may lie below the best, and whether it may be the best; high is good.

    Resamples in which a run has no value say nothing about a pair and are left out; where no resample is
    left, or a run has no value, nothing is known: NaN and not in the set.
    """
    drawn = drawn[:, np.isfinite(drawn).all(axis=0)]
    if not drawn.shape[1] or not np.isfinite(point).all():
        return np.full(len(point), np.nan), np.zeros(len(point), dtype=bool)
    ahead = point[None, :] - point[:, None]  # [i, j]: by how much run j is ahead of i
    spread = (drawn[None, :, :] - drawn[:, None, :]) - ahead[:, :, None]  # (R, R, B)
    se = np.sqrt((spread**2).mean(axis=2))
    differs = se > 1e-12  # a run and its copy: the same in every resample
    scaled = np.divide(spread, se[:, :, None], out=np.zeros_like(spread), where=differs[:, :, None])
    critical = float(np.quantile(scaled.max(axis=(0, 1)), confidence_level))
    shortfall: Floats = np.maximum((ahead + critical * se).max(axis=1), 0.0)
    return shortfall, ~(ahead - critical * se > 1e-12).any(axis=1)


def _mcnemar(
    labels: Labels,
    probs_by_run: Mapping[str, Probs],
    names: tuple[str, ...],
    other_class: str | None,
    pair: tuple[str, str],
) -> dict[str, Any]:
    """Exact McNemar test of top-1 in the closed set, and both standard errors of the difference.

    The errors take sample variances, over n - 1; of one image there is none.
    """
    run, base = pair
    right = []
    for name in pair:
        closed = run_readings(labels, probs_by_run[name], names, other_class)[0][0]
        right.append(label_ranks(closed.labels, closed.pred_probs) == 0)
    a, b = right
    n, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    split = only_a + only_b
    variances = [np.var(x, ddof=1) if n > 1 else np.nan for x in (a.astype(int) - b, a, b)]
    return {
        "run": run,
        "baseline": base,
        "n_only_run": only_a,
        "n_only_baseline": only_b,
        "p_value": float(stats.binomtest(only_a, split).pvalue) if split else 1.0,
        "se_paired": float(np.sqrt(variances[0] / n)) if n else np.nan,
        "se_unpaired": float(np.sqrt((variances[1] + variances[2]) / n)) if n else np.nan,
        "n_images": n,
    }
