"""A linear head on stored embeddings, fitted again with fewer cases and with fewer of the vetted labels.

A fit is sums over images and one system of equations: images are added at the cost of their own sums, so a
hundred fits take seconds. Which run they come from, and what the answers are worth, is `ddeval.train.lever`;
the head that a system is deployed with is trained by `ddeval.train.loop`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ddeval.metrics.arrays import Floats

SHARES = {"data": (0.1, 0.2, 0.4, 0.6, 0.8, 1.0), "labels": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)}
"""Of the training cases, and of the vetted ones whose verdict is known to the fit."""


class Head(NamedTuple):
    """Scores are features @ weights + offsets."""

    weights: Floats
    """(D, K)"""
    offsets: Floats
    """(K,); -inf for a class without images."""


class Sums(NamedTuple):
    """All that the fit needs of some images."""

    classes: Floats
    """(K,) weight of each class."""
    first: Floats
    """(K, D) sum of the features of each class."""
    second: Floats
    """(D, D) sum of outer products."""


class Training(NamedTuple):
    """The training images, N of them."""

    features: Floats
    """(N, D), centred: sums of squares keep their digits."""
    case: npt.NDArray[np.intp]
    """(N,) number of each image's case, from 0."""
    given: Floats
    """(N, K) class weights as the data have them."""
    vetted: Floats
    """As vetted where they were; zeros where a reader took the image out."""


HitsOf = Callable[[Head], Floats]
"""Whether a head answers each judged image rightly, (M,)."""


def sums(features: Floats, targets: Floats) -> Sums:
    """Of features (N, D) with class weights (N, K); rows of zeros count for nothing."""
    counted = features * targets.sum(axis=1, keepdims=True)
    return Sums(targets.sum(axis=0), targets.T @ features, counted.T @ features)


def fit(total: Sums) -> Head:
    """Linear discriminant analysis.

    The covariance within classes is mixed with its own scale times the identity, the more so the fewer
    images N there are for its D dimensions: D / (N + D).
    """
    n, d = float(total.classes.sum()), len(total.second)
    held = total.classes > 1e-9  # what was taken away again leaves rounding
    means = total.first[held] / total.classes[held, None]
    within = (total.second - (means * total.classes[held, None]).T @ means) / n
    mixed = d / (n + d)
    scale = max(float(np.trace(within)) / d, np.finfo(float).tiny)
    within = (1 - mixed) * within + mixed * scale * np.eye(d)
    solved = np.linalg.solve(within, means.T)
    weights, offsets = np.zeros((d, len(held))), np.full(len(held), -np.inf)
    weights[:, held] = solved
    offsets[held] = np.log(total.classes[held] / n) - 0.5 * (means.T * solved).sum(axis=0)
    return Head(weights, offsets)


def more_cases(data: Training, hits_of: HitsOf, *, n_draws: int, rng: np.random.Generator) -> Floats:
    """Share of the draws that answer each judged image rightly, a column a share of the cases (M, S).

    Cases come in random order, whole, with the best labels there are.
    """
    n_cases = int(data.case.max()) + 1

    def growing(order: npt.NDArray[np.intp]) -> Floats:
        total, done, columns = sums(data.features[:0], data.vetted[:0]), 0, []
        for share in SHARES["data"]:
            upto = max(1, round(share * n_cases))
            rows = np.isin(data.case, order[done:upto])
            more = sums(data.features[rows], data.vetted[rows])
            total = Sums(*(a + b for a, b in zip(total, more, strict=True)))
            columns.append(hits_of(fit(total)))
            done = upto
        return np.column_stack(columns)

    return np.asarray(np.mean([growing(rng.permutation(n_cases)) for _ in range(n_draws)], axis=0))


def cleaner_labels(
    data: Training, read: npt.NDArray[np.intp], hits_of: HitsOf, *, n_draws: int, rng: np.random.Generator
) -> Floats:
    """As `more_cases`, with every case and a share of the verdicts on the cases `read`, in random order."""

    known = sums(data.features, data.given)

    def cleaned(order: npt.NDArray[np.intp]) -> Floats:
        total, done, columns = known, 0, []
        for share in SHARES["labels"]:
            upto = round(share * len(order))
            rows = np.isin(data.case, order[done:upto])  # only what these verdicts change is summed again
            old, new = (sums(data.features[rows], targets[rows]) for targets in (data.given, data.vetted))
            total = Sums(*(a - b + c for a, b, c in zip(total, old, new, strict=True)))
            columns.append(hits_of(fit(total)))
            done = upto
        return np.column_stack(columns)

    return np.asarray(np.mean([cleaned(rng.permutation(read)) for _ in range(n_draws)], axis=0))
