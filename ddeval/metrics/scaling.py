"""Scaling: the temperature, or the slope and offset of every class, that makes logits honest.

Fits on the logits of one set, gives probabilities for another; everything is float64 whatever the
logits are stored in, because an optimiser without gradients does nothing at all on float32. Which
rows to fit on, and whether it helped, is `ddeval.metrics.recalibration`.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize

from ddeval.metrics.arrays import PROB_FLOOR, Labels, Probs, check_labels, softmax

Logits = npt.NDArray[np.floating[Any]]

TEMPERATURE_RANGE = (0.01, 100.0)
"""A fit that wants to leave it (every image right, or no better than chance) stays at its end."""

RIDGE = 1e-4
"""Pull of vector scaling towards plain temperature scaling: a class absent from the fit stays finite."""


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Temperature T > 0 with the lowest NLL of softmax(logits / T) on these rows; above 1 is overconfident.

    The NLL is convex in 1/T, so the root of its slope is the one minimum; it is looked for between
    .01 and 100 and stays at an end where there is none (all images right: .01). A probability of 0
    has no logit: pass `logits_of(pred_probs)` where only probabilities are at hand.

    Parameters
    ----------
    logits : float array of shape (N, K)
        Any float dtype; the fit is in float64.
    labels : int array of shape (N,)
        Given class of each row, 0 to K-1.

    Raises
    ------
    ValueError
        If there are no rows, shapes disagree, a logit is not finite or a label is outside 0 to K-1.

    References
    ----------
    Guo et al. (2017), On Calibration of Modern Neural Networks, arXiv:1706.04599.

    Examples
    --------
    Three of four come true where the model is sure with odds of e^2: T brings e^2 to 3.

    >>> logits = np.array([[2.0, 0.0]] * 4)
    >>> round(fit_temperature(logits, np.array([0, 0, 0, 1])), 6)  # 2 / ln 3
    1.820478
    """
    logits, labels = _check(logits, labels)
    of_label = logits[np.arange(len(labels)), labels].mean()

    def slope(log_temperature: float) -> float:
        """Derivative of the NLL by 1/T: the mean logit under the probabilities less that of the label."""
        probs = softmax(logits / np.exp(log_temperature))
        return float(np.einsum("ik,ik->", probs, logits) / len(labels) - of_label)

    coldest, hottest = np.log(TEMPERATURE_RANGE)
    if slope(coldest) <= 0:
        return TEMPERATURE_RANGE[0]
    if slope(hottest) >= 0:
        return TEMPERATURE_RANGE[1]
    return float(np.exp(brentq(slope, coldest, hottest, xtol=1e-10)))


def temperature_scaled(logits: Logits, temperature: float) -> Probs:
    """softmax(logits / temperature) in float64."""
    return softmax(np.asarray(logits, dtype=np.float64) / temperature)


class VectorScaling(NamedTuple):
    """Slope and offset of every class's logit."""

    scale: npt.NDArray[np.float64]
    """(K,), multiplies the logits; 1 / T throughout is temperature scaling."""
    offset: npt.NDArray[np.float64]
    """(K,), added after that; sums to 0, where the ridge is least."""

    def probs(self, logits: Logits) -> Probs:
        return softmax(np.asarray(logits, dtype=np.float64) * self.scale + self.offset)


def fit_vector_scaling(labels: Labels, logits: Logits) -> VectorScaling:
    """Slope and offset of every class with the lowest NLL on these rows, starting from the temperature.

    2 K numbers from N rows: below some hundred rows a class it fits noise, and temperature scaling is
    the safer choice. A ridge of 1e-4 towards the temperature's solution keeps a class without
    images finite. Arguments and errors as in `fit_temperature`, labels first.
    """
    logits, labels = _check(logits, labels)
    n_images, n_classes = logits.shape
    start = np.concatenate([np.full(n_classes, 1.0 / fit_temperature(logits, labels)), np.zeros(n_classes)])
    is_label = np.zeros_like(logits)
    is_label[np.arange(n_images), labels] = 1.0

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        scaled = logits * parameters[:n_classes] + parameters[n_classes:]
        scaled -= scaled.max(axis=1, keepdims=True)
        log_probs = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        errors = (np.exp(log_probs) - is_label) / n_images
        pull = parameters - start
        value = -np.einsum("ik,ik->", is_label, log_probs) / n_images + RIDGE * pull @ pull
        slope = np.concatenate([np.einsum("ik,ik->k", errors, logits), errors.sum(axis=0)])
        return float(value), slope + 2 * RIDGE * pull

    fit = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 1e-14})
    return VectorScaling(scale=fit.x[:n_classes], offset=fit.x[n_classes:])


def logits_of(pred_probs: Probs) -> npt.NDArray[np.float64]:
    """Logits that give these probabilities back: their logarithm, clipped at 1e-15."""
    logits: npt.NDArray[np.float64] = np.log(
        np.clip(np.asarray(pred_probs, dtype=np.float64), PROB_FLOOR, None)
    )
    return logits


def _check(logits: Logits, labels: Labels) -> tuple[npt.NDArray[np.float64], Labels]:
    labels = np.asarray(labels)
    rows: npt.NDArray[np.float64] = np.asarray(logits, dtype=np.float64)
    if rows.ndim != 2 or labels.shape != rows.shape[:1]:
        raise ValueError(
            f"labels must have shape (N,) and logits (N, K), got {labels.shape} and {rows.shape}"
        )
    if not len(labels):
        raise ValueError("there are no rows to fit a scaling on")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(
            f"logits must be finite; row {row} is not (probabilities? pass logits_of(pred_probs))"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be whole numbers, got dtype {labels.dtype}")
    check_labels(labels, n_classes=rows.shape[1])
    return rows, labels.astype(np.int64)
