"""What vetting did to the numbers: checkpoints under each version of the labels, and beside the readers.

A checkpoint that proposes which labels are checked has its own disagreements corrected and nobody else's;
so beside each number under vetted labels stands the one with the given label wherever it alone proposed the
case. Readers are measured against each other, and checkpoints against the same readers on the same cases.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval import io
from ddeval.metrics.arrays import Labels, Probs
from ddeval.metrics.discrimination import label_ranks
from ddeval.metrics.paired import mean_interval
from ddeval.metrics.readings import case_codes, closed_set, joined_groups
from ddeval.metrics.resampling import (
    N_RESAMPLES,
    group_codes,
)
from ddeval.score.ensembles import with_ensembles
from ddeval.score.joined import Joined, join
from ddeval.score.verdicts import nominated_alone

TOP = {"top_1_accuracy": 1, "top_3_accuracy": 3}
VERSIONS = ["run", "labels", "metric", "value", "ci_low", "ci_high", "n_images", "left_out"]
READERS = ["reader", "kind", "metric", "value", "ci_low", "ci_high", "n_cases", "notes"]


ALL_READERS = "all readers"
"""The row of the readers taken together: the mean over a case's readers, then over cases."""


def shared_overlays(joined: Joined) -> tuple[Path, ...]:
    """Overlays that every run was scored under and that still lie there, in the order of the first run's."""
    told = [facts.get("overlays", {}) for name, facts in joined.facts.items() if name in joined.runs]
    paths = [Path(path) for path in told[0].values() if all(path in of.values() for of in told)]
    return tuple(path for path in paths if path.is_file())


def audits_of(joined: Joined) -> tuple[Path, ...]:
    """Audit folders of the runs whose queue says which checkpoint proposed a case."""
    return tuple(run / "audit" for run in joined.runs.values() if (run / "audit" / "queue.parquet").is_file())


def versions_table(
    joined: Joined,
    overlays: Sequence[Path],
    *,
    audits: Sequence[Path] = (),
    ensembles: Sequence[str] = (),
    is_common: bool = False,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> pd.DataFrame:
    """`run, labels, metric, value, ci_low, ci_high, n_images, left_out`: top-1 and top-3 over the targets.

    `left_out` is the value with the given label on every case that this checkpoint alone proposed; NaN where
    it proposed none alone, for v0, and for an ensemble, which proposes nothing.
    """
    runs = list(joined.runs.values())
    under = {"v0": with_ensembles(join(runs, is_common=is_common), ensembles)}
    for path in overlays:
        held = with_ensembles(join(runs, labels=str(path), is_common=is_common), ensembles)
        under[held.version] = held
    queues = [io.read_parquet(audit / "queue.parquet")[0] for audit in audits]
    rows = []
    for version, held in under.items():
        for run in held.names:
            own = {case for items in queues for case in nominated_alone(items, _called(joined, run))}
            mixed = _without(under["v0"], held, run, own) if own and version != "v0" else None
            for metric, k in TOP.items():
                right, rows_of = _right(held, run, held.labels, k)
                group_of, n_groups = joined_groups(group_codes(held.groups)[0], case_codes(held.case_ids))
                value, low, high = mean_interval(
                    right, rows_of, group_of, n_groups, is_share=True, seed=seed, n_resamples=n_resamples
                )
                left = np.nan if mixed is None else _mean(_right(*mixed, k)[0])
                rows.append((run, version, metric, value, low, high, len(right), left))
    return pd.DataFrame(rows, columns=VERSIONS)


def _called(joined: Joined, run: str) -> tuple[str, ...]:
    return (run, joined.runs[run].name) if run in joined.runs else ()


def _without(plain: Joined, held: Joined, run: str, own: set[str]) -> tuple[Joined, str, Labels]:
    """The images under v0 with the vetted label but on the cases `own`; those vetting took out are left."""
    places = pd.Index(held.image_ids).get_indexer(pd.Index(plain.image_ids))
    is_own = np.isin(plain.case_ids.astype(str), sorted(own))
    vetted = np.where(places >= 0, held.labels[places], -1)
    return plain, run, np.where(is_own, plain.labels, vetted)


def _right(held: Joined, run: str, labels: Labels, k: int) -> tuple[Probs, npt.NDArray[np.intp]]:
    """1 where the label is among the first k over the targets, and the rows: labelled with a target."""
    there = np.flatnonzero(labels >= 0)
    rows, own, over = closed_set(labels[there], held.pred_probs[run][there], held.other)
    return (label_ranks(own, over) < k).astype(np.float64), there[rows]


def _mean(values: Probs) -> float:
    return float(values.mean()) if len(values) else float("nan")


def readings_of(overlays: Sequence[Path]) -> Path | None:
    """What readers said, kept beside the last overlay that has it."""
    kept = [path.parent / "readings" / path.name for path in overlays]
    return next((path for path in reversed(kept) if path.is_file()), None)


def readers_table(
    joined: Joined, readings: pd.DataFrame, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> pd.DataFrame:
    """Each reader against the consensus of the others, all of them together, and each checkpoint.

    The consensus of a panel is the class most of its readers put first; where several are put first equally
    often, naming one of n counts 1 / n. A checkpoint answers a case with the mean logit over its photographs,
    all classes allowed, and is held against the panels that lack one reader each, on average: it and the
    readers are measured by panels of one size. Interval over patients.

    Parameters
    ----------
    readings : DataFrame
        `case_id, reader, answers` (classes, surest first; none after an exit, which is not counted).
    """
    first = readings[readings["answers"].map(len) > 0]
    first = first[first["case_id"].isin(joined.case_ids)]
    said: dict[str, dict[str, list[str]]] = {}
    for row in first.sort_values(["case_id", "reader"]).to_dict("records"):
        said.setdefault(row["case_id"], {})[row["reader"]] = list(row["answers"])
    shared = {case: by for case, by in said.items() if len(by) > 1}
    group_of = dict(zip(joined.case_ids, joined.groups, strict=True))
    codes = sorted(set(first["reader"]))
    kinds = (
        {ALL_READERS: "readers"} | dict.fromkeys(codes, "reader") | dict.fromkeys(joined.names, "checkpoint")
    )
    lists: dict[str, dict[tuple[str, str], list[str]]] = {
        ALL_READERS: {(case, reader): names for case, by in shared.items() for reader, names in by.items()}
    }
    lists |= {
        reader: {(case, reader): by[reader] for case, by in shared.items() if reader in by}
        for reader in codes
    }
    for run in joined.names:
        answered = _case_lists(joined, run, list(shared))
        lists[run] = {(case, left): answered[case] for case, by in shared.items() for left in by}
    rows = []
    for who, answers in lists.items():
        cases = list(dict.fromkeys(case for case, _ in answers))
        for metric, k in TOP.items():
            credit: dict[str, list[float]] = {case: [] for case in cases}
            for (case, left), names in answers.items():
                panel = [ranked[0] for reader, ranked in shared[case].items() if reader != left]
                credit[case].append(_credit(names[:k], panel))
            value, low, high = np.nan, np.nan, np.nan
            if cases:
                means = np.array([np.mean(credit[case]) for case in cases])
                groups = np.array([group_of[case] for case in cases], dtype=object)
                at = np.arange(len(cases))
                value, low, high = mean_interval(
                    means, at, *group_codes(groups), is_share=True, seed=seed, n_resamples=n_resamples
                )
            notes = "on cases chosen for vetting, read by two or more"
            rows.append((who, kinds[who], metric, value, low, high, len(cases), notes))
    return pd.DataFrame(rows, columns=READERS)


def _credit(names: Sequence[str], panel: Sequence[str]) -> float:
    """Share of the panel's most frequent first answers that `names` holds."""
    counts: Mapping[Any, int] = pd.Series(panel, dtype=object).value_counts().to_dict()
    most = max(counts.values())
    leading = [name for name, n in counts.items() if n == most]
    return len(set(leading) & set(names)) / len(leading)


def _case_lists(joined: Joined, run: str, cases: Sequence[str]) -> dict[str, list[str]]:
    """The classes of each case by the run's mean logit, surest first; one that ties stands behind."""
    names = np.array(joined.class_names, dtype=object)
    logits = np.log(np.maximum(joined.pred_probs[run], 1e-15))
    found = {}
    for case in cases:
        mean = logits[joined.case_ids == case].mean(axis=0)
        ranks = (mean[None, :] >= mean[:, None]).sum(axis=1) - 1
        found[case] = ["" if k not in ranks else str(names[ranks == k][0]) for k in range(max(TOP.values()))]
    return found
