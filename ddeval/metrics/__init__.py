"""Metrics: predictions to numbers. Arrays in, a number, a record or a frame out; see docs/metrics.md."""

from ddeval.metrics.calibration import brier_score, classwise_ece, ece, nll
from ddeval.metrics.discrimination import (
    auroc_macro,
    average_precision_macro,
    balanced_accuracy,
    macro_f1,
    mcc,
    top_k_accuracy,
)
from ddeval.metrics.paired import compare
from ddeval.metrics.resampling import bootstrap
from ddeval.metrics.selective import augrc, aurc
from ddeval.metrics.smoothing import smooth_ece

__all__ = [
    "augrc",
    "aurc",
    "auroc_macro",
    "average_precision_macro",
    "balanced_accuracy",
    "bootstrap",
    "brier_score",
    "classwise_ece",
    "compare",
    "ece",
    "macro_f1",
    "mcc",
    "nll",
    "smooth_ece",
    "top_k_accuracy",
]
