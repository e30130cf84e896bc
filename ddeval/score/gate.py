"""The gate file: criteria written before the run, each answered from an interval with its n.

    criteria:
      - {name: no worse at cancers, metric: malignant_right, kind: not_worse, bound: 0.02}
      - {name: good enough,         metric: top_1_accuracy, kind: at_least, bound: 0.70}
      - {name: for all skin types,  metric: largest_subgroup_gap, of: top_1_accuracy,
         attribute: "skin type, stated by the patient", kind: at_most, bound: 0.10}
      - {name: honest confidence,   metric: ece, kind: at_most, bound: 0.05}
      - {name: fast enough,         metric: latency_p95_ms, kind: at_most, bound: 250}

Any metric of the comparison may be asked for. `ddeval.metrics.gate` gives the answers; the hash of the
file and the time it was first asked stand in the ledger beside the manifest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field, field_validator, model_validator

from ddeval import io
from ddeval.config import Section, parse_config, read_yaml
from ddeval.data.attributes import carried, possible_groups, recorded
from ddeval.errors import InputError
from ddeval.metrics.arrays import Floats
from ddeval.metrics.calibration import ece_interval
from ddeval.metrics.gate import Answer, Kind, judged, overall
from ddeval.metrics.paired import LOWER_IS_BETTER, SHARE_ENDS, Comparison
from ddeval.metrics.readings import closed_set
from ddeval.metrics.resampling import N_RESAMPLES, quantile_interval
from ddeval.score.decisions import DEFERRING
from ddeval.score.joined import Joined

LARGEST_GAP = "largest_subgroup_gap"
LATENCY = "latency_p95_ms"
AT_STAKE = {
    f"{group}_{what}"
    for group in ("malignant", "urgent")
    for what in ("right", "deferred", "missed", "missed_per_1000")
}
"""Numbers that are there where a photograph has a diagnosis of the group; without any they cannot be told."""
ABOVE_ONE = ("nll", "brier_score", "expected_cost", LATENCY)
"""Numbers that are no share and may exceed 1; those per 1,000 too."""
OF_SUBGROUPS = (
    "top_1_accuracy", "top_3_accuracy", "calibration_gap",
    *(name for name in sorted(AT_STAKE) if name.endswith(SHARE_ENDS)),
)  # fmt: skip
"""Numbers of subgroups: of a group without a photograph that they are over they cannot be told."""


def may_exceed_one(metric: str) -> bool:
    """Whether a metric is more than a share, an area or a correlation, of which 70 % is 0.7."""
    return metric.removeprefix("open_") in ABOVE_ONE or metric.endswith("_per_1000")


class Criterion(Section):
    """One line of a gate file."""

    name: Annotated[str, Field(min_length=1)]
    metric: str
    kind: Kind
    bound: Annotated[float, Field(allow_inf_nan=False)]
    subset: str = "all"
    of: str | None = None
    """Of a largest gap: the metric that may not differ."""
    attribute: str | None = None
    """Of a largest gap, or of a group's own number: as in the table `subgroups`."""
    group: str | None = None
    """A number of this group of `attribute`."""

    @model_validator(mode="after")
    def _subgroups_are_named_in_full(self) -> "Criterion":
        if self.metric == LARGEST_GAP and (self.of is None or self.attribute is None):
            raise ValueError(f"{LARGEST_GAP} needs `of` (a metric) and `attribute`")
        if self.group is not None and self.attribute is None:
            raise ValueError("a `group` needs its `attribute`")
        no_side = self.metric.endswith(("_deferred", "calibration_gap"))  # more is neither better nor worse
        if self.kind in ("not_worse", "better") and (
            no_side or self.metric in (LARGEST_GAP, LATENCY, "ece") or self.attribute is not None
        ):
            raise ValueError(f"{self.metric} can be at_least or at_most, not {self.kind}")
        return self

    @model_validator(mode="after")
    def _nothing_is_passed_over(self) -> "Criterion":
        is_gap, of_group = self.metric == LARGEST_GAP, self.attribute is not None
        if of_group and not is_gap and self.group is None:
            raise ValueError("the `group` of that `attribute`")
        if is_gap and self.group is not None:
            raise ValueError(f"no `group`: {LARGEST_GAP} is between all groups of the attribute")
        if self.of is not None and not is_gap:
            raise ValueError(f"`of` beside the metric {LARGEST_GAP} alone")
        if self.subset != "all" and (of_group or self.metric == LATENCY):
            raise ValueError("no `subset`: groups are judged by photograph, a latency by its bench")
        return self

    @model_validator(mode="after")
    def _a_bound_can_be_missed(self) -> "Criterion":
        if self.kind in ("not_worse", "better") and self.bound < 0:
            raise ValueError("a margin that is not negative: 0.02 allows a loss of 2 points")
        if abs(self.bound) > 1 and not may_exceed_one(self.of or self.metric):
            raise ValueError("a bound between -1 and 1, as the number is: 70 % is 0.7")
        return self


class Gate(Section):
    """A gate file: criteria written before the run."""

    criteria: tuple[Criterion, ...]

    @field_validator("criteria")
    @classmethod
    def _something_is_asked(cls, criteria: tuple[Criterion, ...]) -> tuple[Criterion, ...]:
        if not criteria:
            raise ValueError("one criterion or more")
        return criteria


class Found(NamedTuple):
    """What a criterion is answered from."""

    value: float
    ci_low: float
    ci_high: float
    n_images: int
    n_groups: int
    note: str = ""


def read_gate(path: Path) -> Gate:
    """The criteria in a gate file; an InputError names an unknown key or kind."""
    gate: Gate = parse_config(read_yaml(path), Gate, where=str(path))
    return gate


def gate_answers(
    gate: Gate,
    joined: Joined,
    comparison: Comparison,
    tables: Mapping[str, pd.DataFrame],
    *,
    run: str,
    baseline: str,
    where: str,
    bench: Sequence[Path] = (),
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, Any]:
    """Each criterion's answer for `run` with its number, interval and n, and the answer of the whole gate.

    Parameters
    ----------
    tables : mapping
        `ddeval.score.comparison.clinical_tables`: subgroups and their extremes.
    bench : paths
        JSON of `ddeval bench`: `checkpoint` (the run's name) and `latencies_ms`, or `latency_p95_ms` alone.

    Raises
    ------
    InputError
        For a criterion about a number that is not there.
    """
    criteria: list[dict[str, Any]] = []
    for criterion in gate.criteria:
        place = f"{where}: {criterion.name}"
        if criterion.metric == LATENCY:
            found = latency(run, bench)
        elif criterion.attribute is not None:
            found = _unrecorded(criterion, joined) or _of_subgroups(
                criterion, joined, tables, comparison, run, place
            )
        elif criterion.metric == "ece" and criterion.subset == "all":
            found = _ece(joined, run, seed=seed, n_resamples=n_resamples)
        else:
            found = _of_comparison(criterion, comparison, run, baseline, place)
        answer = judged(
            criterion.kind,
            criterion.bound,
            ci_low=found.ci_low,
            ci_high=found.ci_high,
            lower_is_better=criterion.metric.removeprefix("open_") in LOWER_IS_BETTER,
        )
        criteria.append(
            {
                "name": criterion.name,
                "answer": answer,
                "metric": criterion.metric,
                "of": criterion.of,
                "attribute": criterion.attribute,
                "group": criterion.group,
                "kind": criterion.kind,
                "is_difference": criterion.kind in ("not_worse", "better"),
                "bound": criterion.bound,
                **found._asdict(),
            }
        )
    return {"run": run, "baseline": baseline, **_verdict(run, criteria)} | {"criteria": criteria}


def _verdict(run: str, criteria: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The answer of the whole gate, and how many criteria gave which; all that do not pass by name."""
    named: dict[Answer, list[str]] = {"pass": [], "fail": [], "cannot tell": []}
    for criterion in criteria:
        named[criterion["answer"]].append(criterion["name"])
    said = [f"{len(names)} {word}" for word, names in named.items() if names and word == "pass"]
    said += [f"{len(names)} {word} ({'; '.join(names)})" for word, names in named.items()
             if names and word != "pass"]  # fmt: skip
    return {"answer": overall(c["answer"] for c in criteria), "sentence": f"{run}: {', '.join(said)}."}


def _of_comparison(
    criterion: Criterion, comparison: Comparison, run: str, baseline: str, place: str
) -> Found:
    """A number of the run, or its paired difference to the baseline."""
    is_difference = criterion.kind in ("not_worse", "better")
    table = comparison.differences if is_difference else comparison.values
    at = (table["run"] == run) & (table["subset"] == criterion.subset)
    at &= table["metric"] == criterion.metric
    if is_difference:
        at &= table["baseline"] == baseline
    known = comparison.values[comparison.values["run"] == run]
    if not at.any() and criterion.metric in AT_STAKE and criterion.metric not in set(known["metric"]):
        return Found(np.nan, np.nan, np.nan, 0, 0, "no photograph of that risk group")
    subsets = list(dict.fromkeys(known.loc[known["metric"] == criterion.metric, "subset"]))
    if not at.any() and (subsets or criterion.subset == DEFERRING):
        raise InputError(
            place,
            f"the subset {criterion.subset!r} of {criterion.metric!r}",
            expected=" or ".join(subsets) or "a deferral rule of this run",
            todo="Pass its rule with --abstain."
            if criterion.subset == DEFERRING
            else "Correct the gate file.",
        )
    if not at.any():
        raise InputError(
            place,
            f"the metric {criterion.metric!r} of subset {criterion.subset!r}",
            expected=f"one of {', '.join(sorted({*comparison.values['metric'], LARGEST_GAP, LATENCY}))}",
            todo="Correct the gate file.",
        )
    row = table[at].iloc[0]
    value = row["difference" if is_difference else "value"]
    return _told(value, row, *_counted(comparison, run, criterion.metric, criterion.subset))


def _counted(comparison: Comparison, run: str, metric: str, subset: str = "all") -> tuple[int, int]:
    """Images and groups that a number of the run is over."""
    own = comparison.values
    own = own[(own["run"] == run) & (own["subset"] == subset) & (own["metric"] == metric)]
    n_images, n_groups = own[["n_images", "n_groups"]].iloc[0]
    return int(n_images), int(n_groups)


def _told(value: float, row: pd.Series, n_images: int, n_groups: int, note: str = "") -> Found:
    """A value with the ends that a row states for it; where it has none, why."""
    low, high = float(row["ci_low"]), float(row["ci_high"])
    if np.isfinite(value) and np.isnan(low):
        note = "; ".join(part for part in (note, "every resample repeats it") if part)
    return Found(float(value), low, high, n_images, n_groups, note)


def _ece(joined: Joined, run: str, *, seed: int, n_resamples: int) -> Found:
    """The ECE with the cautious interval of `ddeval.metrics.calibration.ece_interval`."""
    rows, labels, probs = closed_set(joined.labels, joined.pred_probs[run], joined.other)
    rng = np.random.default_rng([seed, 6])
    found = ece_interval(labels, probs, groups=joined.groups[rows], rng=rng, n_resamples=n_resamples)
    return Found(found.value, found.ci_low, found.ci_high, found.n_images, found.n_groups)


def _unrecorded(criterion: Criterion, joined: Joined) -> Found | None:
    """What can be said of an attribute that the manifest carries and records of fewer than two groups."""
    cells = carried(joined.rows).get(str(criterion.attribute))
    groups = [] if cells is None else recorded(cells)
    if cells is None or len(groups) > 1:
        return None
    at = cells.isin(groups).to_numpy(dtype=bool)
    of = f"{groups[0]!r} is the only group recorded" if groups else "not recorded of any photograph"
    note = f"{criterion.attribute}: {of}: no two groups to compare"
    return Found(np.nan, np.nan, np.nan, int(at.sum()), len(np.unique(joined.groups[at])), note)


def _of_subgroups(
    criterion: Criterion,
    joined: Joined,
    tables: Mapping[str, pd.DataFrame],
    comparison: Comparison,
    run: str,
    place: str,
) -> Found:
    """The number of one group, or the largest gap between groups; unknown where it is over no photograph."""
    is_gap = criterion.metric == LARGEST_GAP
    table, metric = (
        tables["subgroup_extremes" if is_gap else "subgroups"],
        str(criterion.of or criterion.metric),
    )
    table = table[table["run"] == run]
    cells = carried(joined.rows)
    told = [name for name, of in cells.items() if len(recorded(of)) > 1]
    _check_known("attribute", str(criterion.attribute), told, place)
    _check_known("metric", metric, list(dict.fromkeys([*table["metric"], *OF_SUBGROUPS])), place)
    at = (table["attribute"] == criterion.attribute) & (table["metric"] == metric)
    whose = "of that risk group" if metric in AT_STAKE else "of a target class"
    if is_gap:
        at &= table["kind"] == "largest_gap"
        if not at.any():
            note = f"{criterion.attribute}: recorded of no photograph {whose}"
            return Found(np.nan, np.nan, np.nan, 0, 0, note)
        row = table[at].iloc[0]
        who = f"{criterion.attribute}: {row['group']}" if isinstance(row["group"], str) else ""
        note = "; ".join(part for part in (who, str(row["note"])) if part)
        return _told(row["value"], row, *_counted(comparison, run, metric), note)
    groups = sorted(set(cells[str(criterion.attribute)].dropna()))
    if criterion.group not in possible_groups(str(criterion.attribute)):
        _check_known("group", str(criterion.group), groups, place)
    at &= table["group"] == criterion.group
    if not at.any():
        note = f"{criterion.attribute}: {criterion.group}: no photograph {whose}"
        return Found(np.nan, np.nan, np.nan, 0, 0, note)
    row = table[at].iloc[0]
    return _told(row["value"], row, int(row["n_images"]), int(row["n_groups"]), str(row["note"]))


def _check_known(what: str, wanted: str, known: Sequence[str], place: str) -> None:
    if wanted not in known:
        raise InputError(
            place,
            f"the {what} {wanted!r} of a subgroup",
            expected=f"one of {', '.join(known)}" if known else "an attribute the manifest records",
            todo="Correct the gate file.",
        )


def latency(run: str, bench: Sequence[Path]) -> Found:
    """p95 of the run's bench with its exact interval; without one, nothing is known."""
    for path in bench:
        told = io.read_json(path)
        if not isinstance(told, dict) or "checkpoint" not in told:
            raise InputError(
                str(path),
                "no `checkpoint`",
                expected="the JSON of ddeval bench",
                todo="Make it with: ddeval bench CHECKPOINT --out FILE.",
            )
        if told["checkpoint"] != run:
            continue
        times = _times(path, told.get("latencies_ms", []))
        if times.size:
            value, low, high = quantile_interval(times, 0.95)
            return Found(value, low, high, times.size, times.size)
        alone = _times(path, [told[LATENCY]] if LATENCY in told else [])
        n = told["n"] if isinstance(told.get("n"), int) else 0
        value = float(alone[0]) if alone.size else np.nan
        return Found(value, np.nan, np.nan, n, n, "no interval: the bench holds no single times")
    return Found(np.nan, np.nan, np.nan, 0, 0, f"no bench of {run}; pass one with --bench")


def _times(path: Path, told: Any) -> Floats:
    """Milliseconds, each a number that is not negative."""
    try:
        times = np.asarray(told, dtype=np.float64)
    except (TypeError, ValueError):
        times = np.array([np.nan])
    if times.ndim != 1 or not (np.isfinite(times) & (times >= 0)).all():
        raise InputError(
            str(path),
            "a latency that is no number of milliseconds",
            expected="the JSON of ddeval bench",
            todo="Make it with: ddeval bench CHECKPOINT --out FILE.",
        )
    return times
