"""Ranking: which given labels are most likely wrong, worst first?

`label_quality` is the geometric mean of two opinions on the given label: the model's own probability of
it, and that probability after a recalibration that is fitted without the confident disagreements, so that it
learns how the model errs and not how the labels do. Nothing is cut off and nothing is changed here;
cleanlab's filters are in `ddeval.audit.confident`. What was tried and lost is in docs/log.md.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize

from ddeval.audit.neighbours import neighbour_probs, neighbours
from ddeval.metrics.arrays import PROB_FLOOR, Floats, Labels, Probs, check_labels_and_probs, softmax

N_FOLDS = 5
CONTRADICTED = 5.0
"""A label that another class is this many times likelier than is left out of the fit. With 3 or 10 the
ranking is as good on average; with no such rule the fit learns the label noise and hides it."""
RIDGE = 5.0
"""Pull of the recalibration towards no change, in images."""
MIN_ROWS = 100
"""Fewer rows than this carry no recalibration."""
MAX_FIT_ROWS = 25_000
"""More rows than this do not change a map of K x K numbers; they only cost time."""
_LOG_FLOOR = 1e-6
_ZERO = 1e-30
"""A probability of 0 counts as this, so that the other opinion still orders such rows."""
_BLOCK = 100_000


def label_quality(
    labels: npt.ArrayLike,
    pred_probs: npt.ArrayLike | Sequence[npt.ArrayLike],
    *,
    features: npt.ArrayLike | None = None,
) -> Floats:
    """How well each given label fits, from 0 (suspicious) to 1; rank by it, never cut at a value.

    The geometric mean of the model's probability of the given label and of its recalibrated probability
    (`recalibrated`): either can make a label suspicious. Several checkpoints are averaged with weights 1 /
    log loss squared, so that a poor one cannot spoil a good one. With `features` the share of the given
    label among the nearest images joins as a further opinion. The probabilities must not come from a model
    that was trained on these labels (use `ddeval.audit.out_of_fold`). Neither the order of rows nor the
    names of classes matter. No images give an empty array.

    Parameters
    ----------
    labels : int array of shape (N,)
        Given class of each image, 0 to K-1.
    pred_probs : float array of shape (N, K), or a list of them
        Predicted probabilities, rows summing to 1; one array a checkpoint.
    features : float array of shape (N, D), optional
        Embeddings of the images; a row with NaN has no neighbours and is judged without them.

    Raises
    ------
    ValueError
        If shapes disagree, a label is outside 0 to K-1, or a row is not finite or does not sum to 1.

    References
    ----------
    Northcutt et al. (2021), Confident Learning, JAIR 70 (self-confidence); Kull et al. (2019),
    arXiv:1910.12656 (matrix scaling). The fit without contradicted labels is our own.

    Examples
    --------
    >>> probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> label_quality(np.array([0, 0, 0]), probs).tolist()  # too few rows to recalibrate
    [0.9, 0.2, 0.6]
    """
    members = _members(pred_probs)
    checked = [check_labels_and_probs(np.asarray(labels), member) for member in members]
    given = checked[0][0]
    probs = [member for _, member in checked]
    if len({member.shape for member in probs}) > 1:
        raise ValueError(f"checkpoints must agree in shape, got {[member.shape for member in probs]}")
    if len(given) == 0:
        return np.empty(0)
    mean = pooled(given, probs)
    opinions = list(probs) if len(probs) > 1 else []
    if features is not None:
        near = neighbours(features)
        if len(near.rows) != len(given):
            raise ValueError(
                f"features must have a row for each of {len(given)} labels, got {len(near.rows)}"
            )
        opinions.append(neighbour_probs(given, near, n_classes=mean.shape[1]))
    return both(own(mean, given), own(recalibrated(given, mean, opinions=opinions), given))


def both(confidence: Floats, recalibrated_confidence: Floats) -> Floats:
    """Geometric mean of two probabilities of the given label, (N,), 0 to 1.

    The arithmetic mean hides a small probability behind a large one and ranked worse on most noise tried.
    """
    quality: Floats = np.sqrt(np.maximum(confidence, _ZERO) * np.maximum(recalibrated_confidence, _ZERO))
    return np.minimum(quality, 1.0)  # float32 rows may sum to a little more than 1


def pooled(labels: Labels, members: Sequence[Probs]) -> Probs:
    """Mean of several checkpoints' probabilities, weighted by `member_weights`."""
    if len(members) == 1:
        return members[0]
    mean: Probs = sum(w * m for w, m in zip(member_weights(labels, members), members, strict=True))
    return mean


def member_weights(labels: Labels, members: Sequence[Probs]) -> Floats:
    """Share of each checkpoint in the ranking: 1 / log loss squared, summing to 1.

    Twice the loss counts a quarter. Weights that minimise the log loss of the mixture itself put nearly
    everything on one checkpoint and rank worse than the plain mean.
    """
    losses = np.array([log_loss(labels, member) for member in members])
    weights = 1.0 / (losses + 1e-3) ** 2
    shares: Floats = weights / weights.sum()
    return shares


def log_loss(labels: Labels, pred_probs: Probs) -> float:
    """Mean of -log p of the given label, with p clipped at 1e-15."""
    return float(-np.log(np.maximum(own(pred_probs, labels), PROB_FLOOR)).mean())


def own(pred_probs: Probs, labels: Labels) -> Floats:
    """Probability of each row's own label, (N,)."""
    chosen: Floats = pred_probs[np.arange(len(labels)), labels]
    return chosen


def recalibrated(labels: Labels, pred_probs: Probs, *, opinions: Sequence[Probs] = ()) -> Probs:
    """Probabilities of the true class: matrix scaling, cross-fitted, without contradicted labels.

    logits = W log p + sum of V log o over further opinions + b, with W pulled towards 1, V and b towards 0,
    and further opinions are heard only where they lower the out-of-fold log loss; each of five folds is
    judged by the fit to the others. Folds follow the rank of the probability of the given label, so neither
    row order nor a seed matters. A label contradicted by a factor of `CONTRADICTED` does not take part in
    the fit. A class that is never given keeps its probability. Returns `pred_probs` where there are too few
    rows, or where the fit does not lower the out-of-fold log loss.
    """
    n_rows, n_classes = pred_probs.shape
    given = np.bincount(labels, minlength=n_classes) > 0
    if n_rows < MIN_ROWS or given.sum() < 2:
        return pred_probs
    mass = pred_probs[:, given].sum(axis=1)
    known = _shares(pred_probs[:, given])
    code = (np.cumsum(given) - 1)[labels]

    chance = own(known, code)
    is_kept = known.max(axis=1) <= CONTRADICTED * chance
    place = np.empty(n_rows, dtype=np.int64)
    place[np.lexsort((known.max(axis=1), chance))] = np.arange(n_rows)
    fold = place % N_FOLDS
    sources = [known, *(_shares(opinion[:, given]) for opinion in opinions)]
    step = max(1, n_rows // MAX_FIT_ROWS)
    in_fit = is_kept & ((place // N_FOLDS) % step == 0)
    fitted = np.empty_like(known)
    for k in range(N_FOLDS):
        train, judge = in_fit & (fold != k), np.flatnonzero(fold == k)
        if not train.any():
            return pred_probs
        matrix, bias = _fit(_inputs(sources, train), code[train], known.shape[1])
        for start in range(0, len(judge), _BLOCK):
            rows = judge[start : start + _BLOCK]
            fitted[rows] = softmax(_inputs(sources, rows) @ matrix + bias)
    if not log_loss(code[is_kept], fitted[is_kept]) < log_loss(code[is_kept], known[is_kept]):
        return pred_probs
    result = pred_probs.copy()
    result[:, given] = fitted * mass[:, None]
    if opinions:  # K x K weights more can cost a small split what the opinion gives
        alone = recalibrated(labels, pred_probs)
        shares = _shares(alone[:, given])
        if log_loss(code[is_kept], shares[is_kept]) <= log_loss(code[is_kept], fitted[is_kept]):
            return alone
    return result


def _fit(logs: Floats, labels: Labels, n_classes: int) -> tuple[Floats, Floats]:
    """Matrix and bias that minimise the log loss plus a ridge towards "as the first source says"."""
    n_rows, n_inputs = logs.shape
    start = np.eye(n_inputs, n_classes)
    ridge = RIDGE / n_rows
    rows = np.arange(n_rows)

    def loss(values: Floats) -> tuple[float, Floats]:
        matrix, bias = values[:-n_classes].reshape(start.shape), values[-n_classes:]
        probs = softmax(logs @ matrix + bias)
        apart = matrix - start
        total = -np.log(np.maximum(probs[rows, labels], PROB_FLOOR)).mean()
        total += ridge * ((apart**2).sum() + (bias**2).sum())
        probs[rows, labels] -= 1.0
        probs /= n_rows
        slope = np.concatenate(
            [(logs.T @ probs + 2 * ridge * apart).ravel(), probs.sum(0) + 2 * ridge * bias]
        )
        return float(total), slope

    first = np.concatenate([start.ravel(), np.zeros(n_classes)])
    found = optimize.minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 100})
    return found.x[:-n_classes].reshape(start.shape), found.x[-n_classes:]


def _inputs(sources: Sequence[Probs], rows: npt.NDArray[Any]) -> Floats:
    """Log probabilities of all sources about their row means; the floor keeps a rounded 0 from ruling."""
    logs = [np.log(np.maximum(source[rows], _LOG_FLOOR)) for source in sources]
    return np.hstack([log - log.mean(axis=1, keepdims=True) for log in logs])


def _shares(probs: Probs) -> Probs:
    """Rows scaled to sum to 1; a row without any mass, or with NaN, says nothing and becomes even."""
    total = probs.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Probs = np.where(total > 0, probs / total, 1.0 / probs.shape[1])
    return shares


def _members(pred_probs: npt.ArrayLike | Sequence[npt.ArrayLike]) -> list[Probs]:
    """One array a checkpoint; a list of rows is one checkpoint, a list of matrices several."""
    if isinstance(pred_probs, list | tuple) and len(pred_probs) and np.ndim(pred_probs[0]) == 2:
        return [np.asarray(member, dtype=np.float64) for member in pred_probs]
    stacked = np.asarray(pred_probs, dtype=np.float64)
    return list(stacked) if stacked.ndim == 3 else [stacked]
