"""Clinical numbers of a run: risk groups, subgroups, score rules and sets, beside the general metrics.

Computed from what `ddeval.score.numbers` joined; every table is a curve of the run folder, so that a page
draws it and `ddeval verify` computes it again.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.data.attributes import attributes, group_order
from ddeval.data.conditions import Conditions
from ddeval.metrics.arrays import Floats, Labels, Probs, top_class
from ddeval.metrics.binning import confidence_and_correct
from ddeval.metrics.discrimination import label_ranks
from ddeval.metrics.floors import calibration_floor
from ddeval.metrics.readings import closed_set
from ddeval.metrics.resampling import group_codes, group_weights, percentile_interval, stated_ends, weighed
from ddeval.metrics.stakes import (
    Stakes,
    consequences,
    counted,
    followed,
    harm_rows,
    net_benefit_table,
    outcome_masks,
    sure_misses,
)
from ddeval.metrics.subgroups import FEWEST_GROUPS, Subgroups, subgroups
from ddeval.score.stakes import diagnoses, stakes_of

N_SIMULATIONS = 200
"""Of a perfectly calibrated model in each subgroup: the band is read to two digits."""


class Clinical(NamedTuple):
    """What is added to the numbers of a run."""

    metrics: pd.DataFrame
    """METRICS rows of `ddeval.metrics.stakes.consequences`."""
    curves: dict[str, pd.DataFrame]
    """`harm`, `net_benefit`, `sure_misses`, `subgroups`, `subgroup_extremes`, `subgroup_calibration`."""
    notes: tuple[str, ...]


class Answers(NamedTuple):
    """One run's answers to labelled images, and what the manifest says of these."""

    labels: Labels
    pred_probs: Probs
    rows: pd.DataFrame
    """Of the manifest, in the order of the labels."""
    groups: npt.NDArray[Any]
    class_names: tuple[str, ...]
    other_class: str | None

    @property
    def other(self) -> int | None:
        return None if self.other_class is None else self.class_names.index(self.other_class)


def clinical(
    answers: Answers,
    *,
    run: str,
    conditions: Conditions | None,
    prevalence: Mapping[str, float] | None = None,
    seed: int,
    n_resamples: int,
) -> Clinical:
    """Decisions and subgroups of a run; without `conditions` there are no decisions.

    Parameters
    ----------
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
            metrics, curves = _decisions(answers, stakes, conditions, run, seed, n_resamples)
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
    rows, labels, probs = _targets(answers)
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


def subgroup_calibration(answers: Answers, *, seed: int) -> pd.DataFrame:
    """ECE of each subgroup beside the band of a perfectly calibrated model of that size, in the closed set.

    Columns `attribute, group, n_images, n_groups, ece, floor_low, floor_high, p_value, note`.
    """
    of = _attributes(answers)
    rows, labels, probs = _targets(answers)
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


def sure_miss_table(answers: Answers, stakes: Stakes, conditions: Conditions) -> pd.DataFrame:
    """Malignant images answered as benign and surely: `image_id, diagnosis, label, predicted, confidence`."""
    rows = sure_misses(answers.pred_probs, stakes)
    names = np.array(answers.class_names, dtype=object)
    probs = answers.pred_probs[rows]
    said = diagnoses(answers.rows, conditions).to_numpy(dtype=object)
    return pd.DataFrame(
        {
            "image_id": answers.rows["image_id"].to_numpy(dtype=object)[rows],
            "diagnosis": said[rows],
            "label": names[answers.labels[rows]],
            "predicted": names[probs.argmax(axis=1)],
            "confidence": probs.max(axis=1),
        }
    )


def _decisions(
    answers: Answers, stakes: Stakes, conditions: Conditions, run: str, seed: int, n_resamples: int
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    group_of, n_groups = group_codes(answers.groups)
    measure = consequences(answers.pred_probs, stakes)
    rng = np.random.default_rng([seed, 2])
    drawn = list(weighed(measure, group_weights(group_of, n_groups, rng=rng, n_resamples=n_resamples)))
    rows = []
    for metric, value in measure(np.ones((1, len(group_of)))).items():
        replicates = np.concatenate([block[metric] for block in drawn])[:, None]
        low, high, n_undefined = percentile_interval(replicates)
        at = counted(stakes, metric)
        n_groups_at = len(np.unique(group_of[at]))
        is_share = metric.endswith(("_right", "_deferred", "_missed"))
        low, high = stated_ends(value, low, high, share_of=[n_groups_at] if is_share else None)
        rows.append(
            {
                "run": run, "metric": metric, "subset": "all", "class_name": None,
                "value": float(value[0]), "ci_low": float(low[0]), "ci_high": float(high[0]),
                "n_images": int(at.sum()), "n_groups": n_groups_at,
                "n_undefined": int(n_undefined[0]),
            }
        )  # fmt: skip
    metrics = pd.DataFrame(rows)
    curves = {
        "sure_misses": sure_miss_table(answers, stakes, conditions),
        "net_benefit": net_benefit_table(
            {run: answers.pred_probs}, stakes, group_of=group_of, n_groups=n_groups,
            rng=np.random.default_rng([seed, 2]), n_resamples=n_resamples,
        ),
    }  # fmt: skip
    if len(metrics):
        curves["harm"] = harm_rows(metrics, stakes, answers.groups)
    return metrics, curves


def _attributes(answers: Answers) -> dict[str, npt.NDArray[np.object_]]:
    found = attributes(answers.rows)
    return {str(name): found[name].to_numpy(dtype=object) for name in found}


def _targets(answers: Answers) -> tuple[npt.NDArray[np.intp], Labels, Probs]:
    if answers.other is None:
        return np.arange(len(answers.labels)), answers.labels, answers.pred_probs
    return closed_set(answers.labels, answers.pred_probs, answers.other)


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
