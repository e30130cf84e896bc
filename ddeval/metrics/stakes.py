"""Stakes: what becomes of the patients whose condition must not be missed, as numbers with intervals.

Three outcomes for each image of a risk group: **right** (answered with a class of that group or a more
serious one), **deferred** to a person, **missed** (answered with anything less). A group is a fact about
the image's diagnosis, so that a cancer labelled `other` counts; what the model can say is a class. The single
numbers are defined in `ddeval.metrics.decisions`; here they are put together for one run, so that every
one of them sees the resamples of its other metrics.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.metrics.arrays import Floats, Probs, Weights, top_class, weighted_means
from ddeval.metrics.decisions import (
    confident_misses,
    harm_draws,
    is_flagged,
    malignant_probability,
    net_benefit_curve_draws,
    sensitivity_at_specificity_draws,
)
from ddeval.metrics.resampling import group_weights, weighed
from ddeval.metrics.shares import share_ends, stated_interval

Mask = npt.NDArray[np.bool_]

SERIOUS = ("malignant", "urgent")
"""Risk groups that are followed, the most serious first."""

SPECIFICITIES = (0.80, 0.90, 0.95)
THRESHOLDS = tuple(round(0.01 * i, 2) for i in range(1, 51))
"""Of the net-benefit curve: from "refer at 1 %" to "refer at 50 %"."""

DEFERRAL_COST = 1.0
"""A person looks at the image: the unit of cost, as a needless referral is."""

SURE = 0.8
"""A miss stated with this confidence is caught by nothing."""


class Stakes(NamedTuple):
    """What is known of N images and K classes, whichever run answers."""

    group_of: npt.NDArray[np.object_]
    """(N,) risk group of each image's diagnosis; None where nobody has said."""
    cost_of: Floats
    """(N,) harm of missing it, NaN where nobody has said."""
    class_of: npt.NDArray[np.int64]
    """(N,) the class that is the right answer."""
    class_groups: tuple[str | None, ...]
    """Risk group of each class; None for `other` and where nobody has said."""
    other: int | None
    """The class that defers."""
    prevalence: Mapping[str, float]
    """Of each risk group where the model will serve; the share of these images where not stated."""

    def mask(self, group: str) -> Mask:
        """Images of the group, (N,)."""
        found: Mask = self.group_of == group
        return found

    def enough(self, group: str) -> Mask:
        """Classes that are right for an image of the group: its own and more serious ones, (K,)."""
        serious = SERIOUS[: SERIOUS.index(group) + 1]
        return np.array([of in serious for of in self.class_groups], dtype=bool)

    def seriousness(self) -> npt.NDArray[np.int64]:
        """Of each class: 2 malignant, 1 urgent, 0 else, (K,)."""
        return np.array([_level(of) for of in self.class_groups], dtype=np.int64)


def followed(stakes: Stakes) -> list[str]:
    """Risk groups with an image, the most serious first."""
    return [group for group in SERIOUS if stakes.mask(group).any()]


def outcome_masks(
    pred_probs: Probs, stakes: Stakes, group: str, is_deferred: Mask | None = None
) -> tuple[Mask, Mask]:
    """Whether each image is answered rightly for the group, and whether it is deferred, (N,) each.

    Deferred: answered `other`, or held back by a rule (`is_deferred`). A tie at the top counts against
    the model: between `other` and a class that would miss, the image is missed.
    """
    enough = stakes.enough(group)
    flagged = is_flagged(pred_probs, enough)
    deferred = np.zeros(len(pred_probs), dtype=bool) if is_deferred is None else is_deferred.copy()
    if stakes.other is not None:
        rest = ~enough
        rest[stakes.other] = False
        missing = np.max(pred_probs[:, rest], axis=1, initial=-1.0)
        deferred |= (pred_probs[:, stakes.other] > missing) & ~flagged
    return flagged & ~deferred, deferred


def consequences(
    pred_probs: Probs, stakes: Stakes, *, is_deferred: Mask | None = None
) -> Callable[[Weights], dict[str, Floats]]:
    """Every decision number of one run as a function of weights (B, N).

    `<group>_right`, `_deferred`, `_missed` (shares of the group's images), `<group>_missed_per_1000`
    patients at the stated prevalence; for malignant ones `malignant_sensitivity_at_specificity_80/90/95`
    of the probability of any malignant class; `expected_cost` over the images with a cost. A group
    without an image has no number.
    """
    masks = {group: stakes.mask(group) for group in followed(stakes)}
    outcomes = {group: outcome_masks(pred_probs, stakes, group, is_deferred) for group in masks}
    malignant = stakes.enough("malignant")
    score = malignant_probability(pred_probs, malignant) if malignant.any() else None
    has_cost = np.isfinite(stakes.cost_of)
    costs = _costs(pred_probs, stakes, is_deferred)

    def measure(weights: Weights) -> dict[str, Floats]:
        numbers: dict[str, Floats] = {}
        for group, truth in masks.items():
            flagged, deferred = outcomes[group]
            shares = harm_draws(truth, flagged, deferred, weights)
            numbers |= {f"{group}_{outcome}": share for outcome, share in shares.items()}
            numbers[f"{group}_missed_per_1000"] = 1000 * stakes.prevalence[group] * shares["missed"]
        if score is not None and "malignant" in masks:
            for specificity in SPECIFICITIES:
                numbers[f"malignant_sensitivity_at_specificity_{100 * specificity:.0f}"] = (
                    sensitivity_at_specificity_draws(
                        masks["malignant"], score, weights, specificity=specificity
                    )
                )
        if has_cost.any():
            numbers["expected_cost"] = weighted_means(weights[:, has_cost], costs[has_cost])
        return numbers

    return measure


def counted(stakes: Stakes, metric: str) -> Mask:
    """Images a number of `consequences` is about, (N,)."""
    group = metric.partition("_")[0]
    if group in SERIOUS and "specificity" not in metric:
        return stakes.mask(group)
    return np.isfinite(stakes.cost_of) if metric == "expected_cost" else np.ones(len(stakes.cost_of), bool)


def harm_rows(values: pd.DataFrame, stakes: Stakes, groups: npt.NDArray[Any]) -> pd.DataFrame:
    """The harm table of the runs in `values` (`run, metric, value, ci_low, ci_high`).

    Columns `group, run, outcome, n_images` (of this outcome), `share`, `ci_low`, `ci_high`, `per_1000`,
    `per_1000_low`, `per_1000_high`, `prevalence`, `n_in_group`, `n_groups` (patients of the group).
    """
    rows = []
    held = values.set_index(["run", "metric"])
    for group in followed(stakes):
        truth = stakes.mask(group)
        prevalence, n = stakes.prevalence[group], int(truth.sum())
        for run in dict.fromkeys(values["run"]):
            for outcome in ("right", "deferred", "missed"):
                of = held.loc[(run, f"{group}_{outcome}")]
                n_groups = len(np.unique(groups[truth]))
                value, *ends = (np.array([of[c]], float) for c in ("value", "ci_low", "ci_high"))
                is_end = np.isin(value, (0.0, 1.0))
                low, high = (np.where(is_end & np.isnan(end), value, end) for end in ends)
                low, high = share_ends(value, low, high, [np.nan], n_groups)
                share, ci_low, ci_high = value.item(), low.item(), high.item()
                per = [1000 * prevalence * x for x in (share, ci_low, ci_high)]
                rows.append(
                    {
                        "group": group, "run": run, "outcome": outcome,
                        "n_images": round(share * n), "share": share, "ci_low": ci_low, "ci_high": ci_high,
                        "per_1000": per[0], "per_1000_low": per[1], "per_1000_high": per[2],
                        "prevalence": prevalence, "n_in_group": n, "n_groups": n_groups,
                    }
                )  # fmt: skip
    columns = [
        "group", "run", "outcome", "n_images", "share", "ci_low", "ci_high", "per_1000", "per_1000_low",
        "per_1000_high", "prevalence", "n_in_group", "n_groups",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def net_benefit_table(
    probs_by_run: Mapping[str, Probs],
    stakes: Stakes,
    *,
    group_of: npt.NDArray[np.intp],
    n_groups: int,
    rng: np.random.Generator,
    n_resamples: int,
    baseline: str | None = None,
) -> pd.DataFrame:
    """Net benefit of referring by the probability of any malignant class, and its difference to a baseline.

    Columns `run, threshold, net_benefit, ci_low, ci_high, refer_all, difference, difference_low,
    difference_high` (to `baseline`, within the same resamples; NaN for the baseline itself and without
    one; no ends where every resample repeats the number). No rows without a malignant image and a
    malignant class. Referring nobody is 0 throughout.
    """
    columns = [
        "run", "threshold", "net_benefit", "ci_low", "ci_high", "refer_all",
        "difference", "difference_low", "difference_high",
    ]  # fmt: skip
    truth, malignant = stakes.mask("malignant"), stakes.enough("malignant")
    if not truth.any() or not malignant.any():
        return pd.DataFrame(columns=columns)
    scores = {run: malignant_probability(probs, malignant) for run, probs in probs_by_run.items()}
    everybody = np.full(len(truth), np.inf)

    def measure(weights: Weights) -> dict[str, Floats]:
        return {
            run: net_benefit_curve_draws(truth, score, weights, thresholds=THRESHOLDS)
            for run, score in scores.items()
        }

    drawn = list(weighed(measure, group_weights(group_of, n_groups, rng=rng, n_resamples=n_resamples)))
    once = np.ones((1, len(truth)))
    point, refer_all = (
        measure(once),
        net_benefit_curve_draws(truth, everybody, once, thresholds=THRESHOLDS)[0],
    )
    replicates = {run: np.concatenate([block[run] for block in drawn]) for run in scores}
    frames = []
    for run in scores:
        low, high, _ = stated_interval(point[run][0], replicates[run])
        frame = pd.DataFrame({"threshold": THRESHOLDS, "net_benefit": point[run][0]})
        frame = frame.assign(run=run, ci_low=low, ci_high=high, refer_all=refer_all)
        frame[["difference", "difference_low", "difference_high"]] = np.nan
        if baseline is not None and run != baseline:
            difference = point[run][0] - point[baseline][0]
            low, high, _ = stated_interval(difference, replicates[run] - replicates[baseline])
            frame["difference"], frame["difference_low"], frame["difference_high"] = difference, low, high
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)[columns]


def sure_misses(pred_probs: Probs, stakes: Stakes) -> npt.NDArray[np.intp]:
    """Rows with a malignant diagnosis answered with a benign class at `SURE` or above, surest first."""
    malignant = stakes.enough("malignant")
    missed = confident_misses(stakes.mask("malignant"), pred_probs, malignant, min_confidence=SURE)
    _, deferred = outcome_masks(pred_probs, stakes, "malignant")
    rows = np.flatnonzero(missed & ~deferred)
    return rows[np.argsort(-pred_probs[rows].max(axis=1), kind="stable")]


def _costs(pred_probs: Probs, stakes: Stakes, is_deferred: Mask | None) -> Floats:
    """Cost of the answer to each image, (N,): nothing where right, `DEFERRAL_COST` where a person looks.

    A wrong answer that is more serious than the diagnosis sends the patient to a doctor for nothing, which
    costs as much as a deferral; any other wrong answer costs what missing the diagnosis does.
    """
    answer = top_class(stakes.class_of, pred_probs)
    is_right = answer == stakes.class_of
    levels = stakes.seriousness()
    own = np.array([_level(of) for of in stakes.group_of], dtype=np.int64)
    costs = np.where(levels[answer] > own, DEFERRAL_COST, stakes.cost_of)
    costs = np.where(is_right, 0.0, costs)
    deferred = np.zeros(len(answer), dtype=bool) if is_deferred is None else is_deferred
    if stakes.other is not None:
        deferred = deferred | (answer == stakes.other)
    return np.asarray(np.where(deferred, DEFERRAL_COST, costs), dtype=np.float64)


def _level(group: str | None) -> int:
    return len(SERIOUS) - SERIOUS.index(group) if group in SERIOUS else 0
