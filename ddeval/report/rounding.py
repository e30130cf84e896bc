"""How a number is written: the one place that rounds.

Percent have one decimal, everything between them and a count has three, an interval stands in the unit
of its value, and what is undefined says so with its n. Nothing else in `ddeval.report` formats a number
that a person reads (coordinates inside a figure are not read).
"""

import math
import re
from typing import Literal

Unit = Literal[
    "percent", "points", "distance", "probability", "signed", "count", "p_value", "ratio", "per_1000",
    "million", "length", "ms",
]  # fmt: skip
"""How a value in the tables is meant.

percent: a share in 0..1, shown times 100. points: a difference of two shares, shown times 100 with its
sign. distance: the size of such a difference. probability: three decimals as it is. signed: the same
with its sign. count: whole, with commas. p_value: three decimals, never 0. ratio: two decimals.
per_1000: a number of cases in a thousand, one decimal. million: a count in millions, one decimal.
length: a mean number of things, two decimals. ms: milliseconds, one decimal.
"""

NBSP = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
SUFFIX = {
    "percent": f"{NBSP}%",
    "points": f"{NBSP}points",
    "distance": f"{NBSP}points",
    "ratio": f"{NBSP}×",
    "million": f"{NBSP}M",
    "ms": f"{NBSP}ms",
}
DECIMALS = {
    "count": 0,
    "percent": 1,
    "points": 1,
    "distance": 1,
    "ratio": 2,
    "per_1000": 1,
    "million": 1,
    "length": 2,
    "ms": 1,
}
"""Of what is shown; 3 where not named."""


def rounded(value: float, unit: Unit) -> str:
    """The digits of `value` without its unit; a finite value only.

    >>> rounded(0.7364, "percent"), rounded(-0.004, "points"), rounded(0.9674, "probability")
    ('73.6', '−0.4', '0.967')
    """
    if unit == "p_value" and 0 <= value < 0.0005:
        return "< 0.001"
    scale = {"percent": 100, "points": 100, "distance": 100, "million": 1e-6}.get(unit, 1)
    text = f"{abs(value) * scale:,.{DECIMALS.get(unit, 3)}f}"
    is_zero = not text.strip("0.")  # −0.04 points is 0.0: no sign before a zero
    sign = MINUS if value < 0 else "+" if unit in ("points", "signed") else ""
    return text if is_zero or unit == "distance" else sign + text


def shown_tick(value: float, unit: Unit) -> str:
    """A round value as the label of an axis: without the unit, which the title of the axis has.

    >>> shown_tick(0.2, "percent"), shown_tick(0.025, "percent")
    ('20', '2.5')
    """
    return rounded(value, unit).removesuffix("0").removesuffix(".")


def shown(value: float | None, unit: Unit, *, n: int | None = None) -> str:
    """A value with its unit; one that is undefined is n/a with its n.

    >>> shown(0.7364, "percent"), shown(float("nan"), "percent", n=0)
    ('73.6\\xa0%', 'n/a (n = 0)')
    """
    if is_undefined(value):
        return "n/a" if n is None else f"n/a (n = {rounded(n, 'count')})"
    assert value is not None
    return rounded(value, unit) + SUFFIX.get(unit, "")


def counted(n: float | None, things: str) -> str:
    """A count and what is counted, in the singular for 1; of a phrase, its first word.

    >>> counted(1204, "patients"), counted(1, "photographs of a target class")
    ('1,204 patients', '1 photograph of a target class')
    """
    noun, *rest = things.split(" ")
    return " ".join([shown(n, "count"), noun.removesuffix("s") if n == 1 else noun, *rest])


def shown_interval(ci_low: float | None, ci_high: float | None, unit: Unit) -> str:
    """An interval in the unit of its value, without repeating the unit; empty where there is none.

    >>> shown_interval(0.728, 0.744, "percent")
    '[72.8, 74.4]'
    """
    if is_undefined(ci_low) or is_undefined(ci_high):
        return ""
    assert ci_low is not None
    assert ci_high is not None
    return f"[{rounded(ci_low, unit)}, {rounded(ci_high, unit)}]"


def shown_with_interval(
    value: float | None, ci_low: float | None, ci_high: float | None, unit: Unit, *, n: int | None = None
) -> str:
    """The value and its interval, as a sentence wants them.

    >>> shown_with_interval(0.736, 0.728, 0.744, "percent")
    '73.6\\xa0% [72.8, 74.4]'
    """
    interval = shown_interval(ci_low, ci_high, unit)
    text = shown(value, unit, n=n)
    return text if is_undefined(value) or not interval else f"{text} {interval}"


def shown_range(ci_low: float, ci_high: float, unit: Unit) -> str:
    """An interval as words: both ends, the unit once; one number where both are written alike.

    >>> shown_range(0.728, 0.744, "percent")
    '72.8 to 74.4\\xa0%'
    """
    low = rounded(ci_low, unit)
    return shown(ci_high, unit) if low == rounded(ci_high, unit) else f"{low} to {shown(ci_high, unit)}"


def ranged(text: str) -> str:
    """Text with the hyphen of a range, of numbers or skin types, as an en dash.

    >>> ranged("age: 18-39"), ranged("V-VI, site-1-2")
    ('age: 18–39', 'V–VI, site-1-2')
    """
    return re.sub(r"(?<![\w-])([0-9]+|[IV]+)-([0-9]+|[IV]+)(?![\w-])", r"\1–\2", text)


def shown_time(text: str) -> str:
    """A moment to the minute, and in which zone; what is no moment stays as it is.

    >>> shown_time("2026-11-26T13:35:19+00:00"), shown_time("2026-06-30")
    ('2026-11-26 13:35 UTC', '2026-06-30')
    """
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)\S*(\+00:00|Z)", text)
    return f"{found[1]} {found[2]} UTC" if found else text


def is_undefined(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
