"""Labels, probabilities and weights: what they must look like, checked once at the door.

Every metric comes in two forms that share one body. The public one takes `labels, pred_probs` and
optional weights of shape (N,) and returns a float; its `*_draws` twin takes weights of shape (B, N),
one row a bootstrap draw, and returns an array of shape (B,). Nothing re-indexes rows.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

Labels = npt.NDArray[np.int64]
Probs = npt.NDArray[np.float64]
Weights = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]

ROW_SUM_TOLERANCE = 1e-3
"""float16 softmax over 26 classes is off by up to 5e-4."""

PROB_FLOOR = 1e-15
"""Probabilities are clipped here for a logarithm, and nowhere else."""

BLOCK_CELLS = 2**18
"""Cells of a (B, N) weight matrix worked on at a time: 2 MB in float64, as large as the cache of a core."""


def check_labels_and_probs(labels: Labels, pred_probs: Probs) -> tuple[Labels, Probs]:
    """`labels` (N,) as int64 and `pred_probs` (N, K) as float64; a ValueError names the first bad row.

    Labels must lie in 0 to K-1; probabilities must be finite, lie in 0 to 1 and sum to 1 by row.
    """
    labels, pred_probs = np.asarray(labels), np.asarray(pred_probs, dtype=np.float64)
    if pred_probs.ndim != 2 or labels.shape != pred_probs.shape[:1]:
        raise ValueError(
            f"labels must have shape (N,) and pred_probs (N, K), got {labels.shape} and {pred_probs.shape}"
        )
    if labels.size and not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be whole numbers, got dtype {labels.dtype}: each the column of its class"
        )
    check_labels(labels, n_classes=pred_probs.shape[1])
    check_probs(pred_probs)
    return labels.astype(np.int64), pred_probs


def check_labels(labels: npt.NDArray[Any], *, n_classes: int) -> None:
    outside = (labels < 0) | (labels >= n_classes)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"labels must lie in 0..{n_classes - 1} (pred_probs has {n_classes} columns); "
            f"row {row} has {labels[row]}, {int(outside.sum())} rows in all"
        )


def check_probs(pred_probs: Probs) -> None:
    is_inside = (pred_probs >= 0) & (pred_probs <= 1 + ROW_SUM_TOLERANCE)
    outside: npt.NDArray[np.bool_] = ~np.all(is_inside, axis=1, keepdims=True)[:, 0]  # NaN fails too
    sums = pred_probs.sum(axis=1)
    off: npt.NDArray[np.bool_] = np.logical_or(outside, ~(np.abs(sums - 1) <= ROW_SUM_TOLERANCE))
    if off.any():
        row = int(np.flatnonzero(off)[0])
        if outside[row]:
            cell = next(p for p in pred_probs[row] if not 0 <= p <= 1 + ROW_SUM_TOLERANCE)
            raise ValueError(
                f"pred_probs must lie in 0..1; row {row} has {cell:.4g} (logits? apply softmax first), "
                f"{int(off.sum())} rows in all"
            )
        raise ValueError(
            f"rows of pred_probs must sum to 1; row {row} sums to {sums[row]:.4f} "
            f"(logits? apply softmax first), {int(off.sum())} rows in all"
        )


def check_weights(weights: Weights | None, *, n_images: int) -> Weights:
    """Weights of one metric as (1, N); ones where None. Negative or non-finite weights are a ValueError."""
    if weights is None:
        return np.ones((1, n_images))
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (n_images,):
        raise ValueError(f"weights must have shape ({n_images},), got {weights.shape}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("weights must be finite and not negative")
    return weights[None, :]


def checked(labels: Labels, pred_probs: Probs, weights: Weights | None) -> tuple[Labels, Probs, Weights]:
    """The three arrays of a public metric, checked, with weights (1, N); a row of weight 0 is no row."""
    labels, pred_probs = check_labels_and_probs(labels, pred_probs)
    weights = check_weights(weights, n_images=len(labels))
    held = weights[0] > 0
    if held.all():
        return labels, pred_probs, weights
    return labels[held], pred_probs[held], weights[:, held]


def top_class(labels: Labels, pred_probs: Probs) -> Labels:
    """Predicted class of each image (N,): the most probable one; a tie counts against the model.

    Where the label shares the highest probability with another class, the first such other class is
    predicted, so that accuracy does not depend on the order of the classes.
    """
    rows = np.arange(len(labels))
    top: Labels = pred_probs.argmax(axis=1)
    own = pred_probs[rows, labels]
    tied = np.flatnonzero((top == labels) & ((pred_probs >= own[:, None]).sum(axis=1) > 1))
    others = pred_probs[tied]
    others[np.arange(len(tied)), labels[tied]] = -1.0
    top[tied] = others.argmax(axis=1)
    return top


def softmax(logits: npt.NDArray[np.floating[Any]]) -> Probs:
    """Probabilities in float64 from logits (N, K); rows sum to 1 to the last bits."""
    logits = np.asarray(logits, dtype=np.float64)
    exponents: Probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    exponents /= exponents.sum(axis=1, keepdims=True)
    return exponents


def blocks(weights: Weights) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Rows of a (B, N) weight matrix a few at a time, as float64; whatever dtype holds the counts."""
    step = max(1, BLOCK_CELLS // max(weights.shape[1], 1))
    for start in range(0, weights.shape[0], step):
        rows = slice(start, start + step)
        yield rows, np.asarray(weights[rows], dtype=np.float64)


def weighted_sums(
    weights: Weights, columns: npt.NDArray[np.float64] | sparse.csr_array
) -> npt.NDArray[np.float64]:
    """Sums over images of weights (B, N) times columns (N, C), dense or sparse: shape (B, C)."""
    sums = np.empty((weights.shape[0], columns.shape[1]))
    by_column = None if isinstance(columns, np.ndarray) else columns.T.tocsr()
    for rows, block in blocks(weights):
        if by_column is None:
            sums[rows] = block @ columns
        else:
            sums[rows] = (by_column @ np.ascontiguousarray(block.T)).T
    return sums


def weighted_means(weights: Weights, values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Mean of `values` (N,) under each row of weights (B, N): shape (B,); NaN where a row weighs nothing."""
    columns = np.column_stack([np.asarray(values, dtype=np.float64), np.ones(len(values))])
    total, mass = weighted_sums(weights, columns).T
    with np.errstate(invalid="ignore"):  # 0/0 where nothing is weighed is NaN, and NaN is the answer
        means: npt.NDArray[np.float64] = total / mass
    return means


def cells(cell_of: npt.NDArray[np.integer[Any]], n_cells: int) -> sparse.csr_array:
    """Matrix (n_cells, N) with a 1 where image i is in cell `cell_of[i]`."""
    n_images = len(cell_of)
    ones = np.ones(n_images, dtype=np.int8)
    return sparse.csc_array((ones, cell_of, np.arange(n_images + 1)), shape=(n_cells, n_images)).tocsr()


def cell_sums(cells: sparse.csr_array, weights: Weights) -> Weights:
    """Weight in each cell: `cells` (C, N) times weights (B, N), shape (C, B), in the dtype of the weights.

    Cheapest where `weights` is the transpose of a contiguous (N, B) array, as the bootstrap makes it.
    """
    sums: Weights = cells @ weights.T
    return sums


def ratio(part: Weights, whole: Weights) -> Floats:
    """`part / whole` in float64; NaN where `whole` is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):  # 0/0 is NaN, and NaN is the answer
        share: Floats = np.divide(part, whole, dtype=np.float64)
    return np.where(whole == 0, np.nan, share)
