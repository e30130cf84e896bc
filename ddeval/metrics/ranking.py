"""Ranking: AUROC and average precision of each class, sorted once and summed for every draw.

A class's images are put in the order of its probability once. Every draw of the bootstrap only
changes how often each image counts, so both areas are sums over that order: the negatives passed
before each threshold, the positives found at it. Thresholds are the distinct scores of the positives;
no other score moves either area.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ddeval.metrics.arrays import Floats, Labels, Probs, Weights, cell_sums, ratio

Mask = npt.NDArray[np.bool_]


class Rankings(NamedTuple):
    """The images by the score of each class, one class below the other.

    The matrices are (thresholds, N), a class's highest threshold first, with a 1 where the image is.
    """

    positives: sparse.csr_array
    """Positives that score exactly the threshold."""
    negatives: sparse.csr_array
    """Negatives at or above the threshold and below the one before."""
    tied: sparse.csr_array | None
    """Negatives exactly at the threshold; None where no class has a tie."""
    starts: npt.NDArray[np.intp]
    """(K + 1,): thresholds of class k are `starts[k]` to `starts[k + 1]`."""
    is_labelled: Mask
    """(K,): the class has positives; without, neither area is defined."""

    @classmethod
    def of(cls, labels: Labels, pred_probs: Probs) -> "Rankings":
        """Each class against the rest, by its probability."""
        return cls.of_classes(
            [(labels == k, scores) for k, scores in enumerate(np.ascontiguousarray(pred_probs.T))]
        )

    @classmethod
    def of_classes(cls, classes: Sequence[tuple[Mask, Floats]]) -> "Rankings":
        """From whether each image is positive and its score (N,), class by class."""
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:  # numpy sorts without the lock
            ranked = list(pool.map(_ranking, *zip(*classes, strict=True)))
        positives, negatives, tied = zip(*ranked, strict=True)
        n_thresholds = [matrix.shape[0] for matrix in positives]
        stacked_ties = sparse.vstack(tied, format="csr")
        return cls(
            sparse.vstack(positives, format="csr"),
            sparse.vstack(negatives, format="csr"),
            stacked_ties if stacked_ties.nnz else None,
            np.cumsum([0, *n_thresholds]),
            np.array([n > 0 for n in n_thresholds]),
        )

    def areas(self, weights: Weights) -> tuple[Floats, Floats]:
        """AUROC (ties count half) and average precision of every class under weights (B, N), each (B, K).

        AUROC is NaN without positives or negatives, average precision without positives.
        """
        positives = cell_sums(self.positives, weights)
        found = self._running(positives.copy())
        passed = self._running(cell_sums(self.negatives, weights))  # negatives at or above
        n_positives = np.zeros((len(self.is_labelled), len(weights)))
        n_positives[self.is_labelled] = found[self.starts[1:][self.is_labelled] - 1]
        n_negatives = weights.sum(axis=1) - n_positives

        gained = np.divide(
            found, found + passed, out=np.zeros(found.shape), where=found > 0, dtype=np.float64
        )
        gained *= positives  # precision at each threshold times what it finds there
        if self.tied is not None:
            passed -= cell_sums(self.tied, weights) / 2
        beaten_by = np.multiply(positives, passed, dtype=np.float64)
        auroc = 1.0 - ratio(self._summed(beaten_by), n_positives * n_negatives)
        return auroc.T, ratio(self._summed(gained), n_positives).T

    def _running(self, sums: Weights) -> Weights:
        """Sums (thresholds, B) down each class, in place."""
        for start, stop in zip(self.starts, self.starts[1:], strict=False):
            np.cumsum(sums[start:stop], axis=0, out=sums[start:stop])
        return sums

    def _summed(self, values: Floats) -> Floats:
        """Sum (K, B) of values (thresholds, B) over each class."""
        sums = np.zeros((len(self.is_labelled), values.shape[1]))
        if self.is_labelled.any():
            sums[self.is_labelled] = np.add.reduceat(values, self.starts[:-1][self.is_labelled], axis=0)
        return sums


def _ranking(
    is_positive: Mask, scores: Floats
) -> tuple[sparse.csr_array, sparse.csr_array, sparse.csr_array]:
    """Positives, negatives and tied negatives of one class, each (thresholds, N)."""
    falling = -scores
    positives, negatives = (  # in whatever order where scores tie: sums over a threshold do not see it
        rows[np.argsort(falling[rows])]
        for rows in (np.flatnonzero(is_positive), np.flatnonzero(~is_positive))
    )
    thresholds, n_at = np.unique(falling[positives], return_counts=True)
    above, reached = (np.searchsorted(falling[negatives], thresholds, side=s) for s in ("left", "right"))
    at = np.repeat(np.arange(len(thresholds)), reached - above)
    tied = negatives[np.arange(len(at)) - np.repeat(np.cumsum(reached - above) - reached, reached - above)]
    n_images = len(scores)
    return (
        _rows_of_ones(positives, np.cumsum(n_at), n_images),
        _rows_of_ones(negatives, reached, n_images),
        _rows_of_ones(tied, np.cumsum(reached - above), n_images),
    )


def _rows_of_ones(
    images: npt.NDArray[np.intp], ends: npt.NDArray[np.intp], n_images: int
) -> sparse.csr_array:
    """Matrix (len(ends), N): row t holds a 1 at images[ends[t - 1] : ends[t]]."""
    indptr = np.append(0, ends)
    images = images[: indptr[-1]]
    return sparse.csr_array(
        (np.ones(len(images), dtype=np.int8), images, indptr), shape=(len(ends), n_images)
    )
