"""Readings: the sets of rows that one run's numbers are over.

The same predictions are read as a closed set (targets only), as an open set (`other` may be labelled and
predicted), and each of them by image and by case. This module makes the rows; it computes no metric.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ddeval.metrics.arrays import PROB_FLOOR, Labels, Probs, softmax


class Reading(NamedTuple):
    """Labels and probabilities of one set of rows, and the image each row takes its weight from."""

    subset: str
    """`all`: a row is an image; `cases`: a row is a case."""
    prefix: str
    """Of its metrics' names: nothing for the closed set, `open_` where `other` is a class like the rest."""
    labels: Labels
    pred_probs: Probs
    image_of: npt.NDArray[np.intp]
    """(rows,): an image of the row; images of one case are in one group and weigh the same."""
    class_names: tuple[str, ...]
    other: int | None
    """Place of `other` among the classes; None in a closed set."""


def closed_set(
    labels: Labels, pred_probs: Probs, other: int | None
) -> tuple[npt.NDArray[np.intp], Labels, Probs]:
    """Rows labelled with a target, their labels among the targets, and probabilities over the targets.

    Without an `other` these are all rows as they stand. A row that puts all its probability on `other` says
    nothing about the targets: each gets an equal share, a tie, which counts against the model.
    """
    if other is None:
        return np.arange(len(labels)), labels, pred_probs
    rows = np.flatnonzero(labels != other)
    over_targets = renormalised(np.delete(pred_probs[rows], other, axis=1))
    return rows, labels[rows] - (labels[rows] > other), over_targets


def renormalised(pred_probs: Probs) -> Probs:
    """Rows that sum to 1 again; a row without anything on these classes is a tie of all."""
    mass = pred_probs.sum(axis=1, keepdims=True)
    equal = np.full(pred_probs.shape, 1.0 / max(pred_probs.shape[1], 1))
    return np.asarray(np.divide(pred_probs, mass, out=equal, where=mass > 0))


def case_rows(
    labels: Labels,
    pred_probs: Probs,
    case_of: npt.NDArray[np.intp],
    logits: npt.NDArray[np.floating[Any]] | None = None,
) -> tuple[npt.NDArray[np.intp], Labels, Probs, int]:
    """First image, label and probabilities of each case whose images agree on the label; how many do not.

    A case's probabilities are the softmax of the mean of `logits` over its images, by default of
    ln(pred_probs) clipped at 1e-15, which is the same for a softmax model.
    """
    if logits is None:
        logits = np.log(np.maximum(pred_probs, PROB_FLOOR))
    n_cases = int(case_of.max(initial=-1)) + 1
    _, first = np.unique(case_of, return_index=True)
    is_mixed = np.bincount(case_of, weights=labels != labels[first][case_of], minlength=n_cases) > 0
    in_case = sparse.csr_array(
        (np.ones(len(labels)), (case_of, np.arange(len(labels)))), shape=(n_cases, len(labels))
    )
    means = (in_case @ np.asarray(logits, dtype=np.float64)) / np.bincount(case_of)[:, None]
    kept = first[~is_mixed]
    return kept, labels[kept], softmax(means[~is_mixed]), int(is_mixed.sum())


def case_means(logits: npt.NDArray[np.floating[Any]], case_of: npt.NDArray[np.intp]) -> Probs:
    """Mean logits over the images of each case, (C, K) in float64; every case has an image."""
    sums = np.zeros((int(case_of.max(initial=-1)) + 1, logits.shape[1]))
    np.add.at(sums, case_of, logits.astype(np.float64))
    means: Probs = sums / np.bincount(case_of)[:, None]
    return means


def case_codes(case_ids: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Number of each image's case; a ValueError where one is missing."""
    codes, _ = pd.factorize(np.asarray(case_ids))
    missing = np.flatnonzero(codes < 0)
    if missing.size:
        raise ValueError(
            f"case_ids must name a case for each image; row {missing[0]} is empty, {missing.size} in all"
        )
    return codes


def joined_groups(
    group_of: npt.NDArray[np.intp], case_of: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.intp], int]:
    """Groups with those that share a case made one: photographs of one case are not independent either."""
    n_groups, n_cases = group_of.max() + 1, case_of.max() + 1
    links = sparse.coo_array(
        (np.ones(len(group_of)), (group_of, n_groups + case_of)), shape=(n_groups + n_cases,) * 2
    )
    _, component = connected_components(links, directed=False)
    _, joined = np.unique(component[:n_groups], return_inverse=True)
    return joined[group_of], int(joined.max()) + 1


def run_readings(
    labels: Labels,
    pred_probs: Probs,
    class_names: tuple[str, ...],
    other_class: str | None,
    *,
    case_of: npt.NDArray[np.intp] | None = None,
    logits: npt.NDArray[np.floating[Any]] | None = None,
) -> tuple[list[Reading], int]:
    """All readings of one run, the closed set by image first, and how many cases have mixed labels.

    There are none by case where no case has two images: they would repeat those by image.
    """
    other = None if other_class is None else class_names.index(other_class)
    images = Reading("all", "", labels, pred_probs, np.arange(len(labels)), class_names, other)
    if case_of is None or case_of.max() + 1 == len(labels):
        return readings_of(images), 0
    image_of, case_labels, case_probs, n_mixed = case_rows(labels, pred_probs, case_of, logits)
    cases = Reading("cases", "", case_labels, case_probs, image_of, class_names, other)
    return [*readings_of(images), *readings_of(cases)], n_mixed


def readings_of(whole: Reading) -> list[Reading]:
    """The closed set alone where there is no `other`; else the closed and the open set."""
    if whole.other is None:
        return [whole]
    rows, labels, pred_probs = closed_set(whole.labels, whole.pred_probs, whole.other)
    names = whole.class_names[: whole.other] + whole.class_names[whole.other + 1 :]
    closed = whole._replace(
        labels=labels,
        pred_probs=pred_probs,
        image_of=whole.image_of[rows],
        class_names=names,
        other=None,
    )
    return [closed, whole._replace(prefix="open_")]


def checked_names(class_names: Sequence[str], other_class: str | None, n_classes: int) -> tuple[str, ...]:
    """`class_names` as a tuple; a ValueError where they do not fit the probabilities."""
    names = tuple(class_names)
    if len(names) != n_classes:
        raise ValueError(
            f"class_names must name {n_classes} classes (columns of pred_probs), got {len(names)}"
        )
    if len(set(names)) < n_classes:
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"class_names must be unique, {twice!r} stands {names.count(twice)} times")
    if other_class is not None and other_class not in names:
        raise ValueError(f"other_class {other_class!r} is not among the class_names {', '.join(names)}")
    return names
