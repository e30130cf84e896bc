"""Figures: each takes one table and draws what is in it, nothing more.

A figure is SVG in the page itself, laid out in percent of the space it is given, so that its text is text
of the page: it keeps its size on a phone, follows the colour scheme, can be read aloud, and the same table
always gives the same bytes. Colours are classes (`s1`, `s2`, …) of `templates/style.css`, a checkpoint's
class is the same in every figure of a page.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from markupsafe import Markup, escape

from ddeval.report.rounding import Unit, counted, is_undefined, shown, shown_tick

ROUND_STEPS = (0.004, 0.01, 0.02, 0.04, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Where an axis may end, below 1."""

MAX_STRIP = 8
"""Checkpoints for which a strip grows; more share its height."""
MAX_POINTS = 400
"""A line has no more points than this; more cannot be seen and only make the file large."""


class Axis(NamedTuple):
    """A scale and the places where it is labelled."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False

    @classmethod
    def over(cls, *ticks: float, unit: Unit, is_log: bool = False) -> "Axis":
        """From the first tick to the last, labelled without the unit: the title of the axis has it."""
        return cls(ticks[0], ticks[-1], tuple((tick, shown_tick(tick, unit)) for tick in ticks), is_log)

    @classmethod
    def around_zero(cls, values: Iterable[float], *, unit: Unit) -> "Axis":
        """Wide enough for `values` on both sides of 0, with five round ticks."""
        reach = max((abs(v) for v in values if not is_undefined(v)), default=0.0)
        end = next((step for step in ROUND_STEPS if reach <= step), max(1.0, reach))
        return cls.over(-end, -end / 2, 0.0, end / 2, end, unit=unit)

    def at(self, value: float) -> float:
        """Place of `value` in percent of the axis, kept inside it."""
        if value <= self.low or value >= self.high:
            return 0.0 if value <= self.low else 100.0
        if self.is_log:
            return 100.0 * math.log(value / self.low) / math.log(self.high / self.low)
        return 100.0 * (value - self.low) / (self.high - self.low)


PERCENT_AXIS = Axis.over(0.0, 0.2, 0.4, 0.6, 0.8, 1.0, unit="percent")
RATIO_AXIS = Axis.over(0.25, 0.5, 1.0, 2.0, 4.0, unit="ratio", is_log=True)


def tag(name: str, *children: Markup | str, **attributes: object) -> Markup:
    """One element; text and attribute values are escaped, `class_` and `stroke_width` lose their mark.

    >>> tag("text", "a < b", x="5%", class_="tick")
    Markup('<text x="5%" class="tick">a &lt; b</text>')
    """
    held = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    body = Markup("").join(escape(child) for child in children)
    return Markup(f"<{name}{held}>") + body + Markup(f"</{name}>") if body else Markup(f"<{name}{held}/>")


def joined(parts: Iterable[Markup]) -> Markup:
    """Drawings one below the other."""
    return Markup("").join(parts)


def pct(value: float) -> str:
    """A coordinate: percent with two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".") + "%"


def plot_axis(axis: Axis) -> Markup:
    """The labels of an axis that several `plot_interval` strips share."""
    labels = [
        tag("text", label, x=pct(axis.at(value)), y="14", class_=_anchor(axis.at(value)))
        for value, label in axis.ticks
    ]
    return tag("svg", *labels, class_="strip axis", aria_hidden="true")


def plot_interval(
    value: float,
    ci_low: float,
    ci_high: float,
    *,
    axis: Axis,
    series: int = 1,
    reference: float | None = None,
    margin: float | None = None,
) -> Markup:
    """One value as a dot on its interval; nothing but the grid where the value is undefined.

    Parameters
    ----------
    reference : float, optional
        Where a solid line stands: no difference, the value over all.
    margin : float, optional
        Where a dashed line stands: the largest loss that was allowed beforehand.
    """
    parts = [_vertical(axis.at(tick), "grid") for tick, _ in axis.ticks]
    if reference is not None:
        parts.append(_vertical(axis.at(reference), "reference"))
    if margin is not None:
        parts.append(_vertical(axis.at(margin), "margin"))
    if not is_undefined(value):
        parts += _mark(value, ci_low, ci_high, axis=axis, y="50%", series=series)
    return tag("svg", *parts, class_="strip", aria_hidden="true")


def plot_intervals(
    estimates: Sequence[tuple[float, float, float, int]], *, axis: Axis, reference: float | None = None
) -> Markup:
    """Several (value, ci_low, ci_high, series), one below the other in one strip, as `plot_interval` each."""
    parts = [_vertical(axis.at(tick), "grid") for tick, _ in axis.ticks]
    if reference is not None:
        parts.append(_vertical(axis.at(reference), "reference"))
    for i, (value, ci_low, ci_high, series) in enumerate(estimates):
        if not is_undefined(value):
            y = pct(100 * (i + 0.5) / len(estimates))
            parts += _mark(value, ci_low, ci_high, axis=axis, y=y, series=series)
    room = min(len(estimates), MAX_STRIP)
    return tag("svg", *parts, class_=f"strip m{room}", aria_hidden="true")


def plot_reliability(before: pd.DataFrame, after: pd.DataFrame | None = None, *, label: str) -> Markup:
    """Accuracy against confidence, bin by bin, above the number of images in each bin.

    Parameters
    ----------
    before, after : DataFrame
        Reliability tables (`low`, `high`, `n`, `confidence`, `accuracy`) of the model as it is and, where
        there is one, after temperature scaling. Empty bins are not drawn.
    label : str
        What a person who cannot see the drawing is told it is.
    """
    parts = _reliability_frame()
    for table, series, is_open in ((after, 2, True), (before, 1, False)):
        if table is None:
            continue
        filled = table[table["n"] > 0]
        points = _reliability_points(filled)
        parts.append(_line(points, f"line s{series}"))
        for (x, y), bin_ in zip(points, filled.to_dict("records"), strict=True):
            title = (
                f"{_bin_words(bin_)}, confidence {shown(bin_['confidence'], 'percent')}, "
                f"right {shown(bin_['accuracy'], 'percent')}"
            )
            mark = f"dot s{series}" + (" open" if is_open else "")
            parts.append(tag("circle", tag("title", title), cx=pct(x), cy=pct(y), r="4.5", class_=mark))
    plot = tag("svg", *parts, class_="plot", role="img", aria_label=label)
    return plot + _counts_under(before)


def plot_risk_coverage(
    curve: pd.DataFrame, marks: Iterable[tuple[float, float, str]], *, label: str
) -> Markup:
    """Share of wrong answers against the share of images answered, from the surest down.

    Parameters
    ----------
    curve : DataFrame
        `coverage` and `risk`, in rising coverage.
    marks : iterable of (coverage, risk, words)
        Working points to be named on the curve, in few letters.
    """
    known = curve[curve["risk"].notna()]
    drawn = thinned(known, MAX_POINTS)
    top = _round_up(float(known["risk"].max()) if len(known) else 1.0)
    risks = Axis.over(*(top * i / 4 for i in range(5)), unit="percent")
    parts = [*_frame(PERCENT_AXIS, risks, "answered, % of photographs", "wrong among the answered, %")]
    points = [
        (PERCENT_AXIS.at(c), 100 - risks.at(r)) for c, r in zip(drawn["coverage"], drawn["risk"], strict=True)
    ]
    parts.append(_line(points, "line s1"))
    for coverage, risk, words in marks:
        x, y = PERCENT_AXIS.at(coverage), 100 - risks.at(risk)
        parts.append(tag("line", x1=pct(x), x2=pct(x), y1=pct(y), y2="100%", class_="drop"))
        parts.append(tag("circle", cx=pct(x), cy=pct(y), r="5", class_="dot s1"))
        parts.append(tag("text", words, x=pct(x), y=pct(y), dx="-9", dy="-7", class_="mark end"))
    return tag("svg", *parts, class_="plot", role="img", aria_label=label)


def plot_reliabilities(curves: Sequence[tuple[pd.DataFrame, int]], *, label: str) -> Markup:
    """The reliability curves of several checkpoints, each with its series; empty bins are not drawn."""
    parts = _reliability_frame()
    for table, series in curves:
        points = _reliability_points(table[table["n"] > 0])
        parts.append(_line(points, f"line s{series}"))
        parts += [tag("circle", cx=pct(x), cy=pct(y), r="3", class_=f"dot s{series}") for x, y in points]
    return tag("svg", *parts, class_="plot", role="img", aria_label=label)


def plot_risk_coverages(curves: Sequence[tuple[pd.DataFrame, int]], *, label: str) -> Markup:
    """The risk-coverage curves (`coverage`, `risk`) of several checkpoints, each with its series."""
    top = _round_up(max((float(c["risk"].max()) for c, _ in curves if c["risk"].notna().any()), default=1.0))
    return plot_lines(
        curves, x="coverage", y="risk", x_axis=PERCENT_AXIS,
        y_axis=Axis.over(*(top * i / 4 for i in range(5)), unit="percent"),
        x_title="answered, % of photographs", y_title="wrong among the answered, %", label=label,
    )  # fmt: skip


def plot_outcomes(outcomes: pd.DataFrame, *, label: str) -> Markup:
    """Two bars, of target images and of the others, each cut into right, wrong and deferred.

    Parameters
    ----------
    outcomes : DataFrame
        `given` (target or other), `outcome` (right, wrong, deferred), `share`, `n_images`.
    """
    drawn = []
    for given, held in outcomes.groupby("given", sort=False):
        words = "photographs of a target class" if given == "target" else "photographs of anything else"
        drawn.append(tag("p", counted(int(held["n_images"].iloc[0]), words), class_="sharename"))
        parts = list(zip(held["share"], held["outcome"], held["outcome"], strict=True))
        drawn.append(plot_shares(parts, label=f"{words}. {label}"))
    return joined(drawn)


def plot_shares(parts: Sequence[tuple[float, str, str]], *, label: str) -> Markup:
    """A bar cut into shares that sum to 1, each with its class and its words."""
    drawn, start = [], 0.0
    for share, mark, words in parts:
        if is_undefined(share) or share <= 0:
            continue
        width = 100.0 * share
        drawn.append(
            tag(
                "rect",
                tag("title", f"{words} {shown(share, 'percent')}"),
                x=pct(start),
                y="0",
                width=pct(width),
                height="100%",
                class_=f"share {mark}",
            )
        )
        if width >= 5:
            room = "" if width >= 15 else " tight"  # too narrow for its words on a phone
            text = shown(share, "percent")
            drawn.append(tag("text", text, x=pct(start + width / 2), y="50%", class_=f"on {mark}{room}"))
        start += width
    return tag("svg", *drawn, class_="shares", role="img", aria_label=label)


def plot_lines(
    curves: Sequence[tuple[pd.DataFrame, int]],
    *,
    x: str,
    y: str,
    x_axis: Axis,
    y_axis: Axis,
    x_title: str,
    y_title: str,
    label: str,
) -> Markup:
    """Column `y` over column `x` of several tables, one line each; with `ci_low`, `ci_high` a band too."""
    parts = [*_frame(x_axis, y_axis, x_title, y_title)]
    if y_axis.low < 0 < y_axis.high:
        at = pct(100 - y_axis.at(0))
        parts.append(tag("line", x1="0%", x2="100%", y1=at, y2=at, class_="reference"))
    for table, series in curves:
        held = thinned(table[table[y].notna()], MAX_POINTS)
        xs = [x_axis.at(v) for v in held[x]]
        if {"ci_low", "ci_high"} <= set(held.columns):
            upper = [(a, 100 - y_axis.at(v)) for a, v in zip(xs, held["ci_high"], strict=True)]
            lower = [(a, 100 - y_axis.at(v)) for a, v in zip(xs, held["ci_low"], strict=True)]
            parts.append(_line([*upper, *reversed(lower)], f"band s{series}", closed=True))
        parts.append(
            _line([(a, 100 - y_axis.at(v)) for a, v in zip(xs, held[y], strict=True)], f"line s{series}")
        )
    return tag("svg", *parts, class_="plot", role="img", aria_label=label)


def thinned(frame: pd.DataFrame, n_rows: int) -> pd.DataFrame:
    """About so many rows, evenly spread, the last always."""
    step = max(1, -(-len(frame) // n_rows))
    return frame.iloc[sorted({*range(0, len(frame), step), len(frame) - 1})] if len(frame) else frame


def _mark(
    value: float, ci_low: float, ci_high: float, *, axis: Axis, y: str, series: int, is_filled: bool = True
) -> Iterable[Markup]:
    """A dot at height `y` on its interval."""
    mark = f"s{series}" if is_filled else f"s{series} open"
    if not (is_undefined(ci_low) or is_undefined(ci_high)):
        low, high = pct(axis.at(ci_low)), pct(axis.at(ci_high))
        yield tag("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker s{series}")
        if ci_low < axis.low:
            yield tag("text", "◂", x="0%", y=y, dx="-5", dy="4", class_=f"beyond s{series} middle")
        if ci_high > axis.high:
            yield tag("text", "▸", x="100%", y=y, dx="5", dy="4", class_=f"beyond s{series} middle")
    yield tag("circle", cx=pct(axis.at(value)), cy=y, r="4.5", class_=f"dot {mark}")


def _frame(x_axis: Axis, y_axis: Axis, x_title: str, y_title: str) -> Iterable[Markup]:
    for value, text in x_axis.ticks:
        yield _vertical(x_axis.at(value), "grid")
        yield tag("text", text, x=pct(x_axis.at(value)), y="100%", dy="18", class_="tick middle")
    for value, text in y_axis.ticks:
        at = pct(100 - y_axis.at(value))
        yield tag("line", x1="0%", x2="100%", y1=at, y2=at, class_="grid")
        yield tag("text", text, x="0", y=at, dx="-8", dy="4", class_="tick end")
    yield tag("text", x_title, x="100%", y="100%", dy="39", class_="title end")
    yield tag("text", y_title, x="0", y="0", dy="-12", class_="title start")


def _reliability_frame() -> list[Markup]:
    frame = _frame(PERCENT_AXIS, PERCENT_AXIS, "confidence of the first answer, %", "accuracy, %")
    return [*frame, tag("line", x1="0%", y1="100%", x2="100%", y2="0%", class_="ideal")]


def _reliability_points(filled: pd.DataFrame) -> list[tuple[float, float]]:
    return [
        (PERCENT_AXIS.at(c), 100 - PERCENT_AXIS.at(a))
        for c, a in zip(filled["confidence"], filled["accuracy"], strict=True)
    ]


def _counts_under(table: pd.DataFrame) -> Markup:
    """Bars of n, under a plot that has the bins on its horizontal axis."""
    most = max(1, int(table["n"].max()))
    bars = []
    for bin_ in table.to_dict("records"):
        height = 100.0 * bin_["n"] / most
        x, width = PERCENT_AXIS.at(bin_["low"]), PERCENT_AXIS.at(bin_["high"] - bin_["low"])
        bars.append(
            tag(
                "rect",
                tag("title", _bin_words(bin_)),
                x=pct(x),
                y=pct(100 - height),
                width=pct(width),
                height=pct(height),
                class_="count",
            )
        )
    words = tag(
        "text", f"photographs per bin, at most {shown(most, 'count')}", x="0", y="0", dy="-8", class_="title"
    )
    base = tag("line", x1="0%", x2="100%", y1="100%", y2="100%", class_="base")
    return tag("svg", *bars, base, words, class_="counts", aria_hidden="true")


def _bin_words(bin_: Mapping[Hashable, Any]) -> str:
    ends = f"{shown(bin_['low'], 'percent')} to {shown(bin_['high'], 'percent')}"
    return f"{ends}: {counted(bin_['n'], 'photographs')}"


def _line(points: Sequence[tuple[float, float]], class_: str, *, closed: bool = False) -> Markup:
    """A line through points in percent; its own small drawing, because a path knows no percent."""
    text = " ".join(f"{10 * x:.1f},{10 * y:.1f}" for x, y in points)
    shape = tag(
        "polygon" if closed else "polyline", points=text, vector_effect="non-scaling-stroke", class_=class_
    )
    return tag(
        "svg", shape, viewBox="0 0 1000 1000", preserveAspectRatio="none", width="100%", height="100%",
        class_="curve",
    )  # fmt: skip


def _vertical(x: float, class_: str) -> Markup:
    return tag("line", x1=pct(x), x2=pct(x), y1="0%", y2="100%", class_=class_)


def _anchor(x: float) -> str:
    return "tick start" if x < 2 else "tick end" if x > 98 else "tick middle"


def _round_up(value: float) -> float:
    """The end of an axis that holds `value`: the next of a few round shares."""
    return next((step for step in ROUND_STEPS[3:] if value <= step), 1.0)
