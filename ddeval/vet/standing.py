"""Standing: what the readings of an open batch say so far, of its labels, the model and the readers.

For the admin, who does not read. Every number is an estimate with its n and its interval, or NaN while there
is nothing to make it from; the final ones come from the frozen overlay (`ddeval truth`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.audit.progress import ErrorsLeft, Stop, errors_left, precision_at_k, stop_rule
from ddeval.metrics.arrays import Floats
from ddeval.metrics.shares import stated_interval
from ddeval.metrics.truth import Estimate, Sample, estimate
from ddeval.vet.batches import Batch, read_items
from ddeval.vet.consensus import put_first
from ddeval.vet.outcomes import CaseOutcome, case_outcomes, ratings
from ddeval.vet.store import Store

DECIDED = ("keep", "compatible", "relabel")
MODEL = "the model"


class Standing(NamedTuple):
    """One batch as it stands."""

    outcomes: pd.Series
    """Cases by outcome, of those read by enough readers."""
    precision: pd.DataFrame
    """Of the ranked cases in the order of their rank (`ddeval.audit.progress.precision_at_k`)."""
    stop: Stop
    errors: ErrorsLeft | None
    """None while a stratum has no verdict."""
    accuracy: Estimate | None
    """Strict, of the model against the consensus; None while a stratum has no verdict or without a model."""
    agreement: pd.DataFrame
    """`who, agrees, ci_low, ci_high, n`: each reader with the other readers, and the model with all."""
    n_strata_unread: int


def standing(
    store: Store, batch: Batch, *, class_of: Mapping[str, str], rng: np.random.Generator
) -> Standing:
    """Where the batch stands. Only blind first readings and adjudications count.

    A case is counted once it has as many readings as the batch asks for, unless it is reported. In which
    order the cases are read depends on nothing about them, so those read so far are a random part of each
    stratum.
    """
    items = read_items(store, batch.name)
    items = items[items["kind"] != "repeat"].drop_duplicates("case_id").reset_index(drop=True)
    outcomes = case_outcomes(store, batch, class_of=class_of)
    is_error = _verdicts(outcomes)
    is_read = np.array([_counts(o) for o in outcomes], dtype=bool)
    ranked = items[(items["kind"] == "ranked") & is_read]
    order = ranked.sort_values(["rank", "item"], kind="stable").index.to_numpy()
    strata, sample, rows = _frame(items, is_read)
    has_all = len(rows) > 0 and len(np.unique(strata)) == len(np.unique(strata[sample.index]))
    correct = _model_is_right(items, outcomes)
    table, _ = ratings(store, batch, name_of=lambda answer: put_first(answer, class_of))
    model = items.set_index("case_id")["predicted_label"]
    done = [o.consensus.outcome for o in outcomes if _counts(o)]
    return Standing(
        outcomes=pd.Series(done, dtype=object).value_counts(),
        precision=precision_at_k(is_error[order]),
        stop=stop_rule(is_error[order]),
        errors=errors_left(_placed(is_error[rows], sample, len(strata)), strata, sample) if has_all else None,
        accuracy=(
            estimate(_placed(correct[rows], sample, len(strata)), strata, sample)
            if has_all and model.notna().any()
            else None
        ),
        agreement=_agreement(table, model, rng=rng),
        n_strata_unread=len(np.unique(strata)) - len(np.unique(strata[sample.index])),
    )


def _counts(outcome: CaseOutcome) -> bool:
    return outcome.is_complete and not outcome.is_reported


def _verdicts(outcomes: Sequence[CaseOutcome]) -> Floats:
    """1 where the given label is wrong, 0 where not, NaN without a verdict (an exit, open, not read)."""
    return np.array(
        [
            float(o.consensus.outcome == "relabel")
            if _counts(o) and o.consensus.outcome in DECIDED
            else np.nan
            for o in outcomes
        ]
    )


def _model_is_right(items: pd.DataFrame, outcomes: Sequence[CaseOutcome]) -> Floats:
    """1 where the model's class is the consensus's heaviest, 0 where not, NaN where either is missing."""
    right = [
        float(said == next(iter(o.consensus.labels)))
        if _counts(o) and o.consensus.labels and isinstance(said, str)
        else np.nan
        for said, o in zip(items["predicted_label"], outcomes, strict=True)
    ]
    return np.array(right)


def _frame(
    items: pd.DataFrame, is_read: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.object_], Sample, npt.NDArray[np.intp]]:
    """Stratum of every case the queue was drawn from, the cases read as a sample of them, and their items.

    A stratum of the queue with n cases drawn with probability p has n / p cases.
    """
    strata: list[str] = []
    index: list[int] = []
    rows: list[int] = []
    probability: list[float] = []
    for stratum, part in items.groupby("stratum", sort=True):
        size = max(round(float((1 / part["inclusion_probability"]).sum())), len(part))
        read = part.index[is_read[part.index]]
        index += range(len(strata), len(strata) + len(read))
        rows += list(read)
        probability += [len(read) / size] * len(read)
        strata += [str(stratum)] * size
    sample = Sample(np.array(index, dtype=np.intp), np.array(probability, dtype=np.float64))
    return np.array(strata, dtype=object), sample, np.array(rows, dtype=np.intp)


def _placed(values: Floats, sample: Sample, n: int) -> Floats:
    """The values of the sample at their places among all `n`; NaN elsewhere."""
    placed = np.full(n, np.nan)
    placed[sample.index] = values
    return placed


def _agreement(table: pd.DataFrame, model: pd.Series, *, rng: np.random.Generator) -> pd.DataFrame:
    """Share of the other readers of a case who name the same class first, mean over cases."""
    readers = [str(name) for name in table.columns]
    ratings = table.to_numpy(dtype=object)
    is_read = table.notna().to_numpy(dtype=bool)
    rows = []
    for who in [*readers, MODEL]:
        own = (
            model.reindex(table.index).to_numpy(dtype=object)
            if who == MODEL
            else ratings[:, readers.index(who)]
        )
        others = is_read.copy()
        if who != MODEL:
            others[:, readers.index(who)] = False
        counted = pd.notna(own) & others.any(axis=1)
        same = (ratings[counted] == own[counted, None]) & others[counted]
        share = same.sum(axis=1) / others[counted].sum(axis=1)
        low, high = _interval(share.astype(np.float64), rng=rng)
        rows.append((who, float(share.mean()) if len(share) else np.nan, low, high, len(share)))
    return pd.DataFrame(rows, columns=["who", "agrees", "ci_low", "ci_high", "n"])


def _interval(share: Floats, *, rng: np.random.Generator, n_resamples: int = 2000) -> tuple[float, float]:
    """95 % over cases, as of a share of so many."""
    if not len(share):
        return float("nan"), float("nan")
    draws = rng.multinomial(len(share), np.full(len(share), 1 / len(share)), size=n_resamples) @ share
    (low,), (high,), _ = stated_interval([share.mean()], draws[:, None] / len(share), share_of=len(share))
    return float(low), float(high)
