"""A comparison: `ddeval.metrics.paired` asked about joined runs, with what is at stake and for whom.

Which runs may be compared is decided in `ddeval.score.joined`. Every table here is a frame with a column
`run`; `ddeval.score.clinical` makes the same tables for one run.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from ddeval.config import Section, parse_config, read_yaml
from ddeval.data.conditions import Conditions
from ddeval.errors import InputError
from ddeval.metrics.arrays import Floats, Weights
from ddeval.metrics.calibration import ece
from ddeval.metrics.gate import Kind, judged, overall
from ddeval.metrics.paired import LOWER_IS_BETTER, Comparison, Key, compare, flips
from ddeval.metrics.readings import closed_set
from ddeval.metrics.resampling import N_RESAMPLES, group_codes
from ddeval.metrics.stakes import Stakes, consequences, harm_rows, net_benefit_table
from ddeval.score.clinical import subgroup_calibration, subgroup_tables, sure_miss_table
from ddeval.score.joined import Joined, join
from ddeval.score.stakes import stakes_of

__all__ = [
    "Joined", "at_stake", "clinical_tables", "compared", "flip_table", "gate_answers", "join", "read_gate",
]  # fmt: skip

N_FLIPS = 60
"""Flips kept of each pair and direction, the surest first."""


class Criterion(Section):
    """One line of a gate file."""

    name: str
    metric: str
    kind: Kind
    bound: Annotated[float, Field(allow_inf_nan=False)]
    subset: str = "all"


class Gate(Section):
    """A gate file: criteria written before the run."""

    criteria: Annotated[tuple[Criterion, ...], Field(min_length=1)]


def compared(
    joined: Joined,
    *,
    baseline: str | None,
    stakes: Stakes | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Comparison:
    """The paired numbers of joined runs; `baseline` is a run's name, by default the first.

    With `stakes` the numbers of `ddeval.metrics.stakes.consequences` are among them.
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
        more={} if stakes is None else {run: _decisions(joined, run, stakes) for run in joined.names},
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
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, pd.DataFrame]:
    """`harm`, `net_benefit`, `sure_misses`, `subgroups`, `subgroup_extremes`, `subgroup_calibration`.

    As the curves of one run, with a column `run` before the others; net benefit with its paired
    difference to `baseline`. Without `stakes` the last three.
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


def _decisions(joined: Joined, run: str, stakes: Stakes) -> Callable[[Weights], dict[Key, Floats]]:
    measure = consequences(joined.pred_probs[run], stakes)
    return lambda weights: {("all", name): numbers for name, numbers in measure(weights).items()}


def _calibration_errors(joined: Joined) -> pd.DataFrame:
    """The ECE of each run over the targets, without an interval (docs/decisions/0002-ece-band.md)."""
    rows = []
    for run, probs in joined.pred_probs.items():
        labels = joined.labels
        if joined.other_class is not None:
            _, labels, probs = closed_set(labels, probs, joined.class_names.index(joined.other_class))
        row = {"run": run, "metric": "ece", "subset": "all", "value": ece(labels, probs)}
        rows.append(row | {"ci_low": np.nan, "ci_high": np.nan, "n_undefined": 0})
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


def read_gate(path: Path) -> Gate:
    """The criteria in a gate file; an InputError names an unknown key or kind."""
    gate: Gate = parse_config(read_yaml(path), Gate, where=str(path))
    return gate


def gate_answers(
    gate: Gate, comparison: Comparison, *, run: str, baseline: str, where: str
) -> dict[str, Any]:
    """Each criterion's answer for `run` with its number, interval and n, and the answer of the whole gate."""
    held = comparison.values.set_index(["run", "subset", "metric"])
    gains = comparison.differences.set_index(["run", "baseline", "subset", "metric"])
    criteria: list[dict[str, Any]] = []
    for criterion in gate.criteria:
        key = (criterion.subset, criterion.metric)
        is_difference = criterion.kind in ("not_worse", "better")
        table = gains if is_difference else held
        place: Any = (run, baseline, *key) if is_difference else (run, *key)
        if place not in table.index:
            known = sorted(set(comparison.values["metric"]))
            raise InputError(
                f"{where}: {criterion.name}",
                f"the metric {criterion.metric!r} of subset {criterion.subset!r}",
                expected=f"one of {', '.join(known)}",
                todo="Correct the gate file.",
            )
        row: Mapping[Any, Any] = table.loc[place].to_dict()
        answer = judged(
            criterion.kind,
            criterion.bound,
            ci_low=float(row["ci_low"]),
            ci_high=float(row["ci_high"]),
            lower_is_better=criterion.metric.removeprefix("open_") in LOWER_IS_BETTER,
        )
        criteria.append(
            {
                "name": criterion.name,
                "answer": answer,
                "metric": criterion.metric,
                "kind": criterion.kind,
                "is_difference": is_difference,
                "value": float(row["difference" if is_difference else "value"]),
                "ci_low": float(row["ci_low"]),
                "ci_high": float(row["ci_high"]),
                "bound": criterion.bound,
                "n_images": comparison.n_images,
                "n_groups": comparison.n_groups,
            }
        )
    answer = overall(c["answer"] for c in criteria)
    counts = {word: sum(c["answer"] == word for c in criteria) for word in ("pass", "fail", "cannot tell")}
    said = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    return {
        "run": run,
        "baseline": baseline,
        "answer": answer,
        "sentence": f"{run}: {said}.",
        "criteria": criteria,
    }
