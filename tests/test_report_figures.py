"""Figures by what they draw: places, marks and words, read back from the SVG."""

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from ddeval.report import figures, rounding
from ddeval.report.classes import heat_level

RELIABILITY = pd.DataFrame(
    {
        "low": [0.0, 0.5],
        "high": [0.5, 1.0],
        "n": [0, 40],
        "confidence": [np.nan, 0.75],
        "accuracy": [np.nan, 0.5],
    }
)


def elements(drawing: Markup, name: str, mark: str = "") -> list[dict[str, str]]:
    """Attributes of the elements of a kind whose class holds `mark`."""
    root = ElementTree.fromstring(f"<root>{drawing}</root>")
    return [dict(e.attrib) for e in root.iter(name) if mark in e.get("class", "").split() or not mark]


def points(drawing: Markup, mark: str) -> list[tuple[float, float]]:
    """Points of the line with that class, in percent of the plot."""
    (line,) = elements(drawing, "polyline", mark)
    pairs = [pair.split(",") for pair in line["points"].split()]
    return [(float(x) / 10, float(y) / 10) for x, y in pairs]


def test_a_dot_stands_on_its_interval() -> None:
    """0.75 of an axis from 0.5 to 1 is the middle; the interval 0.6 to 0.9 runs from 20 to 80 %."""
    axis = figures.Axis.over(0.5, 1.0, unit="percent")
    drawing = figures.plot_interval(0.75, 0.6, 0.9, axis=axis)
    (dot,), (whisker,) = elements(drawing, "circle"), elements(drawing, "line", "whisker")
    assert dot["cx"] == "50%"
    assert (whisker["x1"], whisker["x2"]) == ("20%", "80%")


def test_an_undefined_value_is_not_drawn() -> None:
    drawing = figures.plot_interval(np.nan, np.nan, np.nan, axis=figures.PERCENT_AXIS)
    assert elements(drawing, "circle") == []
    assert elements(drawing, "line", "whisker") == []


def test_a_value_beyond_the_axis_stays_at_its_end() -> None:
    drawing = figures.plot_interval(9.0, 0.1, 20.0, axis=figures.RATIO_AXIS)
    (whisker,) = elements(drawing, "line", "whisker")
    assert elements(drawing, "circle")[0]["cx"] == "100%"
    assert (whisker["x1"], whisker["x2"]) == ("0%", "100%")


def test_half_and_double_are_equally_far_from_one() -> None:
    at = figures.RATIO_AXIS.at
    assert at(1.0) == pytest.approx(50)
    assert 50 - at(0.5) == pytest.approx(at(2.0) - 50)


def test_reference_and_margin_are_two_kinds_of_line() -> None:
    axis = figures.Axis.around_zero([-0.01, 0.03], unit="points")
    drawing = figures.plot_interval(0.01, -0.01, 0.03, axis=axis, reference=0.0, margin=-0.02)
    assert elements(drawing, "line", "reference")[0]["x1"] == "50%"
    assert elements(drawing, "line", "margin")[0]["x1"] == "25%"


def test_an_axis_around_zero_holds_every_value_and_has_zero_in_its_middle() -> None:
    for reach in (0.0001, 0.013, 0.15, 0.9, 3.0):
        axis = figures.Axis.around_zero([-reach, reach / 2], unit="points")
        assert axis.low <= -reach
        assert axis.high >= reach / 2
        assert axis.at(0) == 50
        assert axis.ticks[2][1] == "0"


def test_reliability_draws_filled_bins_only() -> None:
    """Confidence .75 and accuracy .5: three quarters to the right, half way down."""
    drawing = figures.plot_reliability(RELIABILITY, label="reliability")
    assert points(drawing, "s1") == [(75.0, 50.0)]
    (dot,) = elements(drawing, "circle", "s1")
    assert (dot["cx"], dot["cy"]) == ("75%", "50%")
    assert "50.0\N{NO-BREAK SPACE}% to 100.0\N{NO-BREAK SPACE}%: 40 photographs" in drawing


def test_reliability_after_scaling_is_drawn_open_beside_the_first() -> None:
    after = RELIABILITY.assign(accuracy=[np.nan, 0.75])
    drawing = figures.plot_reliability(RELIABILITY, after, label="reliability")
    assert points(drawing, "s2") == [(75.0, 25.0)]
    assert "open" in elements(drawing, "circle", "s2")[0]["class"]


def test_the_bars_below_are_the_counts() -> None:
    bins = RELIABILITY.assign(n=[10, 40], confidence=[0.3, 0.75], accuracy=[0.3, 0.5])
    bars = elements(figures.plot_reliability(bins, label="reliability"), "rect", "count")
    assert [bar["height"] for bar in bars] == ["25%", "100%"]
    assert [bar["x"] for bar in bars] == ["0%", "50%"]


def test_risk_coverage_is_drawn_to_scale_with_its_marks() -> None:
    """The axis of risk ends at .4, the first round share above .3."""
    curve = pd.DataFrame({"coverage": [0.5, 1.0], "risk": [0.1, 0.3]})
    drawing = figures.plot_risk_coverage(curve, [(0.5, 0.1, "10 %")], label="risk")
    assert points(drawing, "s1") == [(50.0, 75.0), (100.0, 25.0)]
    (dot,) = elements(drawing, "circle", "dot")
    assert (dot["cx"], dot["cy"]) == ("50%", "75%")
    assert ">10 %</text>" in drawing


def test_a_long_curve_is_thinned_but_keeps_its_end() -> None:
    curve = pd.DataFrame({"coverage": np.linspace(0.0001, 1, 15_561), "risk": np.linspace(0, 0.3, 15_561)})
    drawn = points(figures.plot_risk_coverage(curve, [], label="risk"), "s1")
    assert len(drawn) <= figures.MAX_POINTS + 1
    assert drawn[-1] == (100.0, 25.0)


def test_a_curve_without_a_defined_risk_is_an_empty_frame() -> None:
    curve = pd.DataFrame({"coverage": [1.0], "risk": [np.nan]})
    assert elements(figures.plot_risk_coverage(curve, [], label="risk"), "polyline")[0]["points"] == ""


def test_outcomes_are_cut_in_proportion_and_named_where_there_is_room() -> None:
    outcomes = pd.DataFrame(
        {
            "given": ["target"] * 3,
            "outcome": ["right", "wrong", "deferred"],
            "share": [0.76, 0.2, 0.04],
            "n_images": [200] * 3,
        }
    )
    drawing = figures.plot_outcomes(outcomes, label="outcomes")
    assert [bar["width"] for bar in elements(drawing, "rect")] == ["76%", "20%", "4%"]
    assert [bar["x"] for bar in elements(drawing, "rect")] == ["0%", "76%", "96%"]
    assert re.findall(r">([\d.]+)\N{NO-BREAK SPACE}%</text>", drawing) == ["76.0", "20.0"]
    assert "200 photographs of a target class" in drawing


def test_lines_are_drawn_with_their_band_and_zero() -> None:
    curve = pd.DataFrame({"t": [0.0, 1.0], "nb": [0.1, -0.1], "ci_low": [0.0, -0.2], "ci_high": [0.2, 0.0]})
    drawing = figures.plot_lines(
        [(curve, 3)], x="t", y="nb", x_axis=figures.PERCENT_AXIS,
        y_axis=figures.Axis.over(-0.2, 0.0, 0.2, unit="probability"),
        x_title="threshold, %", y_title="net benefit", label="net benefit",
    )  # fmt: skip
    assert points(drawing, "line") == [(0.0, 25.0), (100.0, 75.0)]
    (band,) = elements(drawing, "polygon", "s3")
    assert band["points"] == "0.0,0.0 1000.0,500.0 1000.0,1000.0 0.0,500.0"
    assert elements(drawing, "line", "reference")[0]["y1"] == "50%"


def test_every_drawing_with_data_says_what_it_is() -> None:
    """A drawing is an image with a name; strips beside their text are hidden instead."""
    for svg in elements(figures.plot_reliability(RELIABILITY, label="what it is"), "svg"):
        is_named = svg.get("role") == "img" and svg.get("aria-label") == "what it is"
        assert is_named or svg.get("aria-hidden") == "true" or svg["class"] == "curve"


def test_text_in_a_figure_is_escaped() -> None:
    drawing = figures.plot_risk_coverage(
        pd.DataFrame({"coverage": [1.0], "risk": [0.1]}), [(0.5, 0.1, "<script>")], label='"><script>'
    )
    assert "<script>" not in drawing


@pytest.mark.parametrize(
    ("share", "level"), [(0.0, None), (0.0099, None), (0.01, 2), (0.25, 10), (1.0, 20), (np.nan, None)]
)
def test_heat_goes_by_the_root_and_begins_at_one_percent(share: float, level: int | None) -> None:
    assert heat_level(share) == level


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.7364, "percent", "73.6\N{NO-BREAK SPACE}%"),
        (0.03125, "points", "+3.1\N{NO-BREAK SPACE}points"),
        (-0.004, "points", "−0.4\N{NO-BREAK SPACE}points"),
        (-0.0004, "points", "0.0\N{NO-BREAK SPACE}points"),
        (-0.031, "distance", "3.1\N{NO-BREAK SPACE}points"),
        (0.96745, "probability", "0.967"),
        (-0.25, "probability", "−0.250"),
        (15561, "count", "15,561"),
        (0.0001, "p_value", "< 0.001"),
        (0.0, "p_value", "< 0.001"),
        (0.04321, "p_value", "0.043"),
        (1.5, "ratio", "1.50\N{NO-BREAK SPACE}×"),
        (float("nan"), "percent", "n/a (n = 0)"),
        (float("inf"), "percent", "n/a (n = 0)"),
    ],
)
def test_a_number_is_written_in_its_unit(value: float, unit: rounding.Unit, text: str) -> None:
    assert rounding.shown(value, unit, n=0 if not np.isfinite(value) else 7) == text


def test_a_range_without_width_is_one_number() -> None:
    assert rounding.shown_range(0.9999, 1.0, "percent") == "100.0\N{NO-BREAK SPACE}%"
    assert rounding.shown_range(0.99, 1.0, "percent") == "99.0 to 100.0\N{NO-BREAK SPACE}%"


def test_an_interval_stands_in_the_unit_of_its_value() -> None:
    assert rounding.shown_interval(-0.012, 0.009, "points") == "[−1.2, +0.9]"
    assert rounding.shown_interval(np.nan, 0.5, "percent") == ""
    assert rounding.shown_with_interval(np.nan, 0.1, 0.2, "percent", n=0) == "n/a (n = 0)"
