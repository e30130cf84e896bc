"""Ranking: AUROC and average precision of each class, sorted once and summed for every draw.

A class's images are put in the order of its probability once. Every draw of the bootstrap only
changes how often each image counts, so both areas are sums over that order: the negatives passed
before each threshold, the positives found at it. Thresholds are the distinct scores of the positives;
no other score moves either area.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ddeval.metrics.arrays import Floats, Labels, Probs, Weights, cell_sums, ratio


class Ranking(NamedTuple):
    """One class against the rest; matrices (thresholds, N), highest threshold first, 1 where the image is."""

    positives: sparse.csr_array
    """Positives that score exactly the threshold."""
    negatives: sparse.csr_array
    """Negatives at or above the threshold and below the one before."""
    tied: sparse.csr_array | None
    """Negatives exactly at the threshold; None where there is no tie."""

    @classmethod
    def of(cls, is_positive: npt.NDArray[np.bool_], scores: Floats) -> "Ranking":
        falling = -scores
        positives, negatives = (
            rows[np.argsort(falling[rows], kind="stable")]
            for rows in (np.flatnonzero(is_positive), np.flatnonzero(~is_positive))
        )
        thresholds, first = np.unique(falling[positives], return_index=True)
        above, at_or_above = (
            np.searchsorted(falling[negatives], thresholds, side=s) for s in ("left", "right")
        )
        tied = None
        if (at_or_above > above).any():
            at = [negatives[low:high] for low, high in zip(above, at_or_above, strict=True)]
            tied = _rows_of_ones(np.concatenate(at), np.cumsum(at_or_above - above), len(scores))
        return cls(
            _rows_of_ones(positives, np.append(first[1:], len(positives))[: len(thresholds)], len(scores)),
            _rows_of_ones(negatives, at_or_above, len(scores)),
            tied,
        )

    def areas(self, weights: Weights, total: Weights) -> tuple[Floats, Floats]:
        """AUROC (ties count half) and average precision under weights (B, N) that sum to `total`, each (B,).

        AUROC is NaN without positives or negatives, average precision without positives.
        """
        if not self.positives.shape[0]:
            return np.full(len(total), np.nan), np.full(len(total), np.nan)
        positives = cell_sums(self.positives, weights)
        passed = np.cumsum(cell_sums(self.negatives, weights), axis=0)  # negatives at or above
        found = np.cumsum(positives, axis=0)
        n_positives = found[-1].astype(np.float64)
        n_negatives = total - n_positives

        beaten_by = np.einsum("tb,tb->b", positives, passed, dtype=np.float64)
        if self.tied is not None:
            ties = cell_sums(self.tied, weights)
            beaten_by -= np.einsum("tb,tb->b", positives, ties, dtype=np.float64) / 2
        precision = np.divide(
            found, found + passed, out=np.zeros(found.shape), where=found > 0, dtype=np.float64
        )
        return (
            1.0 - ratio(beaten_by, n_positives * n_negatives),
            ratio(np.einsum("tb,tb->b", positives, precision), n_positives),
        )


class Rankings(NamedTuple):
    """The ranking of every class, and which classes have the areas."""

    of_class: tuple[Ranking, ...]
    is_labelled: npt.NDArray[np.bool_]
    """(K,): the class has images, so average precision is defined."""
    is_rankable: npt.NDArray[np.bool_]
    """(K,): the class has images and so have the others, so AUROC is defined."""

    @classmethod
    def of(cls, labels: Labels, pred_probs: Probs) -> "Rankings":
        n_classes = pred_probs.shape[1]
        n_of = np.bincount(labels, minlength=n_classes)
        rankings = tuple(Ranking.of(labels == k, pred_probs[:, k]) for k in range(n_classes))
        return cls(rankings, n_of > 0, (n_of > 0) & (n_of < len(labels)))

    def areas(self, weights: Weights) -> tuple[Floats, Floats]:
        """AUROC and average precision of every class under weights (B, N), each (B, K)."""
        total = weights.sum(axis=1)
        auroc, average_precision = zip(
            *(ranking.areas(weights, total) for ranking in self.of_class), strict=True
        )
        return np.column_stack(auroc), np.column_stack(average_precision)


def _rows_of_ones(
    images: npt.NDArray[np.intp], ends: npt.NDArray[np.intp], n_images: int
) -> sparse.csr_array:
    """Matrix (len(ends), N): row t holds a 1 at images[ends[t - 1] : ends[t]]."""
    indptr = np.append(0, ends)
    images = images[: indptr[-1]]
    return sparse.csr_array(
        (np.ones(len(images), dtype=np.int8), images, indptr), shape=(len(ends), n_images)
    )
