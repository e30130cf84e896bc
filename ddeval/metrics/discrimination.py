"""Discrimination: does the model tell the classes apart?

Two things are counted once and read many times. The **confusion matrix** (given label by predicted
class) gives balanced accuracy, F1, MCC, kappa and each class's rates; the **ranking** of the images by
the probability of a class gives its AUROC and average precision. Both take a matrix of weights, one row
a bootstrap draw, so a thousand draws cost a sum each and no new sort. This module knows no `other`
class and draws no intervals: `ddeval.metrics.summary` and `ddeval.metrics.resampling` do.

Conventions. The predicted class is the most probable one and a tie counts against the model. A rate
whose denominator is empty is NaN, never 0. Means over classes are over a set fixed by the images given,
the same in every draw: labelled classes for balanced accuracy, AUROC and average precision, labelled or
predicted ones for macro F1; a draw in which one of them has no value is NaN and is counted.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ddeval.metrics.arrays import Floats, Labels, Probs, Weights, cell_sums, cells, checked, ratio, top_class
from ddeval.metrics.ranking import Rankings


def top_k_accuracy(labels: Labels, pred_probs: Probs, k: int = 1, *, weights: Weights | None = None) -> float:
    """Share of images whose label is among the k most probable classes, in [0, 1]; 1 is best.

    A tie counts against the model: the label's rank is the number of other classes at least as
    probable. So `k=1` equals the diagonal share of `confusion`, and k at or above the number of classes
    gives 1. NaN when there are no images.

    Parameters
    ----------
    labels : int array of shape (N,)
        Given class of each image, 0 to K-1.
    pred_probs : float array of shape (N, K)
        Predicted probabilities; each row sums to 1.
    k : int
        Number of answers allowed, at least 1.
    weights : float array of shape (N,), optional
        How often each image counts; 0 leaves it out.

    Raises
    ------
    ValueError
        If shapes disagree, a label is outside 0 to K-1, a row does not sum to 1, or k is below 1.

    Examples
    --------
    >>> probs = np.array([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.4, 0.4, 0.2]])
    >>> top_k_accuracy(np.array([0, 2, 1]), probs), top_k_accuracy(np.array([0, 2, 1]), probs, k=2)
    (0.3333333333333333, 0.6666666666666666)
    """
    labels, pred_probs, weights = checked(labels, pred_probs, weights)
    return float(top_k_accuracy_draws(labels, pred_probs, weights, k=k)[0])


def top_k_accuracy_draws(labels: Labels, pred_probs: Probs, weights: Weights, *, k: int = 1) -> Floats:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    is_hit = label_ranks(labels, pred_probs) < k
    return ratio(weights @ is_hit.astype(weights.dtype), weights.sum(axis=1))


def label_ranks(labels: Labels, pred_probs: Probs) -> Labels:
    """Number of other classes at least as probable as the label, one an image: 0 is a right answer."""
    own = np.take_along_axis(pred_probs, labels[:, None], axis=1)
    ranks: Labels = (pred_probs >= own).sum(axis=1) - 1
    return ranks


def confusion(labels: Labels, pred_probs: Probs, *, weights: Weights | None = None) -> Floats:
    """Images of each given label (row) that got each predicted class (column), shape (K, K).

    Arguments and errors as `top_k_accuracy`.

    Examples
    --------
    >>> confusion(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]))
    array([[1., 1.],
           [0., 1.]])
    """
    labels, pred_probs, weights = checked(labels, pred_probs, weights)
    counts: Floats = Confusion.of(labels, pred_probs).counts(weights)[0]
    return counts


class Confusion(NamedTuple):
    """Which cell of the confusion matrix each image falls in, and the classes that means are over."""

    cells: sparse.csr_array
    """(K * K, N), 1 where the image is in the cell."""
    is_labelled: npt.NDArray[np.bool_]
    """(K,): the class has images."""
    is_predicted: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, labels: Labels, pred_probs: Probs) -> "Confusion":
        n_classes = pred_probs.shape[1]
        predicted = top_class(labels, pred_probs)
        cell_of = labels * n_classes + predicted
        is_labelled, is_predicted = (np.bincount(c, minlength=n_classes) > 0 for c in (labels, predicted))
        return cls(cells(cell_of, n_classes**2), is_labelled, is_predicted)

    def counts(self, weights: Weights) -> Floats:
        """Confusion matrices (B, K, K) under weights (B, N)."""
        n_classes = len(self.is_labelled)
        return cell_sums(self.cells, weights).T.reshape(-1, n_classes, n_classes).astype(np.float64)

    def summaries(self, counts: Floats) -> dict[str, Floats]:
        """The scalar metrics of confusion matrices (B, K, K), each (B,)."""
        labelled, predicted, right = counts.sum(axis=2), counts.sum(axis=1), _diagonal(counts)
        n_images = labelled.sum(axis=1)
        f1 = ratio(2 * right, labelled + predicted)
        f1_of_labelled = np.where(labelled > 0, f1, 0.0)  # weight 0: an absent class adds nothing
        in_macro_f1 = self.is_labelled | self.is_predicted
        # no image carries the label, so F1 is 0 wherever it is defined, and 0 in every draw
        f1[:, self.is_predicted & ~self.is_labelled] = 0.0
        by_chance = (labelled * predicted).sum(axis=1)
        agreed = n_images * right.sum(axis=1)
        mixed = n_images**2 - (labelled**2).sum(axis=1)  # 0 where one class holds all labels
        spread = mixed * (n_images**2 - (predicted**2).sum(axis=1))
        return {
            "balanced_accuracy": _mean_over(ratio(right, labelled), self.is_labelled),
            "macro_f1": _mean_over(f1, in_macro_f1),
            "weighted_f1": ratio((labelled * f1_of_labelled).sum(axis=1), n_images),
            "mcc": ratio(agreed - by_chance, np.sqrt(spread)),
            "cohen_kappa": ratio(agreed - by_chance, np.where(mixed > 0, n_images**2 - by_chance, 0.0)),
        }


def class_rates(counts: Floats) -> dict[str, Floats]:
    """Rates of each class against the rest, from confusion matrices (B, K, K); each is (B, K).

    `sensitivity`, `specificity`, `ppv`, `npv`, `f1`, `labelled_share` and `predicted_share` (of all
    images), and `share_ratio`, predicted over labelled: above 1 the model says the class too often.
    """
    labelled, predicted, right = counts.sum(axis=2), counts.sum(axis=1), _diagonal(counts)
    n_images = labelled.sum(axis=1, keepdims=True)
    neither = n_images - labelled - predicted + right
    return {
        "sensitivity": ratio(right, labelled),
        "specificity": ratio(neither, n_images - labelled),
        "ppv": ratio(right, predicted),
        "npv": ratio(neither, n_images - predicted),
        "f1": ratio(2 * right, labelled + predicted),
        "labelled_share": ratio(labelled, n_images),
        "predicted_share": ratio(predicted, n_images),
        "share_ratio": ratio(predicted, labelled),
    }


def balanced_accuracy(labels: Labels, pred_probs: Probs, *, weights: Weights | None = None) -> float:
    """Mean sensitivity over the labelled classes, in [0, 1]; 1 is best.

    Arguments and errors as `top_k_accuracy`; scikit-learn's `balanced_accuracy_score`. NaN when there
    are no images.
    """
    return _from_confusion("balanced_accuracy", labels, pred_probs, weights)


def balanced_accuracy_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> Floats:
    return _from_confusion_draws("balanced_accuracy", labels, pred_probs, weights)


def macro_f1(labels: Labels, pred_probs: Probs, *, weights: Weights | None = None) -> float:
    """Mean F1 over the classes that are labelled or predicted, in [0, 1]; 1 is best.

    Arguments and errors as `top_k_accuracy`; scikit-learn's `f1_score(average="macro")`. A class that is
    predicted and never labelled counts as 0. NaN when there are no images.
    """
    return _from_confusion("macro_f1", labels, pred_probs, weights)


def macro_f1_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> Floats:
    return _from_confusion_draws("macro_f1", labels, pred_probs, weights)


def weighted_f1(labels: Labels, pred_probs: Probs, *, weights: Weights | None = None) -> float:
    """Mean F1 over the classes, each by its share of the labels, in [0, 1]; 1 is best.

    Arguments and errors as `top_k_accuracy`; scikit-learn's `f1_score(average="weighted")`.
    """
    return _from_confusion("weighted_f1", labels, pred_probs, weights)


def weighted_f1_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> Floats:
    return _from_confusion_draws("weighted_f1", labels, pred_probs, weights)


def mcc(labels: Labels, pred_probs: Probs, *, weights: Weights | None = None) -> float:
    """Matthews correlation of label and predicted class, in [-1, 1]; 1 is best, 0 is no better than chance.

    Arguments and errors as `top_k_accuracy`. NaN, where scikit-learn says 0, when one class holds all
    labels or all predictions: a correlation with a constant is not defined.

    References
    ----------
    Gorodkin (2004), Comparing two K-category assignments by a K-category correlation coefficient.
    """
    return _from_confusion("mcc", labels, pred_probs, weights)


def mcc_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> Floats:
    return _from_confusion_draws("mcc", labels, pred_probs, weights)


def cohen_kappa(labels: Labels, pred_probs: Probs, *, weights: Weights | None = None) -> float:
    """Cohen's kappa of label and predicted class, at most 1; 1 is best, 0 is agreement by chance.

    Arguments and errors as `top_k_accuracy`. NaN when one class holds all labels: it would be 0 whatever
    the model answers.
    """
    return _from_confusion("cohen_kappa", labels, pred_probs, weights)


def cohen_kappa_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> Floats:
    return _from_confusion_draws("cohen_kappa", labels, pred_probs, weights)


def auroc_macro(labels: Labels, pred_probs: Probs, *, weights: Weights | None = None) -> float:
    """Mean one-against-the-rest AUROC of the labelled classes, in [0, 1]; 1 is best, 0.5 is chance.

    Arguments and errors as `top_k_accuracy`. Tied scores count half. Classes without images (or with
    all of them) have no AUROC and are left out; NaN when that leaves none.
    """
    labels, pred_probs, weights = checked(labels, pred_probs, weights)
    return float(auroc_macro_draws(labels, pred_probs, weights)[0])


def auroc_macro_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> Floats:
    return _areas_draws(labels, pred_probs, weights)["auroc_macro"]


def auroc_weighted(labels: Labels, pred_probs: Probs, *, weights: Weights | None = None) -> float:
    """Mean one-against-the-rest AUROC, each class by its share of the labels; otherwise as `auroc_macro`."""
    labels, pred_probs, weights = checked(labels, pred_probs, weights)
    return float(auroc_weighted_draws(labels, pred_probs, weights)[0])


def auroc_weighted_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> Floats:
    return _areas_draws(labels, pred_probs, weights)["auroc_weighted"]


def average_precision_macro(labels: Labels, pred_probs: Probs, *, weights: Weights | None = None) -> float:
    """Mean average precision of the labelled classes, in [0, 1]; 1 is best, a class's share is chance.

    Arguments and errors as `top_k_accuracy`. Average precision is the sum of the precision at each
    threshold times the recall gained there (no interpolation); tied images pass a threshold together.
    NaN when there are no images.
    """
    labels, pred_probs, weights = checked(labels, pred_probs, weights)
    return float(average_precision_macro_draws(labels, pred_probs, weights)[0])


def average_precision_macro_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> Floats:
    return _areas_draws(labels, pred_probs, weights)["average_precision_macro"]


def area_summaries(
    rankings: Rankings, auroc: Floats, average_precision: Floats, n_of: Weights
) -> dict[str, Floats]:
    """Means over classes of areas (B, K); `n_of` (B, K) is the weight of each class's images."""
    weighted = np.where(n_of > 0, auroc, 0.0) * n_of  # weight 0: an absent class adds nothing
    return {
        "auroc_macro": _mean_over(auroc, rankings.is_labelled),
        "auroc_weighted": ratio(weighted.sum(axis=1), n_of.sum(axis=1)),
        "average_precision_macro": _mean_over(average_precision, rankings.is_labelled),
    }


def _areas_draws(labels: Labels, pred_probs: Probs, weights: Weights) -> dict[str, Floats]:
    rankings = Rankings.of(labels, pred_probs)
    n_of = cell_sums(cells(labels, pred_probs.shape[1]), weights).T
    return area_summaries(rankings, *rankings.areas(weights), n_of)


def _from_confusion(name: str, labels: Labels, pred_probs: Probs, weights: Weights | None) -> float:
    labels, pred_probs, weights = checked(labels, pred_probs, weights)
    return float(_from_confusion_draws(name, labels, pred_probs, weights)[0])


def _from_confusion_draws(name: str, labels: Labels, pred_probs: Probs, weights: Weights) -> Floats:
    table = Confusion.of(labels, pred_probs)
    return table.summaries(table.counts(weights))[name]


def _mean_over(values: Floats, is_used: npt.NDArray[np.bool_]) -> Floats:
    """Mean of (B, K) over the classes used, (B,); NaN where one of them is, or where there is none."""
    if not is_used.any():
        return np.full(len(values), np.nan)
    means: Floats = values[:, is_used].mean(axis=1)
    return means


def _diagonal(counts: Floats) -> Floats:
    return np.diagonal(counts, axis1=1, axis2=2)
