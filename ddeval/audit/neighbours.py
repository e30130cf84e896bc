"""Neighbours: what do the images that look most alike say, without any classifier?

Exact cosine neighbours of embeddings, block by block. `neighbour_probs` asks them for the label,
`own_class_quality` compares the nearest image of the own class with the nearest of another one, and
`outlier_scores` says how far away they all are. Pairs that are nearly the same image are in
`ddeval.audit.duplicates`.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ddeval.metrics.arrays import Floats

Features = npt.NDArray[np.float32]

N_NEIGHBOURS = 20
_BLOCK_CELLS = 2**25
"""Similarities held at once: 128 MB."""


class Neighbours(NamedTuple):
    """The nearest other images of each image, nearest first."""

    rows: npt.NDArray[np.int64]
    """(N, k); -1 where there are fewer than k, or the image has no usable embedding."""
    similarity: Floats
    """(N, k) cosine in -1 to 1; NaN where the row is -1."""


def unit_rows(features: npt.ArrayLike) -> tuple[Features, npt.NDArray[np.bool_]]:
    """Rows of length 1 in float32, and which rows are usable: finite and not all zero.

    Raises
    ------
    ValueError
        If features is not of shape (N, D).
    """
    array = np.asarray(features)
    if array.ndim != 2:
        raise ValueError(f"features must have shape (N, D), got {array.shape}")
    rows = array.astype(np.float32)  # a copy: the caller's embeddings stay as they are
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.abs(rows).max(axis=1, initial=0.0)
        is_usable = np.isfinite(scale) & (scale > 0)
        rows[~is_usable] = 0.0
        rows /= np.where(is_usable, scale, 1.0)[:, None]  # so that no square overflows
        rows /= np.maximum(np.linalg.norm(rows, axis=1), np.finfo(np.float32).tiny)[:, None]
    return rows, is_usable


def neighbours(features: npt.ArrayLike, *, k: int = N_NEIGHBOURS) -> Neighbours:
    """The k most similar other images of each image by cosine, exactly; ties go to the lower row."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    rows, is_usable = unit_rows(features)
    kept = np.flatnonzero(is_usable)
    rows = rows[kept]
    n_rows, width = len(rows), min(k, max(len(rows) - 1, 0))
    index = np.full((len(is_usable), k), -1, dtype=np.int64)
    similarity = np.full((len(is_usable), k), np.nan)
    if width == 0:
        return Neighbours(index, similarity)
    step = max(1, _BLOCK_CELLS // n_rows)
    for start in range(0, n_rows, step):
        block = rows[start : start + step] @ rows.T
        block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        near = np.argpartition(block, n_rows - width, axis=1)[:, n_rows - width :]
        found = np.take_along_axis(block, near, axis=1)
        order = np.lexsort((near, -found), axis=1)
        at = kept[start : start + step]
        index[at, :width] = kept[np.take_along_axis(near, order, axis=1)]
        similarity[at, :width] = np.clip(np.take_along_axis(found, order, axis=1), -1.0, 1.0)
    return Neighbours(index, similarity)


def neighbour_probs(labels: npt.NDArray[np.int64], near: Neighbours, *, n_classes: int) -> Floats:
    """Share of each class among the nearest images, (N, K), rows summing to 1; NaN where there are none.

    The image's own label has no vote; the classes' shares of all labels count as two more images.
    """
    votes = np.zeros((len(labels), n_classes))
    is_there = near.rows >= 0
    image = np.broadcast_to(np.arange(len(labels))[:, None], near.rows.shape)[is_there]
    np.add.at(votes, (image, labels[near.rows[is_there]]), 1.0)
    n_near = is_there.sum(axis=1)
    prior = np.bincount(labels, minlength=n_classes) / max(len(labels), 1)
    shares: Floats = (votes + 2 * prior) / (n_near + 2)[:, None]
    shares[n_near == 0] = np.nan
    return shares


def own_class_quality(labels: npt.NDArray[np.int64], features: npt.ArrayLike) -> Floats:
    """Nearest image of another class against the nearest of the own class, 0 to 1; low is suspicious.

    d_other^2 / (d_own^2 + d_other^2) with cosine distance. NaN for an image that is alone in its class, in
    a set of one class, or without a usable embedding; 0.5 where both distances are 0.

    References
    ----------
    Groger et al. (2024), SelfClean, arXiv:2305.17048, where the score is defined; this is not its code.
    """
    rows, is_usable = unit_rows(features)
    n_rows = len(rows)
    own = np.full(n_rows, np.nan)
    other = np.full(n_rows, np.nan)
    order = np.argsort(labels, kind="stable")
    order = order[is_usable[order]]
    sorted_rows, sorted_labels = rows[order], labels[order]
    starts = np.flatnonzero(np.diff(sorted_labels, prepend=-1))
    step = max(1, _BLOCK_CELLS // max(n_rows, 1))
    for start in range(0, len(order), step):
        block = sorted_rows[start : start + step] @ sorted_rows.T
        block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        best = np.maximum.reduceat(block, starts, axis=1)  # (rows, classes): nearest of each class
        at = order[start : start + step]
        mine = np.searchsorted(sorted_labels[starts], labels[at])
        own[at] = best[np.arange(len(at)), mine]
        best[np.arange(len(at)), mine] = -np.inf
        other[at] = best.max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        near, far = np.maximum(1 - own, 0) ** 2, np.maximum(1 - other, 0) ** 2
        quality = np.where(near + far > 0, far / (near + far), 0.5)
    quality[~np.isfinite(own) | ~np.isfinite(other)] = np.nan
    return quality


def outlier_scores(near: Neighbours) -> Floats:
    """Mean cosine distance to the nearest images, 0 and up; high is unlike the rest. NaN without any."""
    is_there = near.rows >= 0
    with np.errstate(invalid="ignore"):
        scores: Floats = 1.0 - np.where(is_there, near.similarity, 0.0).sum(axis=1) / is_there.sum(axis=1)
    return scores
