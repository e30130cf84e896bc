"""Decision numbers of a run: what its answers mean for the patients who matter most.

The numbers are defined in `ddeval.metrics.stakes`; here they get their intervals and become rows and tables
of one run. With a deferral rule they are told once more, as the service would act under it.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.data.conditions import Conditions
from ddeval.metrics.arrays import Floats, Weights, top_class
from ddeval.metrics.deferral import answered_draws
from ddeval.metrics.paired import SHARE_ENDS
from ddeval.metrics.resampling import group_codes, group_weights, weighed
from ddeval.metrics.shares import stated_interval
from ddeval.metrics.stakes import Stakes, consequences, counted, harm_rows, net_benefit_table, sure_misses
from ddeval.score.answers import Answers
from ddeval.score.stakes import diagnoses

Mask = npt.NDArray[np.bool_]
DEFERRING = "deferring"
"""Subset of METRICS: all images, where the deferral rule hands over what it does."""


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


def decision_numbers(
    answers: Answers, stakes: Stakes, conditions: Conditions, *, run: str, seed: int, n_resamples: int
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """METRICS rows of `consequences`, and the tables `sure_misses`, `net_benefit` and `harm`."""
    measure = consequences(answers.pred_probs, stakes)
    metrics = _rows(measure, answers, stakes, subset="all", run=run, seed=seed, n_resamples=n_resamples)
    group_of, n_groups = group_codes(answers.groups)
    curves = {
        "sure_misses": sure_miss_table(answers, stakes, conditions),
        "net_benefit": net_benefit_table(
            {run: answers.pred_probs}, stakes, group_of=group_of, n_groups=n_groups,
            rng=np.random.default_rng(seed), n_resamples=n_resamples,
        ),
    }  # fmt: skip
    if len(metrics):
        curves["harm"] = harm_rows(metrics, stakes, answers.groups)
    return metrics, curves


def deferring_numbers(
    answers: Answers, stakes: Stakes | None, is_deferred: Mask, *, run: str, seed: int, n_resamples: int
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """METRICS rows of the subset `deferring`; tables `deferring` and, with stakes, `harm_deferring`."""
    measure = deferring(answers, stakes, is_deferred)
    metrics = _rows(measure, answers, stakes, subset=DEFERRING, run=run, seed=seed, n_resamples=n_resamples)
    curves = {"deferring": kept_rows(metrics, [run]).drop(columns="run")}
    if stakes is not None:
        curves["harm_deferring"] = harm_rows(metrics, stakes, answers.groups)
    return metrics, curves


def kept_rows(values: pd.DataFrame, with_rule: Collection[str]) -> pd.DataFrame:
    """`run, has_rule, metric, value, ci_low, ci_high` of what is answered, of the subset `deferring`."""
    kept = values[values["metric"].isin(["answered", "answered_wrong"])]
    kept = kept.assign(has_rule=kept["run"].isin(list(with_rule)))
    return kept[["run", "has_rule", "metric", "value", "ci_low", "ci_high"]].reset_index(drop=True)


def deferring(
    answers: Answers, stakes: Stakes | None, is_deferred: Mask | None
) -> Callable[[Weights], dict[str, Floats]]:
    """What happens where a rule hands over `is_deferred` (N,), as a function of weights (B, N).

    `answered` and `answered_wrong` over all images and, with `stakes`, every number of `consequences`. An
    answer `other` is deferred too; without a rule nothing else is.
    """
    answer = top_class(answers.labels, answers.pred_probs)
    is_answered = np.ones(len(answer), dtype=bool) if answers.other is None else answer != answers.other
    if is_deferred is not None:
        is_answered &= ~is_deferred
    kept = answered_draws(answer == answers.labels, is_answered)
    at_stake = None if stakes is None else consequences(answers.pred_probs, stakes, is_deferred=is_deferred)

    def measure(weights: Weights) -> dict[str, Floats]:
        return kept(weights) | (at_stake(weights) if at_stake else {})

    return measure


def _rows(
    measure: Callable[[Weights], Mapping[str, Floats]],
    answers: Answers,
    stakes: Stakes | None,
    *,
    subset: str,
    run: str,
    seed: int,
    n_resamples: int,
) -> pd.DataFrame:
    """METRICS rows of what `measure` gives, with intervals over groups."""
    group_of, n_groups = group_codes(answers.groups)
    rng = np.random.default_rng(seed)
    drawn = list(weighed(measure, group_weights(group_of, n_groups, rng=rng, n_resamples=n_resamples)))
    rows = []
    for metric, value in measure(np.ones((1, len(group_of)))).items():
        replicates = np.concatenate([block[metric] for block in drawn])[:, None]
        at = np.ones(len(group_of), dtype=bool) if stakes is None else counted(stakes, metric)
        n_groups_at = len(np.unique(group_of[at]))
        share_of = n_groups_at if metric.endswith(SHARE_ENDS) else None
        low, high, n_undefined = stated_interval(value, replicates, share_of=share_of)
        rows.append(
            {
                "run": run, "metric": metric, "subset": subset, "class_name": None,
                "value": float(value[0]), "ci_low": float(low[0]), "ci_high": float(high[0]),
                "n_images": int(at.sum()), "n_groups": n_groups_at,
                "n_undefined": int(n_undefined[0]),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
