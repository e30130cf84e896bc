"""Plan: what does an evening of vetting buy, said before the first verdict?

Cases finished, hours, the width of the interval to expect, errors to be found, and for which classes the
evening is too short. Everything rests on assumptions that are arguments; the first batch replaces them.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from ddeval.audit.queue import Mix, make_queue
from ddeval.audit.strata import spread
from ddeval.tables import LOCKED, RANKED

DISAGREEMENT = 0.30
"""Share of cases on which two readers differ, until it is measured: 28 % of pairs did in DermX."""
MINUTES_PER_READING = 1.0
HOPELESS_WIDTH = 0.40
"""A class whose interval would be wider than this, or rest on fewer than ten cases, learns nothing."""


class Effort(NamedTuple):
    """How an evening's readings are spent."""

    n_readings: int
    n_queue: int
    """Cases and hidden repeats handed out."""
    n_finished: int
    """Cases with a consensus."""
    n_repeats: int
    n_adjudications: int
    hours_per_reader: float


def effort(
    *,
    readers: int,
    cases: int,
    reads: int = 2,
    repeats: float = 0.05,
    disagreement: float = DISAGREEMENT,
    minutes: float = MINUTES_PER_READING,
) -> Effort:
    """Cases that `readers` finish when each reads `cases` cases: `reads` blind readings, then adjudication.

    A finished case costs `reads` readings, one more where two differ, and its share of hidden repeats.

    Raises
    ------
    ValueError
        If a case asks for more readings than there are readers, or a share is outside 0 to 1.

    Examples
    --------
    >>> effort(readers=4, cases=120, reads=2).n_finished  # 480 / (2 + 0.3 + 0.05 / 0.95)
    204
    """
    needed = reads + (1 if disagreement > 0 and reads > 1 else 0)
    if not reads >= 1 or needed > readers:
        raise ValueError(
            f"{reads} readings and an adjudication need {needed} readers, there are {readers}"
            if reads >= 1
            else f"reads must be at least 1, got {reads}"
        )
    if not (0 <= repeats < 1 and 0 <= disagreement <= 1):
        raise ValueError(f"repeats and disagreement are shares, got {repeats} and {disagreement}")
    n_readings = readers * cases
    adjudications = disagreement if reads > 1 else 0.0
    per_case = reads + adjudications + repeats / (1 - repeats)
    n_finished = int(n_readings / per_case)
    n_repeats = round(n_finished * repeats / (1 - repeats))
    return Effort(
        n_readings=n_readings,
        n_queue=n_finished + n_repeats,
        n_finished=n_finished,
        n_repeats=n_repeats,
        n_adjudications=round(n_finished * adjudications),
        hours_per_reader=cases * minutes / 60,
    )


def expected_width(table: pd.DataFrame, frame: pd.DataFrame, *, per_image: bool) -> float:
    """Width of the 95 % interval on accuracy that the queue's design would give, from the model's own doubt.

    `table` is `case_table`'s, `frame` the queue's. Per image a case's photographs are taken to be right or
    wrong together. Reader error is not in it.
    """
    right = table["expected_correct"].to_numpy()
    size = table["n_images"].to_numpy(dtype=np.float64) if per_image else np.ones(len(table))
    size = size / size.sum()
    drawn = frame["inclusion_probability"].to_numpy()
    value = float(size @ right)  # a ratio: what counts is how far a case is from the whole's accuracy
    variance = 0.0
    for _, rows in frame.groupby("stratum").indices.items():
        inside = size[rows] * spread(right[rows])
        between = np.var(size[rows] * (right[rows] - value))
        per_row = float((inside**2).mean() + between)
        n = max(drawn[rows].sum(), 1e-9)
        variance += len(rows) ** 2 * per_row / n * (1 - min(n / len(rows), 1.0))
    return float(2 * stats.norm.ppf(0.975) * np.sqrt(variance))


def evening(
    table: pd.DataFrame,
    *,
    readers: int,
    cases: int,
    mix: Mix,
    rng: np.random.Generator,
    reads: int = 2,
    disagreement: float = DISAGREEMENT,
    minutes: float = MINUTES_PER_READING,
) -> dict[str, Any]:
    """What the evening buys on these cases: effort, interval widths, errors expected, and classes.

    Parameters
    ----------
    table : DataFrame
        From `ddeval.audit.queue.case_table`, with `given_label`.
    """
    spent = effort(
        readers=readers,
        cases=cases,
        reads=reads,
        repeats=mix.repeats,
        disagreement=disagreement,
        minutes=minutes,
    )
    queue = make_queue(table, n_cases=max(spent.n_queue, 1), mix=mix, rng=rng)
    frame = queue.frame
    is_ranked = (frame["stratum"] == RANKED).to_numpy()
    wrong = np.where(frame["stratum"] == LOCKED, 0.0, table["label_error"])  # histology's label stands unread
    drawn = frame["inclusion_probability"].to_numpy()
    return {
        **spent._asdict(),
        "n_cases_of_split": len(table),
        "n_ranked": int(is_ranked.sum()),
        "width_per_image": expected_width(table, frame, per_image=True),
        "width_per_case": expected_width(table, frame, per_image=False),
        "errors_expected": float((wrong * drawn).sum()),
        "errors_expected_ranked": float(wrong[is_ranked].sum()),
        "errors_expected_in_split": float(wrong.sum()),
        "assumed": {
            "disagreement": disagreement,
            "minutes_per_reading": minutes,
            "reads": reads,
            "repeats": mix.repeats,
        },
        "classes": class_widths(table, drawn).to_dict("records"),
    }


def class_widths(table: pd.DataFrame, drawn: npt.NDArray[np.float64]) -> pd.DataFrame:
    """Cases and Wilson width to expect by given class, most first; `verdict` is hopeless or measured."""
    rows = []
    for name, at in table.reset_index(drop=True).groupby("given_label", sort=True).indices.items():
        n = float(drawn[at].sum())
        share = float(np.average(table["expected_correct"].to_numpy()[at]))
        width = _wilson_width(share, n)
        hopeless = n < 10 or width > HOPELESS_WIDTH
        rows.append(
            {
                "class_name": str(name),
                "n_cases": len(at),
                "n_vetted": n,
                "width": width,
                "verdict": "hopeless" if hopeless else "measured",
            }
        )
    frame = pd.DataFrame(rows, columns=["class_name", "n_cases", "n_vetted", "width", "verdict"])
    return frame.sort_values(["n_vetted", "class_name"], ascending=[False, True], ignore_index=True)


def _wilson_width(share: float, n: float) -> float:
    if n <= 0:
        return 1.0
    z = float(stats.norm.ppf(0.975))
    return float(2 * z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)))
