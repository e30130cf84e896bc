"""Queue: which cases shall readers see, in which order, and how likely was each to be chosen?

Ranked cases find errors; cases drawn at random, with a known probability, measure; hidden repeats show how
steady a reader is. Test is designed for an estimate and train ranked for gain (`MIXES`). The queue says
nothing a reader may see; `ddeval.vet` shows cases without kind, stratum or reason.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.audit.strata import N_STRATA, spread, strata_of
from ddeval.metrics.truth import design
from ddeval.tables import LOCKED, RANKED

Mask = npt.NDArray[np.bool_]

HISTOLOGY = "histology"
"""The `label_basis` that locks a label."""
REPEAT_GAP = 40
"""Cases between a case and its hidden repeat: no reader remembers the first answer."""


class Mix(NamedTuple):
    """Shares of a queue; they sum to 1."""

    ranked: float
    random: float
    repeats: float


MIXES = {
    "test": Mix(ranked=0.20, random=0.75, repeats=0.05),
    "train": Mix(ranked=0.75, random=0.20, repeats=0.05),
    "val": Mix(ranked=0.20, random=0.75, repeats=0.05),
    "calibration": Mix(ranked=0.20, random=0.75, repeats=0.05),
}
"""By split."""
RULES = {
    "test": "For an estimate: most cases are drawn at random. Vetted test labels never reach training.",
    "train": "For gain: most cases are the most doubtful. Its vetted labels are learnt from.",
    "val": "For an estimate. Corrected val labels change which checkpoint is chosen: vet val before "
    "training and choose all checkpoints anew, or leave it.",
    "calibration": "For an estimate. Corrected labels change temperatures and thresholds: fit them anew.",
}
"""What vetting a split is for, and what it changes."""


class Queue(NamedTuple):
    """What readers get, and the frame it was drawn from."""

    items: pd.DataFrame
    """QUEUE in the order of reading; `given_label, label_basis, reason, proposers` where known."""
    frame: pd.DataFrame
    """Every case of the split, which an estimate needs: `case_id, n_images, label_quality, stratum,
    inclusion_probability`."""


def case_table(images: pd.DataFrame) -> pd.DataFrame:
    """One row a case from one row an image: what `make_queue` draws from, in order of first appearance.

    Takes `case_id, label_quality, label_error, expected_correct, is_agreed` and, where there, `given_label,
    label_basis, reason, proposers`. A case is as doubtful as its most doubtful image, whose reason it
    carries; the chances that its label is wrong and that the model is right are means over its images.
    """
    worst_first = images.sort_values("label_quality", kind="stable").drop_duplicates("case_id")
    worst = worst_first.set_index("case_id")
    by_case = images.groupby("case_id", sort=False)
    table = pd.DataFrame(
        {
            "label_quality": by_case["label_quality"].min(),
            "label_error": by_case["label_error"].mean(),
            "expected_correct": by_case["expected_correct"].mean(),
            "is_agreed": by_case["is_agreed"].all(),
            "n_images": by_case.size(),
        }
    )
    for column in ("given_label", "label_basis", "reason", "proposers"):
        if column in images:
            table[column] = worst[column].reindex(table.index)
    return table.reset_index()


def make_queue(
    cases: pd.DataFrame,
    *,
    n_cases: int,
    mix: Mix,
    rng: np.random.Generator,
    n_strata: int = N_STRATA,
    earlier: Sequence[pd.DataFrame] = (),
) -> Queue:
    """Choose and order the cases to be read; the same cases and generator give the same queue.

    The most doubtful cases come first into it, for certain (stratum `ranked`); from all others a stratified
    sample is drawn by Neyman's allocation on the model's own doubt. Both are shuffled together. Repeats
    follow at least `REPEAT_GAP` cases after the case they repeat; a queue too short for that has none, and
    their places go to the random part. A queue as large as the split holds every case once. A case whose
    label is histology's is not read: it has its verdict, and a stratum of its own (`locked`).

    Parameters
    ----------
    cases : DataFrame
        From `case_table`.
    n_cases : int
        Rows of the queue, repeats included.
    earlier : sequence of DataFrames
        Queues (`items`) handed out before: none of their cases is chosen again, and every case keeps the
        probability it would have had, so that batches join (`ddeval.metrics.truth.joined`).

    Raises
    ------
    ValueError
        If a case stands twice, the shares do not sum to 1, or n_cases is not positive.
    """
    if cases["case_id"].duplicated().any():
        raise ValueError(f"case {cases.loc[cases['case_id'].duplicated(), 'case_id'].iloc[0]!r} stands twice")
    if abs(sum(mix) - 1) > 1e-9 or min(mix) < 0:
        raise ValueError(f"shares of a mix must sum to 1, got {tuple(mix)}")
    if n_cases < 1:
        raise ValueError(f"n_cases must be positive, got {n_cases}")
    is_locked = np.zeros(len(cases), dtype=bool)
    if "label_basis" in cases:
        is_locked = (cases["label_basis"] == HISTOLOGY).to_numpy(dtype=bool)
    is_free = (
        ~is_locked & ~cases["case_id"].isin({c for batch in earlier for c in batch["case_id"]}).to_numpy()
    )
    n_repeats = round(n_cases * mix.repeats)
    n_once = min(n_cases - n_repeats, int(is_free.sum()))
    if n_once <= REPEAT_GAP:
        n_once, n_repeats = min(n_cases, int(is_free.sum())), 0
    n_repeats = min(n_repeats, n_once - REPEAT_GAP) if n_repeats else 0
    n_ranked = min(round(n_once * mix.ranked / max(1 - mix.repeats, 1e-9)), n_once)

    frame = _frame(
        cases, is_free, is_locked, n_ranked=n_ranked, n_strata=max(n_once - n_ranked, 2), most=n_strata
    )
    stratum = frame["stratum"].to_numpy()
    is_certain = np.isin(stratum, (RANKED, LOCKED))
    drawn_from = np.flatnonzero(~is_certain & is_free)
    n_random = min(n_once - int((is_free & (stratum == RANKED)).sum()), len(drawn_from))
    chosen = np.flatnonzero(is_free & (stratum == RANKED))
    frame["inclusion_probability"] = np.where(is_certain, 1.0, 0.0)
    if n_random:
        strata = stratum[drawn_from]
        doubt = spread(cases["expected_correct"].to_numpy()[drawn_from])
        if n_random < len(np.unique(strata)):  # too few for every stratum: one stratum of all
            frame.loc[~is_certain, "stratum"] = "all"
            strata = np.full(len(drawn_from), "all")
        sample = design(strata, n_random, rng=rng, spread=doubt)
        probability = pd.Series(sample.inclusion_probability, index=strata[sample.index])
        probability = probability[~probability.index.duplicated()]
        wanted = frame.loc[~is_certain, "stratum"]
        frame.loc[~is_certain, "inclusion_probability"] = probability.reindex(wanted).fillna(0.0).to_numpy()
        chosen = np.concatenate([chosen, drawn_from[sample.index]])
    order = rng.permutation(np.sort(chosen))
    kind = np.where(frame["stratum"].to_numpy()[order] == RANKED, "ranked", "random")
    items = _items(cases, frame, order, kind)
    if n_repeats:
        items = _with_repeats(items, n_repeats, rng)
    return Queue(items.reset_index(drop=True), frame)


def _frame(
    cases: pd.DataFrame, is_free: Mask, is_locked: Mask, *, n_ranked: int, n_strata: int, most: int
) -> pd.DataFrame:
    """Stratum of every case: the most doubtful ones, then agreement and doubt.

    A case of an earlier queue that is as doubtful as the last ranked one would have been ranked too.
    """
    frame = cases[["case_id", "n_images", "label_quality"]].copy().reset_index(drop=True)
    order = np.lexsort((cases["case_id"].to_numpy(dtype=str), cases["label_quality"].to_numpy()))
    n_before = np.empty(len(cases), dtype=np.int64)  # free cases that are more doubtful
    n_before[order] = np.cumsum(is_free[order]) - is_free[order]
    stratum = np.empty(len(cases), dtype=object)
    is_ranked = ~is_locked & (n_before < n_ranked)
    stratum[is_locked], stratum[is_ranked] = LOCKED, RANKED
    rest = np.flatnonzero(~is_locked & ~is_ranked)
    if len(rest):
        agreed = cases["is_agreed"].to_numpy(dtype=bool)[rest]
        chance = cases["expected_correct"].to_numpy()[rest]
        cut = strata_of(chance, agreed, n_strata=min(most, n_strata))
        word = np.where(agreed, "agree", "differ")
        stratum[rest] = [f"{w}-{c:02d}" for w, c in zip(word, cut, strict=True)]
    frame["stratum"] = stratum
    return frame


def _items(cases: pd.DataFrame, frame: pd.DataFrame, order: np.ndarray, kind: np.ndarray) -> pd.DataFrame:
    items = frame.iloc[order][["case_id", "stratum", "inclusion_probability"]].reset_index(drop=True)
    items.insert(1, "kind", kind)
    for column in ("given_label", "label_basis", "reason", "proposers"):
        if column in cases:
            items[column] = cases[column].to_numpy()[order]
    return items


def _with_repeats(items: pd.DataFrame, n_repeats: int, rng: np.random.Generator) -> pd.DataFrame:
    """Copies of some cases put back at least `REPEAT_GAP` places later."""
    originals = np.sort(rng.choice(len(items) - REPEAT_GAP, size=n_repeats, replace=False))
    # a place p means: after the p-th case; later insertions only widen the gap
    places = np.array([rng.integers(first + REPEAT_GAP, len(items)) for first in originals])
    repeats = items.iloc[originals].assign(kind="repeat")
    both = pd.concat([items, repeats])
    return both.iloc[
        np.lexsort((np.r_[np.zeros(len(items)), np.ones(n_repeats)], np.r_[np.arange(len(items)), places]))
    ]
