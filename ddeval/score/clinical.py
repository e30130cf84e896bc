"""Clinical numbers of a run: risk groups, subgroups, score rules and sets, beside the general metrics.

Computed from what `ddeval.score.numbers` joined; every table is a curve of the run folder, so that a page
draws it and `ddeval verify` computes it again.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.data.attributes import attributes, group_order
from ddeval.data.conditions import Conditions
from ddeval.metrics.arrays import Floats, Labels, Probs, top_class
from ddeval.metrics.binning import confidence_and_correct
from ddeval.metrics.discrimination import label_ranks
from ddeval.metrics.floors import calibration_floor
from ddeval.metrics.paired import SHARE_ENDS
from ddeval.metrics.readings import closed_set
from ddeval.metrics.stakes import (
    Stakes,
    followed,
    outcome_masks,
)
from ddeval.metrics.subgroups import FEWEST_GROUPS, Subgroups, subgroups
from ddeval.score.answers import Answers, Labelled
from ddeval.score.decisions import decision_numbers, deferring_numbers
from ddeval.score.sets import prediction_sets
from ddeval.score.stakes import stakes_of

N_SIMULATIONS = 200
"""Of a perfectly calibrated model in each subgroup: the band is read to two digits."""


class Clinical(NamedTuple):
    """What is added to the numbers of a run."""

    metrics: pd.DataFrame
    """METRICS rows of `ddeval.metrics.stakes.consequences`."""
    curves: dict[str, pd.DataFrame]
    """`harm`, `net_benefit`, `sure_misses`, `conformal`, `subgroups`, `subgroup_extremes`,
    `subgroup_calibration`; under a deferral rule `deferring`, `harm_deferring`,
    `subgroups_deferring`."""
    notes: tuple[str, ...]


def clinical(
    answers: Answers,
    *,
    run: str,
    conditions: Conditions | None,
    fit: Labelled | None = None,
    is_deferred: npt.NDArray[np.bool_] | None = None,
    prevalence: Mapping[str, float] | None = None,
    seed: int,
    n_resamples: int,
) -> Clinical:
    """Decisions, prediction sets and subgroups of a run; without `conditions` there are no decisions.

    Parameters
    ----------
    fit : Labelled, optional
        The calibration split.
    is_deferred : bool array of shape (N,), optional
        What a deferral rule hands over: the decisions are told once more with it, as subset `deferring`.
    prevalence : mapping of risk group to share, optional
        As `ddeval.score.stakes.stakes_of`.
    """
    metrics, stakes = pd.DataFrame(), None
    curves: dict[str, pd.DataFrame] = {}
    notes: list[str] = []
    if conditions is not None:
        stakes, notes = stakes_of(
            answers.rows,
            answers.class_names,
            other_class=answers.other_class,
            conditions=conditions,
            prevalence=prevalence,
        )
        if stakes is not None:
            metrics, curves = decision_numbers(
                answers, stakes, conditions, run=run, seed=seed, n_resamples=n_resamples
            )
    if is_deferred is not None:
        deferring, told = deferring_numbers(
            answers, stakes, is_deferred, run=run, seed=seed, n_resamples=n_resamples
        )
        metrics = pd.concat([metrics, deferring], ignore_index=True)
        curves |= told
        curves["subgroups_deferring"] = handed_over(
            answers, stakes, is_deferred, seed=seed, n_resamples=n_resamples
        )
    curves["conformal"] = prediction_sets(
        answers.labelled, fit, stakes, groups=answers.groups, seed=seed, n_resamples=n_resamples
    )
    found = subgroup_tables(answers, stakes, seed=seed, n_resamples=n_resamples)
    curves |= {"subgroups": found.table, "subgroup_extremes": found.extremes}
    curves["subgroup_calibration"] = subgroup_calibration(answers, seed=seed)
    kept = {name: curve for name, curve in curves.items() if len(curve) or name == "sure_misses"}
    return Clinical(metrics, kept, tuple(notes))


def subgroup_tables(
    answers: Answers,
    stakes: Stakes | None,
    *,
    seed: int,
    n_resamples: int,
    is_deferred: npt.NDArray[np.bool_] | None = None,
) -> Subgroups:
    """Accuracy, calibration gap and deferral by subgroup, and what became of the malignant images in it.

    Accuracy and the gap are over images of a target class in the closed set, deferral over the same
    images; the case mix is that of their classes, for malignant images that of their diagnoses.
    """
    of = _attributes(answers)
    rows, labels, probs = closed_set(answers.labels, answers.pred_probs, answers.other)
    values = _values(answers, rows, labels, probs, is_deferred)
    tables = [
        subgroups(
            labels,
            values,
            {name: cells[rows] for name, cells in of.items()},
            groups=answers.groups[rows],
            rng=np.random.default_rng([seed, 3]),
            n_resamples=n_resamples,
        )
    ]
    for group in followed(stakes) if stakes is not None else []:
        at = np.flatnonzero(stakes.mask(group))  # type: ignore[union-attr]
        right, deferred = outcome_masks(answers.pred_probs, stakes, group, is_deferred)  # type: ignore[arg-type]
        tables.append(
            subgroups(
                answers.labels[at],
                {
                    f"{group}_right": right[at].astype(np.float64),
                    f"{group}_deferred": deferred[at].astype(np.float64),
                    f"{group}_missed": (~right & ~deferred)[at].astype(np.float64),
                },
                {name: cells[at] for name, cells in of.items()},
                groups=answers.groups[at],
                rng=np.random.default_rng([seed, 4]),
                n_resamples=n_resamples,
            )
        )
    return Subgroups(
        _in_order(pd.concat([t.table for t in tables], ignore_index=True), list(of)),
        pd.concat([t.extremes for t in tables], ignore_index=True),
    )


def handed_over(
    answers: Answers,
    stakes: Stakes | None,
    is_deferred: npt.NDArray[np.bool_],
    *,
    seed: int,
    n_resamples: int,
) -> pd.DataFrame:
    """Who is deferred more under a rule: the rows of `subgroup_tables` that a rule changes."""
    table = subgroup_tables(
        answers, stakes, seed=seed, n_resamples=n_resamples, is_deferred=is_deferred
    ).table
    return table[table["metric"].str.endswith(SHARE_ENDS)].reset_index(drop=True)


def subgroup_calibration(answers: Answers, *, seed: int) -> pd.DataFrame:
    """ECE of each subgroup beside the band of a perfectly calibrated model of that size, in the closed set.

    Columns `attribute, group, n_images, n_groups, ece, floor_low, floor_high, p_value, note`.
    """
    of = _attributes(answers)
    rows, labels, probs = closed_set(answers.labels, answers.pred_probs, answers.other)
    patients = answers.groups[rows]
    found = []
    for name, all_cells in of.items():
        cells = all_cells[rows]
        for group in group_order(name, sorted({str(c) for c in cells if c is not None})):
            at = np.flatnonzero(cells == group)
            n_groups = len(set(patients[at]))
            row = {"attribute": name, "group": group, "n_images": len(at), "n_groups": n_groups}
            if n_groups < FEWEST_GROUPS:
                note = f"fewer than {FEWEST_GROUPS} patients ({n_groups}): not shown"
                found.append(row | {"note": note})
                continue
            band = calibration_floor(
                labels[at],
                probs[at],
                groups=patients[at],
                metrics=("ece",),
                rng=np.random.default_rng([seed, 5]),
                n_simulations=N_SIMULATIONS,
            ).iloc[0]
            kept = {c: float(band[c]) for c in ("floor_low", "floor_high", "p_value")}
            found.append(row | {"ece": float(band["value"]), **kept, "note": ""})
    columns = [
        "attribute", "group", "n_images", "n_groups", "ece", "floor_low", "floor_high", "p_value", "note",
    ]  # fmt: skip
    return pd.DataFrame(found, columns=columns)


def _attributes(answers: Answers) -> dict[str, npt.NDArray[np.object_]]:
    found = attributes(answers.rows)
    return {str(name): found[name].to_numpy(dtype=object) for name in found}


def _values(
    answers: Answers,
    rows: npt.NDArray[np.intp],
    labels: Labels,
    probs: Probs,
    is_deferred: npt.NDArray[np.bool_] | None,
) -> dict[str, Floats]:
    ranks = label_ranks(labels, probs)
    confidence, correct = confidence_and_correct(labels, probs)
    values = {
        "top_1_accuracy": (ranks < 1).astype(np.float64),
        "top_3_accuracy": (ranks < 3).astype(np.float64),
        "calibration_gap": confidence - correct,
    }
    if answers.other is None and is_deferred is None:
        return values
    deferred = np.zeros(len(rows), dtype=bool) if is_deferred is None else is_deferred[rows]
    if answers.other is not None:
        predicted = top_class(answers.labels[rows], answers.pred_probs[rows])
        deferred = deferred | (predicted == answers.other)
    return values | {"target_deferred": deferred.astype(np.float64)}


def _in_order(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Rows by attribute, metric as they came, and group as it is read."""
    place = {
        (str(name), group): (names.index(str(name)), i)
        for name, held in table.groupby("attribute")
        for i, group in enumerate(group_order(str(name), list(held["group"].unique())))
    }
    metrics = {metric: i for i, metric in enumerate(dict.fromkeys(table["metric"]))}
    keys = [
        (place[a, g][0], metrics[m], place[a, g][1])
        for a, g, m in zip(table["attribute"], table["group"], table["metric"], strict=True)
    ]
    order = sorted(range(len(table)), key=keys.__getitem__)
    return table.iloc[order].reset_index(drop=True)
