"""Summary: every number of one run, with its interval, in one pass over one stream of resamples.

`summarise` knows the `other` class, cases and intervals; what a metric means is written where it is
defined (`ddeval.metrics.discrimination`, `calibration`, `selective`).

Conventions. Three readings of one set of predictions, told apart by the metric's prefix:

- none (closed set): images labelled with a target class, probabilities renormalised over the targets;
- `open_`: all images, `other` is a class like the rest and may be predicted;
- `other_`: `other` against the targets, as a detector.

A model without `other` has the first only. `subset` is `all` (each image counts) or `cases` (each case
counts; its probabilities are those of the mean logit over its photographs). Errors of the ECE family
have no bootstrap interval (docs/decisions/0002-ece-band.md): beside each stand `<name>_floor_low`,
`<name>_floor_high` and `<name>_p_value`.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval import tables
from ddeval.metrics.arrays import (
    Labels,
    Probs,
    Weights,
    check_labels_and_probs,
)
from ddeval.metrics.curves import curves_of, three_outcomes
from ddeval.metrics.floors import calibration_floor
from ddeval.metrics.measures import COUNTED_OVER, SHARES, Numbers, measure_of, rows_counted
from ddeval.metrics.readings import (
    Reading,
    case_codes,
    checked_names,
    joined_groups,
    run_readings,
)
from ddeval.metrics.resampling import (
    N_RESAMPLES,
    N_THREADS,
    group_codes,
    group_weights,
    weighed,
)
from ddeval.metrics.shares import area_ends, stated_interval

FLOOR_ROWS = {"_floor_low": "floor_low", "_floor_high": "floor_high", "_p_value": "p_value"}
"""Suffix of the rows beside each calibration error, and the column of `calibration_floor` they hold."""


class Summary(NamedTuple):
    """What is known about one run's predictions under one set of labels."""

    metrics: pd.DataFrame
    """METRICS rows. `n_images` counts what the number is over: images, or cases where `subset` is
    `cases`; for a rate of a class, its denominator; for its F1 and areas, the rows of that label."""
    curves: dict[str, pd.DataFrame]
    """`reliability`, `risk_coverage`, `confusion`, `confused_pairs`; with `other` also `open_...` of each and
    `three_outcomes`. All by image."""
    class_names: tuple[str, ...]
    """Classes of the closed set, in index order."""
    excluded: tuple[str, ...]
    """Those of them without an image: in no mean over classes, in any draw."""
    n_images: int
    n_groups: int
    n_cases: int
    """Cases given; where each has one image only there are no rows of subset `cases`."""
    n_mixed_cases: int
    """Cases whose images carry different labels: left out of subset `cases`."""


def summarise(
    labels: Labels,
    pred_probs: Probs,
    *,
    groups: npt.NDArray[Any],
    class_names: Sequence[str],
    other_class: str | None = None,
    case_ids: npt.NDArray[Any] | None = None,
    logits: npt.NDArray[np.floating[Any]] | None = None,
    run: str = "",
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> Summary:
    """All metrics of a run with their percentile bootstrap intervals over groups.

    Parameters
    ----------
    labels : int array of shape (N,)
        Given class of each image, 0 to K-1.
    pred_probs : float array of shape (N, K)
        Predicted probabilities; each row sums to 1.
    groups : array of shape (N,)
        Unit of independence of each image. Groups that share a case are drawn as one.
    class_names : sequence of K names
    other_class : str, optional
        The class that stands for everything else; None where there is none.
    case_ids : array of shape (N,), optional
    logits : float array of shape (N, K), optional
        What is averaged over a case's photographs and put through softmax. Default: ln(pred_probs)
        clipped at 1e-15, which is the same for a softmax model.
    run : str
        Fills the column of that name.
    rng : numpy Generator
    n_resamples : int
        Draws of the bootstrap; the band of the calibration errors is from half as many simulations.
        With 0 there are values alone, and NaN where an interval or a band would stand.

    Raises
    ------
    ValueError
        If shapes disagree, a label or probability is out of range, names are not unique, `other_class`
        is not among them, or a group or case is missing.
    """
    labels, pred_probs = check_labels_and_probs(labels, pred_probs)
    names = checked_names(class_names, other_class, pred_probs.shape[1])
    _check_lengths(len(labels), groups=groups, case_ids=case_ids, logits=logits)
    group_of, n_groups = group_codes(groups)
    case_of = None if case_ids is None else case_codes(case_ids)
    if case_of is not None:
        group_of, n_groups = joined_groups(group_of, case_of)
    readings, n_mixed = run_readings(labels, pred_probs, names, other_class, case_of=case_of, logits=logits)

    measures = [measure_of(reading) for reading in readings]
    replicates = _replicates(readings, measures, group_of, n_groups, rng=rng, n_resamples=n_resamples)
    seeds = rng.integers(2**63, size=len(readings)).tolist()
    with ThreadPoolExecutor(N_THREADS) as pool:
        n_simulations = [(n_resamples + 1) // 2] * len(readings)
        floors = list(pool.map(_ece_rows, readings, [group_of] * len(readings), seeds, n_simulations))

    rows: list[dict[str, Any]] = []
    curves: dict[str, pd.DataFrame] = {}
    for reading, measure, drawn, floor in zip(readings, measures, replicates, floors, strict=True):
        rows += _rows(reading, measure(np.ones((1, len(reading.labels)))), drawn, group_of)
        rows += floor
        if reading.subset == "all":
            curves |= {reading.prefix + name: frame for name, frame in curves_of(reading).items()}
    metrics = pd.DataFrame([{"run": run, **row} for row in rows], columns=list(tables.METRICS.names))
    if other_class is not None:
        curves["three_outcomes"] = three_outcomes(metrics)
    closed = readings[0]
    n_of = np.bincount(closed.labels, minlength=len(closed.class_names))
    return Summary(
        metrics=metrics,
        curves=curves,
        class_names=closed.class_names,
        excluded=tuple(name for name, n in zip(closed.class_names, n_of, strict=True) if n == 0),
        n_images=len(labels),
        n_groups=n_groups,
        n_cases=0 if case_of is None else int(case_of.max()) + 1,
        n_mixed_cases=n_mixed,
    )


def summary_json(summary: Summary) -> dict[str, Any]:
    """The numbers of a summary as `ddeval score --json` prints them; NaN stays NaN, for the writer to null.

    `metrics` and `per_class` are by image, `cases` holds the same `metrics` by case; `confusion` has a
    row a label and a column a predicted class, and `open_confusion` stands beside it with `other`.
    """
    by_image, by_case = (summary.metrics[summary.metrics["subset"] == subset] for subset in ("all", "cases"))
    per_class: dict[str, dict[str, dict[str, Any]]] = {}
    for class_name, rows in by_image.dropna(subset="class_name").groupby("class_name", sort=False):
        per_class[str(class_name)] = _entries(rows)
    return {
        "n_images": summary.n_images,
        "n_groups": summary.n_groups,
        "n_cases": summary.n_cases,
        "n_mixed_cases": summary.n_mixed_cases,
        "metrics": _entries(by_image[by_image["class_name"].isna()]),
        "cases": _entries(by_case[by_case["class_name"].isna()]),
        "per_class": per_class,
        "excluded_classes": list(summary.excluded),
        **{name: _matrix(frame) for name, frame in summary.curves.items() if name.endswith("confusion")},
    }


def _entries(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    fields = ["value", "ci_low", "ci_high", "n_images", "n_groups", "n_undefined"]
    return dict(zip(rows["metric"], rows[fields].to_dict("records"), strict=True))


def _matrix(table: pd.DataFrame) -> dict[str, Any]:
    names = list(table["label"].drop_duplicates())
    return {"class_names": names, "counts": table["n"].to_numpy().reshape(len(names), -1).tolist()}


def _check_lengths(n_images: int, **arrays: npt.NDArray[Any] | None) -> None:
    for name, array in arrays.items():
        if array is not None and len(array) != n_images:
            raise ValueError(f"{name} has {len(array)} rows, labels have {n_images}")


def _replicates(
    readings: Sequence[Reading],
    measures: Sequence[Callable[[Weights], Numbers]],
    group_of: npt.NDArray[np.intp],
    n_groups: int,
    *,
    rng: np.random.Generator,
    n_resamples: int,
) -> Sequence[Sequence[Numbers]]:
    """The numbers of each reading in each block of resamples; every reading sees the same draws."""

    def measure_all(weights: Weights) -> list[Numbers]:
        pairs = zip(readings, measures, strict=True)
        return [measure(weights.T[reading.image_of].T) for reading, measure in pairs]

    if n_resamples == 0:
        return [()] * len(readings)
    blocks = group_weights(group_of, n_groups, rng=rng, n_resamples=n_resamples)
    return list(zip(*weighed(measure_all, blocks), strict=True))


def _rows(
    reading: Reading, point: Numbers, drawn: Sequence[Numbers], group_of: npt.NDArray[np.intp]
) -> Iterator[dict[str, Any]]:
    """A METRICS row for each number of `measure_of`, with its interval."""
    counted = rows_counted(reading, group_of)
    for name, value in point.items():
        replicates = np.concatenate([np.empty((0, *value.shape[1:])), *(numbers[name] for numbers in drawn)])
        n_images, n_groups = counted[COUNTED_OVER.get(name.removeprefix(reading.prefix), "all")]
        class_names: tuple[str | None, ...] = reading.class_names
        if value.ndim == 1:
            k = reading.other or 0
            class_names, n_images, n_groups = (None,), n_images[k : k + 1], n_groups[k : k + 1]
        is_share = name.removeprefix(reading.prefix) in SHARES
        low, high, n_undefined = stated_interval(
            np.ravel(value),
            replicates.reshape(len(replicates), value[0].size),
            share_of=n_groups if is_share else None,
        )
        if name.removeprefix(reading.prefix) == "auroc":
            patients = counted["labelled"][1], counted["not labelled"][1]
            low, high = area_ends(np.ravel(value), low, high, patients)
        columns = (np.ravel(value), low, high, n_images, n_groups, n_undefined)
        for class_name, *numbers in zip(class_names, *(c.tolist() for c in columns), strict=True):
            yield _row(reading, name, class_name, *numbers)


def _row(
    reading: Reading,
    metric: str,
    class_name: str | None,
    value: float,
    ci_low: float,
    ci_high: float,
    n_images: int,
    n_groups: int,
    n_undefined: int,
) -> dict[str, Any]:
    return {
        "metric": metric,
        "subset": reading.subset,
        "class_name": class_name,
        "value": value,
        "ci_low": ci_low,
        "ci_high": ci_high,
        "n_images": n_images,
        "n_groups": n_groups,
        "n_undefined": n_undefined,
    }


def _ece_rows(
    reading: Reading, group_of: npt.NDArray[np.intp], seed: int, n_simulations: int
) -> list[dict[str, Any]]:
    """The ECE family, each with three rows more: the band of a perfectly calibrated model and a p-value."""
    floor = calibration_floor(
        reading.labels,
        reading.pred_probs,
        groups=group_of[reading.image_of],
        rng=np.random.default_rng(seed),
        n_simulations=n_simulations,
    )
    return [
        _row(reading, f"{reading.prefix}{of['metric']}{suffix}", None, of[column], np.nan, np.nan, *counts, 0)
        for of in floor.to_dict("records")
        for counts in [(of["n_images"], of["n_groups"])]
        for suffix, column in {"": "value", **FLOOR_ROWS}.items()
    ]
