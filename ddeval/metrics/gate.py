"""The gate: criteria written before a run, each answered from its interval: pass, fail or cannot tell.

An interval that touches the bound settles nothing. This module knows numbers only; `ddeval compare` reads
the gate file and the ledger keeps its hash and the time of the first look.
"""

import math
from collections.abc import Iterable
from typing import Literal

Kind = Literal["at_least", "at_most", "not_worse", "better"]
Answer = Literal["pass", "fail", "cannot tell"]

KINDS: tuple[Kind, ...] = ("at_least", "at_most", "not_worse", "better")


def judged(
    kind: Kind, bound: float, *, ci_low: float, ci_high: float, lower_is_better: bool = False
) -> Answer:
    """The answer to one criterion.

    Parameters
    ----------
    kind : {"at_least", "at_most", "not_worse", "better"}
        `at_least` and `at_most` ask for the number itself. `not_worse` asks that the paired difference to
        the baseline is no loss larger than `bound` (non-inferiority), `better` that it is a gain larger
        than `bound`; a loss is a rise where `lower_is_better`.
    bound : float
        In the unit of the number; a margin is positive.
    ci_low, ci_high : float
        Interval of the number, or of the difference. NaN at either end cannot tell.

    Raises
    ------
    ValueError
        For an unknown kind or a negative margin.

    Examples
    --------
    >>> judged("at_least", 0.70, ci_low=0.72, ci_high=0.75)
    'pass'
    >>> judged("not_worse", 0.01, ci_low=-0.02, ci_high=0.01)
    'cannot tell'
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind in ("not_worse", "better") and bound < 0:
        raise ValueError(f"a margin is not negative, got {bound}")
    if math.isnan(ci_low) or math.isnan(ci_high):
        return "cannot tell"
    if kind in ("not_worse", "better") and lower_is_better:
        ci_low, ci_high = -ci_high, -ci_low
    if kind == "at_most":
        ci_low, ci_high, bound = -ci_high, -ci_low, -bound
    if kind == "not_worse":
        bound = -bound
    if ci_low >= bound:
        return "pass"
    return "fail" if ci_high < bound else "cannot tell"


def overall(answers: Iterable[Answer]) -> Answer:
    """Fail if any criterion fails, else cannot tell if any cannot, else pass; no criterion cannot tell."""
    given = list(answers)
    if "fail" in given:
        return "fail"
    return "pass" if given and all(answer == "pass" for answer in given) else "cannot tell"
