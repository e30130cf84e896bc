"""Smooth calibration error: the ECE without bins, and without their arbitrariness.

The residuals (correct - confidence) are smeared along the confidence axis by a Gaussian that is
reflected at 0 and 1, and their absolute density is integrated. The width of the Gaussian is not
chosen: it is the one that equals the error it gives. Arguments as in `ddeval.metrics.calibration`.
"""

import numpy as np
from scipy import sparse
from scipy.fft import dct
from scipy.optimize import brentq

from ddeval.metrics.arrays import Floats, Labels, Probs, Weights, checked
from ddeval.metrics.binning import Measure, measured

N_CELLS = 32_768
"""Cells of the confidence axis. Sharing a residual between its two nodes widens its Gaussian by a variance
of at most 1 / (4 N_CELLS^2), which moves a value above .001 by less than 1e-6 and any by less than 1e-5."""

FEWEST_POINTS = 1024
"""Points at which the density is integrated, more where the Gaussian is narrow."""


def smooth_ece(labels: Labels, pred_probs: Probs, *, weights: Weights | None = None) -> float:
    """Smooth calibration error of the top class, in [0, 1]; 0 is best.

    With residuals r_i = correct_i - confidence_i at c_i = confidence_i, the value is the fixed point
    s = integral over t in [0, 1] of |sum_i r_i K_s(t, c_i)| / n, where K_s is the Gaussian of width s
    reflected at 0 and 1 so that it integrates to 1 for every c_i. Where all residuals have one sign
    it equals |mean r|. Biased upwards for few images, less than `ece`. Arguments and errors as in
    `ddeval.metrics.calibration.reliability_table`; NaN when there are no images.

    Two public packages put half the weight on c = 1 and read too high where many confidences are 1;
    here the reflection is exact. The grid of 32,768 cells moves the value by less than 1e-5.

    References
    ----------
    Blasiok and Nakkiran (2023), Smooth ECE, arXiv:2309.12236.
    """
    return float(smooth_ece_draws(*checked(labels, pred_probs, weights))[0])


def smooth_ece_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> Floats:
    return measured(smooth_measure, labels, pred_probs, weights)


def smooth_measure(confidence: Floats) -> Measure:
    """Residuals are put on a grid, each shared between its two nodes, and smeared in cosine waves.

    The cosines are the waves a reflected Gaussian only shrinks, wave k by exp(-(pi k s)^2 / 2), so
    the reflection costs nothing and has no error at the ends.
    """
    position = np.clip(confidence, 0.0, 1.0) * N_CELLS
    left = np.minimum(position.astype(np.int64), N_CELLS - 1)
    share = position - left
    n_images = len(confidence)
    nodes = np.concatenate([left, left + 1])
    images = np.tile(np.arange(n_images), 2)
    onto_nodes = sparse.csr_array(
        (np.concatenate([1 - share, share]), (nodes, images)), shape=(N_CELLS + 1, n_images)
    )

    def measure(residuals: Floats, mass: Floats) -> Floats:
        on_nodes = (onto_nodes @ np.ascontiguousarray(residuals.T)).T
        totals = np.broadcast_to(mass.sum(axis=1), len(residuals))
        return np.array([_fixed_point(s, total) for s, total in zip(on_nodes, totals, strict=True)])

    return measure


def _fixed_point(on_nodes: Floats, total: float) -> float:
    """The width s at which the error of residuals smeared by s is s itself."""
    if total == 0:
        return float("nan")
    shares = on_nodes / total
    shares[1:-1] /= 2  # the type-I transform counts every inner node twice
    waves = dct(shares, type=1)

    def excess(width: float) -> float:
        n = _n_points(width)
        shrunk = waves[: n + 1] * np.exp(-np.square(np.pi * width * np.arange(n + 1)) / 2)
        density = np.abs(dct(shrunk, type=1))
        integral = (density.sum() - (density[0] + density[-1]) / 2) / n
        return float(integral - width)

    net, gross = abs(float(on_nodes.sum() / total)), float(np.abs(on_nodes / total).sum())
    low = high = 2 * gross + 1e-9  # the error is between net, all smeared into one, and gross, none
    while excess(low) <= 1e-12:
        if low <= net:
            return net  # of one sign at this width: nothing cancels but the whole
        low, high = max(net, low / 4), low
    return float(brentq(excess, low, high, xtol=1e-9))  # it falls with the width


def _n_points(width: float) -> int:
    """Four points for each wave that is left: at 10 / (pi width) it has shrunk by e^-50."""
    n = FEWEST_POINTS
    while n < min(N_CELLS, 40 / (np.pi * width) if width else N_CELLS):
        n *= 2
    return n
