"""Ensembles and parity: two runs answered as one, and two runs that should be one.

An ensemble is the mean of its members' probabilities, from what is stored: no model runs. Parity compares
what a live service answered with the run it is meant to be.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ddeval.errors import InputError
from ddeval.metrics.arrays import Floats
from ddeval.metrics.discrimination import label_ranks
from ddeval.metrics.paired import mean_interval
from ddeval.metrics.readings import case_codes, closed_set, joined_groups
from ddeval.metrics.resampling import (
    N_RESAMPLES,
    group_codes,
)
from ddeval.score.joined import Joined


def with_ensembles(joined: Joined, wanted: Sequence[str]) -> Joined:
    """The joined runs and after them each ensemble, called `A+B`; an InputError for an unknown run."""
    probs: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for text in wanted:
        members = members_of(joined, text)
        name = "+".join(members)
        if name in joined.names:
            raise InputError(
                f"--ensemble {text}", f"a run called {name}", expected="a name of its own",
                todo="Leave out the run or the ensemble.",
            )  # fmt: skip
        probs[name] = np.mean([joined.pred_probs[member] for member in members], axis=0)
        sizes = [joined.facts[member]["checkpoint"].get("n_parameters") for member in members]
        facts[name] = {
            "checkpoint": {
                "name": name,
                "kind": f"ensemble, {len(members)} times the serving cost",
                "n_parameters": None if None in sizes else sum(sizes),
            }
        }
    return joined.with_runs(probs, facts)


def members_of(joined: Joined, text: str) -> tuple[str, ...]:
    """The runs of `A+B`."""
    members = tuple(part.strip() for part in text.split("+"))
    unknown = [member for member in members if member not in joined.runs]
    if unknown or len(set(members)) < 2:
        raise InputError(
            f"--ensemble {text}",
            f"no run {unknown[0]!r}" if unknown else "one run",
            expected=f"two or more of {', '.join(joined.runs)}, joined by +",
            todo="Name runs of this comparison.",
        )
    return members


def ensemble_gains(
    joined: Joined, wanted: Sequence[str], *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> pd.DataFrame:
    """What each ensemble gains over each of its members, within the resamples of the comparison.

    Columns `run, member, metric, difference, ci_low, ci_high, n_members, n_images, n_groups`; top-1 and
    top-3 in the closed set. Serving costs `n_members` times one model.
    """
    group_of, n_groups = joined_groups(group_codes(joined.groups)[0], case_codes(joined.case_ids))
    rows = []
    for text in wanted:
        members = members_of(joined, text)
        name = "+".join(members)
        for member in members:
            for metric, k in (("top_1_accuracy", 1), ("top_3_accuracy", 3)):
                at, ours = _hits(joined, name, k)
                gain = ours - _hits(joined, member, k)[1]
                value, low, high = mean_interval(
                    gain, at, group_of, n_groups, is_share=False, seed=seed, n_resamples=n_resamples
                )
                rows.append(
                    {
                        "run": name, "member": member, "metric": metric, "difference": value,
                        "ci_low": low, "ci_high": high, "n_members": len(members),
                        "n_images": len(at), "n_groups": len(np.unique(group_of[at])),
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def parity(joined: Joined, baseline: str, rule: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """How far each run is from being the baseline's model: is the service what was evaluated?

    Columns `run, baseline, largest_difference` (of any probability) and the `image_id` it is of,
    `n_flips` (answers that changed), `n_deferrals_changed` (under `rule`, the baseline's of `ddeval abstain`;
    None without one, or for other classes) and `n_images`.
    """
    base = joined.pred_probs[baseline]
    rows = []
    for run in joined.runs:
        if run == baseline:
            continue
        distance = np.abs(joined.pred_probs[run] - base).max(axis=1)
        worst = int(distance.argmax())
        changed = None
        if rule is not None and set(joined.judged[run].predictions.class_names) == set(rule["class_names"]):
            ours, theirs = (joined.held_back(name, rule) for name in (run, baseline))
            changed = int((ours != theirs).sum())
        rows.append(
            {
                "run": run,
                "baseline": baseline,
                "largest_difference": float(distance[worst]),
                "image_id": str(joined.image_ids[worst]),
                "n_flips": int((joined.pred_probs[run].argmax(axis=1) != base.argmax(axis=1)).sum()),
                "n_deferrals_changed": changed,
                "n_images": len(distance),
            }
        )
    return pd.DataFrame(rows).astype({"n_deferrals_changed": "Int64"})


def _hits(joined: Joined, run: str, k: int) -> tuple[Any, Floats]:
    rows, labels, probs = closed_set(joined.labels, joined.pred_probs[run], joined.other)
    return rows, (label_ranks(labels, probs) < k).astype(np.float64)
