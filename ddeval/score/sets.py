"""Prediction sets of a run: the lists of conformal prediction, calibrated on images they are not judged on.

The calibration split where the run has one, else crosswise over folds of patients of the judged images; each
row says which. A list may hold any class, `other` too, and every labelled image counts. The sets themselves
are made in `ddeval.metrics.conformal`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.metrics.conformal import METHODS, fold_sets, sets_table, split_sets
from ddeval.metrics.resampling import group_codes
from ddeval.metrics.stakes import Stakes, followed
from ddeval.score.answers import Labelled

COVERAGE = 0.9
"""Share of images whose label shall be in the list."""
N_FOLDS = 5
FEWEST = 9
"""Calibration images below which only the whole list can promise `COVERAGE`."""


def prediction_sets(
    judged: Labelled,
    fit: Labelled | None,
    stakes: Stakes | None,
    *,
    groups: npt.NDArray[Any],
    seed: int,
    n_resamples: int,
) -> pd.DataFrame:
    """What the sets do, a row a method and group of images: all, and each risk group that has an image.

    Columns `method` (LAC, APS), `asked` (`COVERAGE`), those of `ddeval.metrics.conformal.sets_table`, `basis`
    (what the thresholds come from), `n_fit` (images behind each) and `note`. NaN, and why in `note`, where
    there is nothing to calibrate on. The order of the images changes nothing.

    Parameters
    ----------
    fit : Labelled or None
        The calibration split; None or empty means crosswise over groups of `judged`.
    stakes : Stakes or None
        Of the judged images; without them there are no risk groups.
    """
    order = np.argsort(judged.image_ids, kind="stable")
    _, labels, probs = judged.sorted()
    groups = np.asarray(groups)[order]
    masks = {"all": np.ones(len(labels), dtype=bool)}
    if stakes is not None:
        masks |= {group: stakes.mask(group)[order] for group in followed(stakes)}
    n_groups = group_codes(groups)[1]
    kept = None if fit is None or not len(fit.labels) else fit.sorted()
    basis = f"{N_FOLDS} folds of groups" if kept is None else "calibration split"
    n_fit = len(labels) * (N_FOLDS - 1) // N_FOLDS if kept is None else len(kept.labels)
    tables = []
    for i, method in enumerate(METHODS):
        rng = np.random.default_rng([seed, 10, i])
        if kept is not None:
            sets = split_sets(kept.labels, kept.pred_probs, probs, method=method, rng=rng, coverage=COVERAGE)
        elif n_groups >= N_FOLDS:
            sets = fold_sets(
                labels, probs, method=method, groups=groups, rng=rng, coverage=COVERAGE, n_folds=N_FOLDS
            )
        else:
            tables.append(_nothing(masks, groups, n_groups).assign(method=method, basis="none", n_fit=0))
            continue
        note = f"{n_fit} images cannot promise {COVERAGE:.0%}: every list holds every class"
        table = sets_table(labels, sets, masks, groups=groups, rng=rng, n_resamples=n_resamples)
        tables.append(
            table.assign(method=method, basis=basis, n_fit=n_fit, note=note if n_fit < FEWEST else "")
        )
    found = pd.concat(tables, ignore_index=True).assign(asked=COVERAGE)
    first = ["method", "asked", "images"]
    last = ["basis", "n_fit", "note"]
    return found[[*first, *(c for c in found if c not in {*first, *last}), *last]]


def _nothing(
    masks: dict[str, npt.NDArray[np.bool_]], groups: npt.NDArray[np.object_], n_groups: int
) -> pd.DataFrame:
    """Rows without a value: there is no calibration split, and too few patients for folds."""
    undefined = dict.fromkeys(
        ("coverage", "ci_low", "ci_high", "mean_size", "share_single", "share_empty"), np.nan
    )
    why = f"no calibration split, and too few groups ({n_groups}) for {N_FOLDS} folds"
    rows = [
        {"images": name, **undefined, "n_images": int(mask.sum()), "n_groups": len(set(groups[mask]))}
        for name, mask in masks.items()
    ]
    return pd.DataFrame(rows).assign(note=why)
