"""Confident learning: cleanlab's filters, scores and class tables, behind one module.

What cleanlab counts is shown beside the ranking and never decides: on human noise its counts were a
quarter to a half of the true number. It is imported when a function runs.
"""

import warnings
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.metrics.arrays import Labels, Probs, check_labels_and_probs, softmax
from ddeval.metrics.scaling import fit_temperature, logits_of

FilterBy = Literal[
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
]
FILTERS: tuple[FilterBy, ...] = get_args(FilterBy)
Score = Literal["self_confidence", "normalized_margin", "confidence_weighted_entropy"]
SCORES: tuple[Score, ...] = get_args(Score)


def label_issue_mask(
    labels: npt.ArrayLike, pred_probs: npt.ArrayLike, *, filter_by: FilterBy = "prune_by_noise_rate"
) -> npt.NDArray[np.bool_]:
    """Images that one of cleanlab's filters flags, (N,). Nothing is flagged among classes that are absent.

    Raises
    ------
    ValueError
        If `filter_by` is none of `FILTERS`, or labels and probabilities do not fit.
    """
    if filter_by not in FILTERS:
        raise ValueError(f"filter_by must be one of {', '.join(FILTERS)}, got {filter_by!r}")
    given, probs = check_labels_and_probs(np.asarray(labels), np.asarray(pred_probs))
    if len(given) == 0 or len(np.unique(given)) < 2:
        return np.zeros(len(given), dtype=bool)
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of absent classes, which we name elsewhere
        mask = find_label_issues(given, probs, filter_by=filter_by, n_jobs=1)
    return np.asarray(mask, dtype=bool)


def label_quality_scores(labels: npt.ArrayLike, pred_probs: npt.ArrayLike) -> pd.DataFrame:
    """cleanlab's three label quality scores, a column each, low = suspicious."""
    given, probs = check_labels_and_probs(np.asarray(labels), np.asarray(pred_probs))
    if len(given) == 0:
        return pd.DataFrame({name: np.empty(0) for name in SCORES})
    from cleanlab.rank import get_label_quality_scores

    return pd.DataFrame({name: get_label_quality_scores(given, probs, method=name) for name in SCORES})


def temperature_scaled(labels: Labels, pred_probs: Probs) -> tuple[Probs, float]:
    """Probabilities divided by the temperature that fits the given labels best, and that temperature."""
    logits = logits_of(pred_probs)
    temperature = fit_temperature(logits, labels)
    return softmax(logits / temperature), temperature


def confident_joint(labels: Labels, pred_probs: Probs) -> npt.NDArray[np.int64]:
    """Counts (K, K) of images labelled i that are confidently j, in one pass and without cleanlab.

    An image counts for the class with the highest probability among those at or above their threshold, the
    mean probability of the class over the images labelled so. Equal to cleanlab's uncalibrated joint; it
    serves where a million rows must be done in seconds.

    References
    ----------
    Northcutt et al. (2021), Confident Learning, JAIR 70, section 3.1.
    """
    n_classes = pred_probs.shape[1]
    n_given = np.bincount(labels, minlength=n_classes)
    own = pred_probs[np.arange(len(labels)), labels]
    with np.errstate(invalid="ignore", divide="ignore"):
        threshold = np.bincount(labels, weights=own, minlength=n_classes) / n_given
    threshold = np.where(n_given > 0, threshold, np.inf)  # nothing is confidently of a class never given
    confident = np.where(pred_probs >= threshold - 1e-6, pred_probs, -1.0)
    likely = confident.argmax(axis=1)
    counted = confident[np.arange(len(labels)), likely] >= 0
    joint = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(joint, (labels[counted], likely[counted]), 1)
    return joint


def class_overlap(labels: Labels, pred_probs: Probs, *, class_names: tuple[str, ...]) -> pd.DataFrame:
    """Pairs of classes mixed up in the labels: `given_label, likely_label, share, n_images`, worst first.

    `share` is the estimated part of the given label's images that belong to the likely class; `n_images`
    that many images. From the confident joint, each row scaled to the images of its label.
    """
    joint = confident_joint(labels, pred_probs).astype(np.float64)
    n_given = np.bincount(labels, minlength=len(class_names))
    row = joint.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = joint / row[:, None]
    pairs = [
        (class_names[i], class_names[j], float(share[i, j]), float(share[i, j] * n_given[i]))
        for i in range(len(class_names))
        for j in range(len(class_names))
        if i != j and row[i] > 0 and joint[i, j] > 0
    ]
    frame = pd.DataFrame(pairs, columns=["given_label", "likely_label", "share", "n_images"])
    return frame.sort_values(
        ["n_images", "given_label", "likely_label"], ascending=[False, True, True], ignore_index=True
    )


def class_health(
    labels: Labels, pred_probs: Probs, *, class_names: tuple[str, ...], quality: npt.NDArray[np.float64]
) -> pd.DataFrame:
    """Health of the labels, a row a class, worst first; NaN for a class without images.

    `n_images`; `label_noise`, the estimated part of the class's labels that are wrong; `inverse_noise`, the
    estimated part of the class's true images that are labelled otherwise; `label_quality`, its mean.
    """
    joint = confident_joint(labels, pred_probs).astype(np.float64)
    n_given = np.bincount(labels, minlength=len(class_names))
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = joint / joint.sum(axis=1, keepdims=True) * n_given[:, None]
        frame = pd.DataFrame(
            {
                "class_name": class_names,
                "n_images": n_given,
                "label_noise": 1.0 - np.diag(scaled) / n_given,
                "inverse_noise": 1.0 - np.diag(scaled) / np.nansum(scaled, axis=0),
                "label_quality": np.bincount(labels, weights=quality, minlength=len(class_names)) / n_given,
            }
        )
    return frame.sort_values(["label_noise", "class_name"], ascending=[False, True], ignore_index=True)
