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


def consensus_error(
    differ: npt.ArrayLike, *, third: npt.ArrayLike | None = None, weights: npt.ArrayLike | None = None
) -> ReaderError:
    """Error of the consensus from how often two blind readers differ; NaN fields where it cannot be told.

    That is without a double reading, and where readers differ more often than equally good ones can
    (1 / (1 + c), by two standard errors): one of them disagrees with all others, and nothing here says which.

    Readers are taken as independent and equally good. With error e and coincidence c two readers differ
    in d = 2 e - (1 + c) e^2 of cases. An answer both gave is wrong in c e^2 / (1 - d) of them, that of a
    third reader in e: where one of the two could not tell, the third stands alone too, though none differed.
    A reader who is wrong more often than 1 / (1 + c) cannot be told from a better one.

    Parameters
    ----------
    differ : float array of shape (n,)
        1 where the two blind readers of a case name different classes, 0 where the same, NaN where not two
        of them named any.
    third : float array of shape (n,), optional
        1 where the class that stands is a third reader's alone, 0 where both gave it, NaN where none stands;
        `differ` where None, as among readers who always name a class.
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
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    share, share_se = _share(values, weight)
    if share - 2 * share_se > 1 / (1 + COINCIDENCE):
        nan = float("nan")
        return ReaderError(nan, nan, nan, nan, share, n_pairs)
    alone, alone_se = _share(values if third is None else np.asarray(third, dtype=np.float64), weight)

    reader, miss = _errors(share, alone, COINCIDENCE)
    slope = (_errors(share + 1e-4, alone, COINCIDENCE)[1] - miss) / 1e-4
    slope_alone = (_errors(share, alone + 1e-4, COINCIDENCE)[1] - miss) / 1e-4
    doubt = abs(_errors(share, alone, 1.0)[1] - _errors(share, alone, 0.0)[1]) / np.sqrt(12)  # if uniform
    return ReaderError(
        reader=reader,
        miss=miss,
        false_hit=miss * COINCIDENCE,
        miss_se=float(np.hypot(slope * share_se + slope_alone * alone_se, doubt)),
        disagreement=share,
        n_pairs=n_pairs,
    )


def _share(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Weighted mean of values from 0 to 1 that are not NaN, and its standard error; 0 without any."""
    held = ~np.isnan(values)
    if not held.any():
        return 0.0, 0.0
    weight = weights[held] / weights[held].sum()
    share = float(weight @ values[held])
    smoothed = (share * held.sum() + 0.5) / (held.sum() + 1)  # no difference seen is not no difference
    return share, float(np.sqrt(smoothed * (1 - smoothed) * (weight**2).sum()))


def _errors(differ: float, alone: float, coincidence: float) -> tuple[float, float]:
    """Error of a reader and of the consensus that make two readers differ in a share of cases.

    `alone` is the share of the consensus that one reading stands for.
    """
    root = max(1.0 - (1.0 + coincidence) * differ, 0.0)
    reader = (1.0 - np.sqrt(root)) / (1.0 + coincidence)
    both = coincidence * reader**2 / max(1.0 - differ, 1e-12)
    return float(reader), float(min((1.0 - alone) * min(both, 1.0) + alone * reader, 1.0))
