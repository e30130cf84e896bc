"""Golden values: does this installation compute what it should?

`ddeval verify` without arguments runs these checks. Each number is known from outside this package:
in closed form, worked by hand, or computed by scikit-learn or by slow loops over the twelve images
below. Real data with published values are checked in tests/test_golden.py.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from ddeval.metrics.calibration import (
    brier_score,
    calibration_gap,
    classwise_ece,
    ece,
    ece_equal_mass,
    fit_temperature,
    mce,
    nll,
)
from ddeval.metrics.conformal import lac_threshold
from ddeval.metrics.deferral import choose_threshold, operating_point
from ddeval.metrics.discrimination import (
    auroc_macro,
    average_precision_macro,
    balanced_accuracy,
    cohen_kappa,
    macro_f1,
    mcc,
    top_k_accuracy,
)
from ddeval.metrics.selective import augrc, aurc, failure_auroc
from ddeval.metrics.smoothing import smooth_ece

LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
PROBS = (
    np.array(
        [
            [36, 7, 57],
            [65, 12, 23],
            [24, 49, 27],
            [70, 24, 6],
            [80, 3, 17],
            [4, 87, 9],
            [38, 58, 4],
            [7, 59, 34],
            [22, 36, 42],
            [30, 20, 50],
            [21, 23, 56],
            [10, 27, 63],
        ]
    )
    / 100
)
ALTERNATING = {
    "labels": np.array([1, 0, 1, 0]),
    "pred_probs": np.tile([0.9, 0.1], (4, 1)),
    "confidence": np.array([0.0, 1.0, 0.0, 1.0]),
}
"""Wrong, right, wrong, right; the right ones are sure."""

ONE_SIDED = np.repeat([0, 1], [30, 10]), np.repeat([[1.0, 0.0], [0.95, 0.05]], [20, 20], axis=0)
"""Confidence 1.0 twenty times, always right; .95 twenty times, right ten times: mean gap .225."""


class Golden(NamedTuple):
    """A number and what it must be."""

    check: str
    value: Callable[[], float]
    expected: float
    tolerance: float
    source: str


GOLDEN = (
    Golden("top_1_accuracy", lambda: top_k_accuracy(LABELS, PROBS), 9 / 12, 1e-12, "by hand"),
    Golden("top_2_accuracy", lambda: top_k_accuracy(LABELS, PROBS, k=2), 11 / 12, 1e-12, "by hand"),
    Golden("balanced_accuracy", lambda: balanced_accuracy(LABELS, PROBS), 47 / 60, 1e-12, "by hand"),
    Golden("macro_f1", lambda: macro_f1(LABELS, PROBS), 0.75, 1e-12, "scikit-learn"),
    Golden("mcc", lambda: mcc(LABELS, PROBS), 31 / 47, 1e-12, "scikit-learn"),
    Golden("cohen_kappa", lambda: cohen_kappa(LABELS, PROBS), 31 / 49, 1e-12, "scikit-learn"),
    Golden("auroc_macro", lambda: auroc_macro(LABELS, PROBS), 0.9363205467372134, 1e-12, "scikit-learn"),
    Golden(
        "average_precision_macro",
        lambda: average_precision_macro(LABELS, PROBS),
        0.8861375661375662,
        1e-12,
        "scikit-learn",
    ),
    Golden("nll", lambda: nll(LABELS, PROBS), 0.6189702818597086, 1e-12, "scikit-learn"),
    Golden("brier_score", lambda: brier_score(LABELS, PROBS), 4.2032 / 12, 1e-12, "by hand"),
    Golden("calibration_gap", lambda: calibration_gap(LABELS, PROBS), -41 / 300, 1e-12, "by hand"),
    Golden("ece", lambda: ece(LABELS, PROBS), 31 / 150, 1e-12, "slow loop"),
    Golden("mce", lambda: mce(LABELS, PROBS), 0.42, 1e-12, "slow loop"),
    Golden("ece_equal_mass", lambda: ece_equal_mass(LABELS, PROBS, n_bins=3), 41 / 300, 1e-12, "slow loop"),
    Golden("classwise_ece", lambda: classwise_ece(LABELS, PROBS), 391 / 1800, 1e-12, "slow loop"),
    Golden("smooth_ece", lambda: smooth_ece(LABELS, PROBS), 0.149395, 1e-5, "slow loop"),
    Golden("smooth_ece of one sign", lambda: smooth_ece(*ONE_SIDED), 0.225, 1e-6, "closed form"),
    Golden("aurc", lambda: aurc(LABELS, PROBS), 0.053577441077441085, 1e-12, "slow loop"),
    Golden("augrc", lambda: augrc(LABELS, PROBS), 13 / 288, 1e-12, "closed form"),
    Golden("failure_auroc", lambda: failure_auroc(LABELS, PROBS), 25 / 27, 1e-12, "by hand"),
    Golden("aurc of a perfect ranking", lambda: aurc(**ALTERNATING), 1 / 8, 1e-12, "fd-shifts"),
    Golden("augrc of a perfect ranking", lambda: augrc(**ALTERNATING), 1 / 8, 1e-12, "fd-shifts"),
    Golden(
        "fit_temperature",
        lambda: fit_temperature(np.array([[2.0, 0.0]] * 4, dtype=np.float32), np.array([0, 0, 0, 1])),
        2 / np.log(3),
        1e-8,
        "closed form",
    ),
    Golden("lac_threshold", lambda: lac_threshold(LABELS, PROBS, coverage=0.75), 0.36, 1e-12, "by hand"),
    Golden(
        "images that show a risk of 5 %",
        lambda: float(choose_threshold(np.ones(59), np.ones(59), risk=0.05).n_answered),
        59.0,
        0.0,
        "closed form",
    ),
    Golden(
        "bound of 0 wrong in 59",
        lambda: operating_point(np.ones(59), np.ones(59), threshold=0.5).risk_upper,
        1 - 0.05 ** (1 / 59),
        1e-12,
        "closed form",
    ),
)


def golden_checks() -> pd.DataFrame:
    """Every golden value, computed now: `check`, `value`, `expected`, `tolerance`, `source`, `is_equal`.

    NaN is never equal.
    """
    rows = []
    for golden in GOLDEN:
        value = golden.value()
        is_equal = abs(value - golden.expected) <= golden.tolerance  # written so that NaN fails
        rows.append(golden._asdict() | {"value": value, "is_equal": is_equal})
    columns = ["check", "value", "expected", "tolerance", "source", "is_equal"]
    return pd.DataFrame(rows, columns=columns)
