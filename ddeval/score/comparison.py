"""A comparison: `ddeval.metrics.paired` asked about joined runs, with what is at stake and for whom.

Which runs may be compared is decided in `ddeval.score.joined`. Every table here is a frame with a column
`run`; `ddeval.score.clinical` makes the same tables for one run.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.data.conditions import Conditions
from ddeval.errors import InputError
from ddeval.metrics.arrays import Floats, Weights
from ddeval.metrics.calibration import ece
from ddeval.metrics.paired import Comparison, Key, compare, flips
from ddeval.metrics.readings import closed_set
from ddeval.metrics.resampling import N_RESAMPLES, group_codes
from ddeval.metrics.stakes import Stakes, consequences, counted, harm_rows, net_benefit_table
from ddeval.score.clinical import handed_over, subgroup_calibration, subgroup_tables
from ddeval.score.decisions import DEFERRING, deferring, kept_rows, sure_miss_table
from ddeval.score.joined import Joined
from ddeval.score.sets import prediction_sets
from ddeval.score.stakes import stakes_of

Mask = npt.NDArray[np.bool_]

N_FLIPS = 60
"""Flips kept of each pair and direction, the surest first."""


def compared(
    joined: Joined,
    *,
    baseline: str | None,
    stakes: Stakes | None = None,
    held_back: Mapping[str, Mask] | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Comparison:
    """The paired numbers of joined runs; `baseline` is a run's name, by default the first.

    With `stakes` the numbers of `ddeval.metrics.stakes.consequences` are among them. With `held_back` (what
    a deferral rule hands over of each run's images that has one) so are those of the subset `deferring`.
    """
    base = baseline or joined.names[0]
    if base not in joined.names:
        raise InputError(
            f"--baseline {base}", "no such run", expected=f"one of {', '.join(joined.names)}", todo="Name it."
        )
    found = compare(
        joined.labels,
        joined.pred_probs,
        groups=joined.groups,
        rng=np.random.default_rng(seed),
        baseline=base,
        class_names=joined.class_names,
        other_class=joined.other_class,
        case_ids=joined.case_ids,
        more={run: _decisions(joined, run, stakes, held_back) for run in joined.names},
        more_over={} if stakes is None else _counted(joined, stakes),
        n_resamples=n_resamples,
    )
    return found._replace(values=pd.concat([found.values, _calibration_errors(joined)], ignore_index=True))


def at_stake(
    joined: Joined, conditions: Conditions, *, prevalence: Mapping[str, float] | None = None
) -> tuple[Stakes | None, list[str]]:
    """What is at stake for the compared images. Arguments and notes as `ddeval.score.stakes.stakes_of`."""
    return stakes_of(
        joined.rows,
        joined.class_names,
        other_class=joined.other_class,
        conditions=conditions,
        prevalence=prevalence,
    )


def clinical_tables(
    joined: Joined,
    found: Comparison,
    *,
    baseline: str,
    stakes: Stakes | None,
    conditions: Conditions | None = None,
    held_back: Mapping[str, Mask] | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, pd.DataFrame]:
    """`harm`, `net_benefit`, `sure_misses`, `conformal`, `subgroups`, `subgroup_extremes`,
    `subgroup_calibration`; with `held_back` `deferring`, `harm_deferring` and `subgroups_deferring`.

    As the curves of one run, with a column `run` before the others; net benefit with its paired
    difference to `baseline`. Without `stakes` not the first three, nor `harm_deferring`. `deferring` says of
    each run whether it `has_rule`, and its `answered` and `answered_wrong` with intervals.
    """
    tables: dict[str, pd.DataFrame] = {}
    if stakes is not None and conditions is not None:
        of_images = found.values[found.values["subset"] == "all"]
        group_of, n_groups = group_codes(joined.groups)
        tables["harm"] = harm_rows(of_images, stakes, joined.groups)
        tables["net_benefit"] = net_benefit_table(
            joined.pred_probs, stakes, group_of=group_of, n_groups=n_groups, baseline=baseline,
            rng=np.random.default_rng(seed), n_resamples=n_resamples,
        )  # fmt: skip
        tables["sure_misses"] = _of_runs(
            {run: sure_miss_table(joined.answers(run), stakes, conditions) for run in joined.names}
        )
    if held_back:
        under_rule = found.values[found.values["subset"] == DEFERRING]
        if stakes is not None:
            tables["harm_deferring"] = harm_rows(under_rule, stakes, joined.groups)
        tables["deferring"] = kept_rows(under_rule, held_back)
        tables["subgroups_deferring"] = _of_runs(
            {
                run: handed_over(joined.answers(run), stakes, held, seed=seed, n_resamples=n_resamples)
                for run, held in held_back.items()
            }
        )
    tables["conformal"] = _of_runs(
        {
            run: prediction_sets(
                joined.answers(run).labelled, joined.fit(run), stakes,
                groups=joined.groups, seed=seed, n_resamples=n_resamples,
            )
            for run in joined.names
        }
    )  # fmt: skip
    by_group = {
        run: subgroup_tables(joined.answers(run), stakes, seed=seed, n_resamples=n_resamples)
        for run in joined.names
    }
    tables["subgroups"] = _of_runs({run: of.table for run, of in by_group.items()})
    tables["subgroup_extremes"] = _of_runs({run: of.extremes for run, of in by_group.items()})
    tables["subgroup_calibration"] = _of_runs(
        {run: subgroup_calibration(joined.answers(run), seed=seed) for run in joined.names}
    )
    return tables


def _of_runs(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The tables of several runs under each other, named in the first column."""
    named = [frame.assign(run=run)[["run", *frame.columns]] for run, frame in frames.items()]
    held = [frame for frame in named if len(frame)]
    return pd.concat(held, ignore_index=True) if held else named[0]


def _decisions(
    joined: Joined, run: str, stakes: Stakes | None, held_back: Mapping[str, Mask] | None
) -> Callable[[Weights], dict[Key, Floats]]:
    """Decision numbers of a run and, where there is a rule for any run, those under its own."""
    measures = {} if stakes is None else {"all": consequences(joined.pred_probs[run], stakes)}
    if held_back:
        measures[DEFERRING] = deferring(joined.answers(run), stakes, held_back.get(run))

    def measure(weights: Weights) -> dict[Key, Floats]:
        return {
            (subset, name): numbers
            for subset, of in measures.items()
            for name, numbers in of(weights).items()
        }

    return measure


def _counted(joined: Joined, stakes: Stakes) -> dict[Key, Mask]:
    """The images each decision number is over."""
    names = consequences(joined.pred_probs[joined.names[0]], stakes)(np.ones((1, len(joined.labels))))
    return {(subset, name): counted(stakes, name) for subset in ("all", DEFERRING) for name in names}


def _calibration_errors(joined: Joined) -> pd.DataFrame:
    """The ECE of each run over the targets, without an interval (docs/decisions/0002-ece-band.md)."""
    rows = []
    for run, probs in joined.pred_probs.items():
        at, labels, closed = closed_set(joined.labels, probs, joined.other)
        row = {"run": run, "metric": "ece", "subset": "all", "value": ece(labels, closed)}
        row |= {"ci_low": np.nan, "ci_high": np.nan, "n_images": len(at)}
        rows.append(row | {"n_groups": len(np.unique(joined.groups[at])), "n_undefined": 0})
    return pd.DataFrame(rows)


def flip_table(joined: Joined, run: str, baseline: str) -> pd.DataFrame:
    """Images one of two runs has right: `image_id, label, direction` (+1 run right), answers, confidences."""
    ours, theirs = joined.pred_probs[run], joined.pred_probs[baseline]
    direction = flips(joined.labels, ours, theirs)
    names = np.array(joined.class_names, dtype=object)
    frame = pd.DataFrame(
        {
            "image_id": joined.image_ids,
            "label": names[joined.labels],
            "direction": direction,
            "predicted": names[ours.argmax(axis=1)],
            "confidence": ours.max(axis=1),
            "baseline_predicted": names[theirs.argmax(axis=1)],
            "baseline_confidence": theirs.max(axis=1),
        }
    )
    frame["run"], frame["baseline"] = run, baseline
    frame = frame[frame["direction"] != 0]
    frame = frame.sort_values(["direction", "confidence", "image_id"], ascending=[False, False, True])
    return frame.groupby("direction", sort=False).head(N_FLIPS).reset_index(drop=True)
