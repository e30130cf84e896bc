"""Reader error: how often is the vetted reference itself wrong, judged from blind double readings?

Two readers answer blind; where they differ a third reading stands. What one cannot see from agreement
(two readers wrong in the same way) is bounded by an assumption that is written down and widens the
interval. This module makes no consensus (`ddeval.vet.consensus`).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

COINCIDENCE = 0.5
"""Assumed chance that two wrong readings of one case are the same wrong answer. Between 0 and 1, and not to
be seen without a third reading of agreed cases; the standard error carries the doubt of a uniform guess."""


class ReaderError(NamedTuple):
    """Error of one reader, and of the consensus of two readers and an adjudicator."""

    reader: float
    """Chance that one blind reading is wrong."""
    miss: float
    """Chance that the consensus calls a right answer of the model wrong."""
    false_hit: float
    """Chance that it calls a wrong answer right: the consensus is wrong in the model's way."""
    miss_se: float
    """Standard error of `miss`: few double readings, and the unknown coincidence."""
    disagreement: float
    """Share of double-read cases on which the two readers differ."""
    n_pairs: int


def consensus_error(differ: npt.ArrayLike, *, weights: npt.ArrayLike | None = None) -> ReaderError:
    """Error of the consensus from how often two blind readers differ; NaN fields without a double reading.

    Readers are taken as independent and equally good. With error e and coincidence c two readers differ
    in d = 2 e - (1 + c) e^2 of cases; the consensus (the answer both gave, else the third reading) is
    wrong in c e^2 + d e. A reader who is wrong more often than 1 / (1 + c) cannot be told from a better one.

    Parameters
    ----------
    differ : float array of shape (n,)
        1 where the two blind readers of a case differ, 0 where they agree, NaN where not read twice.
    weights : float array of shape (n,), optional
        1 / inclusion probability, so that doubtful strata do not speak for the split.

    Examples
    --------
    >>> error = consensus_error([1] * 14 + [0] * 86)
    >>> round(error.disagreement, 2), round(error.reader, 3), round(error.miss, 3)
    (0.14, 0.074, 0.013)
    """
    values = np.asarray(differ, dtype=np.float64)
    is_pair = ~np.isnan(values)
    n_pairs = int(is_pair.sum())
    if n_pairs == 0:
        nan = float("nan")
        return ReaderError(nan, nan, nan, nan, nan, n_pairs=0)
    weight = np.ones(n_pairs) if weights is None else np.asarray(weights, dtype=np.float64)[is_pair]
    weight = weight / weight.sum()
    share = float(weight @ values[is_pair])
    smoothed = (share * n_pairs + 0.5) / (n_pairs + 1)  # no difference seen is not no difference
    share_se = float(np.sqrt(smoothed * (1 - smoothed) * (weight**2).sum()))

    reader, miss = _errors(share, COINCIDENCE)
    slope = (_errors(share + 1e-4, COINCIDENCE)[1] - miss) / 1e-4
    doubt = abs(_errors(share, 1.0)[1] - _errors(share, 0.0)[1]) / np.sqrt(12)  # of a uniform guess
    return ReaderError(
        reader=reader,
        miss=miss,
        false_hit=miss * COINCIDENCE,
        miss_se=float(np.hypot(slope * share_se, doubt)),
        disagreement=share,
        n_pairs=n_pairs,
    )


def _errors(differ: float, coincidence: float) -> tuple[float, float]:
    """Error of a reader and of the consensus that make two readers differ in a share of cases."""
    root = max(1.0 - (1.0 + coincidence) * differ, 0.0)
    reader = (1.0 - np.sqrt(root)) / (1.0 + coincidence)
    return float(reader), float(coincidence * reader**2 + differ * reader)
