"""Verdicts: what vetting says of each case of a split, and whether the model agrees with it.

Joins the cases an audit was drawn from (`cases.parquet`) with a frozen overlay and a run's answers, by id.
Estimates are made from it in `ddeval.score.vetted`.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.data.manifest import with_cases
from ddeval.data.overlay import EXCLUDED, Overlay, frozen
from ddeval.errors import InputError
from ddeval.metrics.arrays import Floats, softmax
from ddeval.metrics.readings import case_means, closed_set
from ddeval.metrics.truth import Sample
from ddeval.score.predictions import Predictions
from ddeval.tables import LOCKED

TIE = 1e-12
NOT_READ = "not read"
"""Not in the overlay, or read once where twice was asked: as if it had not been handed out."""


class Batch(NamedTuple):
    """One queue and the frame it was drawn from."""

    cases: pd.DataFrame
    """Every case of the split: `case_id, n_images, label_quality, stratum, inclusion_probability`."""
    items: pd.DataFrame
    """QUEUE."""
    where: str


class Answers(NamedTuple):
    """Whether the model agrees with the reference on each case: (C,) in 0 to 1, NaN without verdict."""

    strict: Floats
    """Its class is the first of the consensus (classes of equal weight are all first)."""
    lenient: Floats
    """Its class is somewhere in the consensus differential."""
    is_inside: npt.NDArray[np.bool_]
    """The verdict is a class the model could have answered: in a closed set, not `other`."""


def case_verdicts(batches: Sequence[Batch], overlay: Overlay, given: pd.Series) -> pd.DataFrame:
    """A row a case of the first batch's frame, indexed by `case_id`.

    `state` is the outcome of the overlay or `not read`; `labels` the weights of the consensus (None without
    one); `rule`; `differ` is 1 where two blind readers named different classes, 0 where the same one, NaN
    where not two named any (a reader who cannot tell is not in error), and the share of pairs for more than
    two; `third` is 1 where the class is an adjudicator's, 0 where readers agreed on it, NaN without one;
    `given_label` (from `given`, by case_id); `n_images`, `label_quality`, `stratum`.
    """
    base = batches[0].cases
    table = base.set_index("case_id")[["n_images", "label_quality", "stratum"]].copy()
    table["given_label"] = given.reindex(table.index)
    rows = overlay.frame.sort_values("image_id")
    rows = rows.assign(has_labels=rows["labels"].map(len) > 0)
    by_case = rows.sort_values("has_labels", ascending=False, kind="stable").drop_duplicates("case_id")
    by_case = by_case.set_index("case_id").reindex(table.index)
    is_read = by_case["outcome"].notna() & (by_case["rule"] != "single")
    table["state"] = by_case["outcome"].where(is_read, NOT_READ)
    table["rule"] = by_case["rule"].where(is_read)
    weights: list[Any] = [
        {str(entry["label"]): float(entry["weight"]) for entry in labels} if read and len(labels) else None
        for read, labels in zip(is_read, by_case["labels"], strict=True)
    ]
    is_locked = table["stratum"].eq(LOCKED).to_numpy() & table["given_label"].notna().to_numpy()
    known = zip(is_locked, table["given_label"], weights, strict=True)
    held: list[Any] = [{str(label): 1.0} if locked else read for locked, label, read in known]
    table["labels"] = pd.Series(held, index=table.index, dtype=object)
    table.loc[is_locked, ["state", "rule"]] = ["keep", "histology"]
    third = table["rule"].map({"agreed": 0.0, "adjudicated": 1.0})
    table["third"] = third.where(table["labels"].notna())
    first_answers = _first_answers(by_case, overlay).where(is_read & ~is_locked)
    table["differ"] = first_answers.map(_share_of_pairs, na_action="ignore").astype(np.float64)
    return table


def _first_answers(by_case: pd.DataFrame, overlay: Overlay) -> pd.Series:
    """What the blind readers of each case put first; where an older overlay cannot tell, an InputError."""
    if "first_answers" in by_case:
        return by_case["first_answers"]
    n_unknown = int(by_case["rule"].isin(["adjudicated", "open"]).sum())
    if n_unknown:
        raise InputError(
            f"overlay {overlay.split}-{overlay.version}",
            f"{n_unknown} cases on which readers differ, without what each of them said (an older overlay)",
            expected="a column first_answers",
            todo="Freeze the batches again with `ddeval vet freeze`.",
        )
    agreed = by_case["rule"].eq("agreed") & (by_case["labels"].map(len, na_action="ignore") > 0)
    heaviest = by_case.loc[agreed, "labels"].map(lambda labels: [labels[0]["label"]] * 2)
    return heaviest.reindex(by_case.index)


def _share_of_pairs(answers: Sequence[str]) -> float:
    """Of all pairs of readings that name a class, the share that name two; NaN without a pair."""
    classes = [answer for answer in answers if answer not in EXCLUDED]
    pairs = list(itertools.combinations(classes, 2))
    return sum(one != other for one, other in pairs) / len(pairs) if pairs else float("nan")


def drawn_sample(batch: Batch, table: pd.DataFrame) -> tuple[Sample, Floats, npt.NDArray[np.object_]]:
    """The cases of a batch that have been read; of all cases the probability of that, and the stratum.

    Readers go through a shuffled queue, so what they have read by now is a random part of each stratum: the
    probability is scaled by that part. A stratum of which nothing has been read is joined to its neighbour
    in doubt.
    """
    frame = batch.cases.set_index("case_id").reindex(table.index)
    if frame["stratum"].isna().any():
        missing = frame.index[frame["stratum"].isna()]
        raise InputError(
            batch.where,
            f"no case {missing[0]!r}, which the first audit has ({len(missing)} such)",
            expected="batches of one split",
            todo="Pass audits of the same split and manifest.",
        )
    stratum = frame["stratum"].to_numpy(dtype=object)
    inclusion = frame["inclusion_probability"].to_numpy(dtype=np.float64, copy=True)
    once = batch.items[batch.items["kind"] != "repeat"]
    is_item = table.index.isin(once["case_id"]) | (stratum == LOCKED)
    is_read = is_item & (table["state"] != NOT_READ).to_numpy()
    stratum = _joined_strata(stratum, is_read, frame["label_quality"].to_numpy())
    for name in np.unique(stratum.astype(str)):
        here = stratum == name
        n_items = int((here & is_item).sum())
        if n_items:
            inclusion[here] *= (here & is_read).sum() / n_items
    index = np.flatnonzero(is_read & (inclusion > 0))
    return Sample(index, inclusion[index]), inclusion, stratum


def _joined_strata(
    stratum: npt.NDArray[np.object_], is_read: npt.NDArray[np.bool_], quality: Floats
) -> npt.NDArray[np.object_]:
    order = pd.Series(quality).groupby(stratum).mean().sort_values(kind="stable").index.tolist()
    has_read = {name: bool(is_read[stratum == name].any()) for name in order}
    merged = stratum.copy()
    for place, name in enumerate(order):
        if not has_read[name]:
            nearest = sorted(
                (abs(place - other), order[other]) for other in range(len(order)) if has_read[order[other]]
            )
            if nearest:
                merged[stratum == name] = nearest[0][1]
    return merged


def image_answers(predictions: Predictions, table: pd.DataFrame, *, is_open: bool) -> Answers:
    """Agreement image by image, averaged over each case."""
    probs, names = _read_as(predictions.pred_probs(), predictions, is_open=is_open)
    case_of = pd.Index(table.index).get_indexer(pd.Index(predictions.frame["case_id"]))
    return _answers(probs[case_of >= 0], case_of[case_of >= 0], names, table)


def case_answers(predictions: Predictions, table: pd.DataFrame, *, is_open: bool) -> Answers:
    """Agreement of the case's own answer: the mean logit over its images."""
    case_of = pd.Index(table.index).get_indexer(pd.Index(predictions.frame["case_id"]))
    is_held = case_of >= 0
    there, own = np.unique(case_of[is_held], return_inverse=True)
    means = case_means(predictions.logits[is_held], own)
    probs, names = _read_as(softmax(means), predictions, is_open=is_open)
    return _answers(probs, there, names, table)


def _read_as(probs: Floats, predictions: Predictions, *, is_open: bool) -> tuple[Floats, tuple[str, ...]]:
    names, other = predictions.class_names, predictions.other
    if is_open or other is None:
        return probs, names
    nobody = np.full(len(probs), -1)  # a label is not needed to renormalise over the targets
    return closed_set(nobody, probs, other)[2], names[:other] + names[other + 1 :]


def _answers(
    probs: Floats, case_of: npt.NDArray[np.intp], names: tuple[str, ...], table: pd.DataFrame
) -> Answers:
    """Each row of `probs` against the consensus of its case; ties in `probs` count against the model."""
    place = {name: k for k, name in enumerate(names)}
    n_cases = len(table)
    firsts = np.zeros((n_cases, len(names)), dtype=bool)
    among = np.zeros_like(firsts)
    is_inside = np.zeros(n_cases, dtype=bool)
    has_verdict = table["labels"].notna().to_numpy()
    for row in np.flatnonzero(has_verdict):
        weights = table["labels"].iloc[row]
        heaviest = max(weights.values())
        for label, weight in weights.items():
            if label in place:
                among[row, place[label]] = True
                firsts[row, place[label]] = weight >= heaviest - TIE
        is_inside[row] = firsts[row].any()
    top = probs.argmax(axis=1)
    is_tied = (probs >= probs.max(axis=1, keepdims=True)).sum(axis=1) > 1
    found = []
    for answers in (firsts, among):
        right = answers[case_of, top] & ~is_tied
        with np.errstate(invalid="ignore"):  # a case without an image has no share
            share = np.bincount(case_of, weights=right, minlength=n_cases) / np.bincount(
                case_of, minlength=n_cases
            )
        found.append(np.where(has_verdict, share, np.nan))
    return Answers(found[0], found[1], is_inside)


def nominated_alone(items: pd.DataFrame, names: Sequence[str]) -> set[str]:
    """Ranked cases of a queue that the checkpoint called one of `names` alone put there."""
    if "proposers" not in items:
        return set()
    mine = items["proposers"].isin(list(names)) & items["kind"].eq("ranked")
    return set(items.loc[mine, "case_id"])


def given_labels(manifest: pd.DataFrame) -> pd.Series:
    """Given label of each case: its first image's."""
    labels: pd.Series = with_cases(manifest).drop_duplicates("case_id").set_index("case_id")["label"]
    return labels


def overlay_path(labels: str | None, *, split: str, folder: Path) -> str:
    """The version asked for; the last one frozen for the split where none is."""
    if labels is not None:
        return labels
    known = list(frozen(folder, split).values())
    if not known:
        raise InputError(
            str(folder),
            f"no frozen labels of split {split!r}",
            expected="vetted labels to measure against",
            todo="Read a queue (`ddeval vet`), then `ddeval vet freeze`; or pass --labels FILE.",
        )
    return known[-1].stem
