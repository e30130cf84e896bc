"""Out of fold: probabilities for images a model was not trained on, as an audit of training data needs.

In-sample probabilities hide errors: a network that has seen a wrong label believes it. This module cuts
the folds, keeps groups whole and puts the answers together; what is fitted is the caller's, a head on
stored embeddings (`fit_head`, seconds) or a whole training run.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.metrics.arrays import ROW_SUM_TOLERANCE, Labels, Probs, softmax

Rows = npt.NDArray[np.intp]
FitPredict = Callable[[Rows, Rows], npt.ArrayLike]
"""Takes rows to train on and rows to judge; returns probabilities (judged rows, K)."""


def out_of_fold(
    fit_predict: FitPredict,
    labels: npt.ArrayLike,
    *,
    n_folds: int = 5,
    groups: npt.ArrayLike | None = None,
    n_classes: int | None = None,
    rng: np.random.Generator,
) -> Probs:
    """Probabilities (N, K) of every image from a fit that saw neither it nor its group.

    A class that the other folds hold no image of cannot be predicted: its column is 0 there, and where a
    fold is left with one class or none to train on, its rows are NaN, as are those `fit_predict` says NaN of.

    Parameters
    ----------
    fit_predict : callable
        `fit_predict(train_rows, judged_rows)` returns float (len(judged_rows), K).
    labels : int array of shape (N,)
        Given classes, 0 to K-1; they spread each class over the folds.
    n_folds : int
        From 2 to the number of groups.
    groups : array of shape (N,), optional
        Patient of each image; a group is never cut. None is each image on its own.
    n_classes : int, optional
        K; the largest label + 1 where not given.

    Raises
    ------
    ValueError
        If n_folds does not fit, or `fit_predict` returns another shape or rows that do not sum to 1.

    Examples
    --------
    >>> labels = np.array([0, 1] * 10)
    >>> def share_of_train(train, judged):
    ...     return np.tile(np.bincount(labels[train], minlength=2) / len(train), (len(judged), 1))
    >>> out_of_fold(share_of_train, labels, rng=np.random.default_rng(0))[0].tolist()
    [0.5, 0.5]
    """
    label_of = np.asarray(labels, dtype=np.int64)
    n_classes = n_classes or (int(label_of.max()) + 1 if len(label_of) else 0)
    fold = fold_of(label_of, n_folds=n_folds, groups=groups, rng=rng)
    probs = np.full((len(label_of), n_classes), np.nan)
    for k in range(n_folds):
        train, judged = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        if len(np.unique(label_of[train])) < 2:
            continue
        answer = np.asarray(fit_predict(train, judged), dtype=np.float64)
        if answer.shape != (len(judged), n_classes):
            raise ValueError(
                f"fit_predict must return shape {(len(judged), n_classes)}, got {answer.shape} in fold {k}"
            )
        unjudged = np.isnan(answer).all(axis=1)
        if not (unjudged | (np.abs(answer.sum(axis=1) - 1) <= ROW_SUM_TOLERANCE)).all():
            raise ValueError(f"fit_predict must return rows that sum to 1; fold {k} does not")
        probs[judged] = answer
    return probs


def fold_of(
    labels: Labels, *, n_folds: int, groups: npt.ArrayLike | None = None, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Fold of each image: groups whole, each fold near its share of every class.

    The largest groups are dealt first, each to the fold that then has least of its classes.
    """
    label_of = np.asarray(labels)
    names = np.arange(len(label_of)) if groups is None else np.asarray(groups)
    if names.shape != label_of.shape:
        raise ValueError(f"groups must have shape {label_of.shape}, got {names.shape}")
    group, labels_of_groups = pd.factorize(names)
    n_groups = len(labels_of_groups)
    if not 2 <= n_folds <= n_groups:
        raise ValueError(f"n_folds must lie between 2 and the number of groups ({n_groups}), got {n_folds}")
    n_classes = int(label_of.max()) + 1
    counts = np.zeros((n_groups, n_classes))
    np.add.at(counts, (group, label_of), 1.0)
    counts /= np.bincount(label_of, minlength=n_classes).clip(
        1
    )  # a rare class weighs as much as a common one
    order = rng.permutation(n_groups)
    if groups is None:  # images alone: deal each class round the folds, no search needed
        order = order[np.argsort(label_of[order], kind="stable")]
        fold = np.empty(n_groups, dtype=np.int64)
        fold[order] = (np.arange(n_groups) + rng.integers(n_folds)) % n_folds
        return fold
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    held = np.zeros((n_folds, n_classes))
    n_held = np.zeros(n_folds)
    fold_of_group = np.empty(n_groups, dtype=np.int64)
    for g in order:
        load = (held * counts[g]).sum(axis=1) / max(counts[g].sum(), 1e-12)
        k = int(np.lexsort((n_held, load.round(12)))[0])
        held[k] += counts[g]
        n_held[k] += 1
        fold_of_group[g] = k
    return fold_of_group[group]


def head_fitter(embeddings: npt.ArrayLike, labels: npt.ArrayLike, *, n_classes: int) -> FitPredict:
    """A `fit_predict` for `out_of_fold`: multinomial logistic regression on stored embeddings.

    Columns are standardised on the training rows; the strength of the ridge is fixed, since it is the
    ranking that counts and recalibration follows (`ddeval.audit.label_quality`). A row that is not finite
    is left out of the fit and judged NaN; so are all where the others hold one class alone.
    """
    features = np.asarray(embeddings, dtype=np.float32)
    label_of = np.asarray(labels, dtype=np.int64)
    is_usable = np.asarray(np.isfinite(features).all(axis=1))

    def fit_predict(train: Rows, judged: Rows) -> Probs:
        from sklearn.linear_model import LogisticRegression

        probs = np.full((len(judged), n_classes), np.nan)
        train, known = train[is_usable[train]], is_usable[judged]
        if len(np.unique(label_of[train])) < 2 or not known.any():
            return probs
        centre, scale = features[train].mean(axis=0), features[train].std(axis=0)
        scale = np.where(scale > 0, scale, 1.0) * np.sqrt(features.shape[1])
        model = LogisticRegression(C=10.0, max_iter=200)
        model.fit((features[train] - centre) / scale, label_of[train])
        scores: Any = model.decision_function((features[judged[known]] - centre) / scale)
        if scores.ndim == 1:  # two classes
            scores = np.column_stack([np.zeros_like(scores), scores])
        answer = np.zeros((len(scores), n_classes))
        answer[:, model.classes_] = softmax(scores)
        probs[known] = answer
        return probs

    return fit_predict
