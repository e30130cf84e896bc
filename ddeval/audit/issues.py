"""Issues: every image with how well its label fits, which class it more likely is, and why, worst first.

Composes the ranking with each signal in a column of its own. Images whose class nobody ever labels (an
`other` that is absent) are listed apart: no comparison with a given label can find them.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.audit.neighbours import Neighbours, neighbour_probs, neighbours, outlier_scores
from ddeval.audit.ranking import both, own, pooled, recalibrated
from ddeval.metrics.arrays import Floats, Labels, Probs, check_labels_and_probs, top_class


def issues_table(
    image_ids: npt.ArrayLike,
    labels: npt.ArrayLike,
    members: Sequence[npt.ArrayLike],
    *,
    class_names: Sequence[str],
    features: npt.ArrayLike | None = None,
) -> pd.DataFrame:
    """ISSUES: one row an image, most suspicious label first.

    Columns after those of the table: `predicted_probability` (how sure, recalibrated), `model_label` (the
    model's own first choice, before any recalibration; ties count against the label), `self_confidence` and
    `recalibrated_confidence` (whose geometric mean is `label_quality`), `normalized_margin` (given less
    best other, 0 to 1), `entropy` (nats), and with features `neighbour_confidence` and `outlier_score`. Ties
    in quality go by image id.

    Parameters
    ----------
    image_ids : array of shape (N,), unique
    labels : int array of shape (N,)
    members : sequence of float arrays of shape (N, K)
        Probabilities of each checkpoint; not from a model trained on these labels.
    class_names : K names
    features : float array of shape (N, D), optional
        Embeddings.
    """
    checked = [check_labels_and_probs(np.asarray(labels), np.asarray(m)) for m in members]
    given, probs = checked[0][0], [member for _, member in checked]
    mean = pooled(given, probs)
    opinions = list(probs) if len(probs) > 1 else []
    near = None if features is None else neighbours(features)
    if near is not None:
        opinions.append(neighbour_probs(given, near, n_classes=mean.shape[1]))
    likely = recalibrated(given, mean, opinions=opinions)
    rows = np.arange(len(given))
    predicted = likely.argmax(axis=1) if len(given) else given
    names = np.array(class_names, dtype=object)
    confidence, recalibrated_confidence = own(mean, given), own(likely, given)
    frame = pd.DataFrame(
        {
            "image_id": np.asarray(image_ids, dtype=object),
            "rank": 0,
            "label_quality": both(confidence, recalibrated_confidence),
            "given_label": names[given],
            "predicted_label": names[predicted],
            "predicted_probability": likely[rows, predicted],
            "model_label": names[top_class(given, mean)],
            "self_confidence": confidence,
            "recalibrated_confidence": recalibrated_confidence,
            "normalized_margin": (confidence - _best_other(mean, given) + 1) / 2,
            "entropy": _entropy(mean),
        }
    )
    if near is not None:
        frame["neighbour_confidence"] = own(opinions[-1], given)
        frame["outlier_score"] = outlier_scores(near)
    frame["reason"] = _reasons(given, predicted, likely, names, near)
    frame = frame.sort_values(["label_quality", "image_id"], ignore_index=True)
    frame["rank"] = np.arange(1, len(frame) + 1)
    return frame


def absent_class_table(
    image_ids: npt.ArrayLike, labels: Labels, pred_probs: Probs, *, class_names: Sequence[str]
) -> pd.DataFrame:
    """Images likeliest of a class that is never given: `image_id, absent_class, probability, given_label`.

    Only images on which an absent class is the model's first choice; empty where no class is absent.
    cleanlab's default filters flag none of these.
    """
    names = np.array(class_names, dtype=object)
    absent = np.bincount(labels, minlength=len(names)) == 0
    top = pred_probs.argmax(axis=1) if len(labels) else labels
    found = np.flatnonzero(absent[top])
    frame = pd.DataFrame(
        {
            "image_id": np.asarray(image_ids, dtype=object)[found],
            "absent_class": names[top[found]],
            "probability": pred_probs[found, top[found]],
            "given_label": names[labels[found]],
        }
    )
    return frame.sort_values(["probability", "image_id"], ascending=[False, True], ignore_index=True)


def _best_other(probs: Probs, labels: Labels) -> Floats:
    others = probs.copy()
    others[np.arange(len(labels)), labels] = -1.0
    best: Floats = np.maximum(others.max(axis=1, initial=-1.0), 0.0)
    return best


def _entropy(probs: Probs) -> Floats:
    total = np.zeros(len(probs))
    for column in probs.T:  # a column at a time: no second copy of a million rows
        total -= column * np.log(np.maximum(column, 1e-300))
    return total


def _reasons(
    given: Labels,
    predicted: Labels,
    likely: Probs,
    names: npt.NDArray[np.object_],
    near: Neighbours | None,
) -> list[str]:
    """One sentence an image, in words a clinician reads."""
    rows = np.arange(len(given))
    of_given, of_predicted = own(likely, given), likely[rows, predicted]
    agrees = predicted == given
    reasons = [
        f"the model agrees with {names[g]} ({b:.2f})"
        if same
        else f"labelled {names[g]} ({a:.2f}), the model says {names[p]} ({b:.2f})"
        for g, p, a, b, same in zip(given, predicted, of_given, of_predicted, agrees, strict=True)
    ]
    if near is not None:
        others = _votes(given, near, predicted)
        n_near = (near.rows >= 0).sum(axis=1)
        for i in np.flatnonzero(~agrees & (n_near > 0)):
            reasons[i] += f"; {others[i]} of its {n_near[i]} nearest images are {names[predicted[i]]}"
    return reasons


def _votes(labels: Labels, near: Neighbours, predicted: Labels) -> npt.NDArray[np.int64]:
    """How many of the nearest images carry the predicted class as their label."""
    held = labels[np.maximum(near.rows, 0)]
    votes: npt.NDArray[np.int64] = ((held == predicted[:, None]) & (near.rows >= 0)).sum(axis=1)
    return votes
