"""The gate answers from intervals: what touches the bound is not settled."""

import numpy as np
import pytest

from ddeval.metrics.gate import judged, overall


@pytest.mark.parametrize(
    ("kind", "bound", "interval", "answer"),
    [
        ("at_least", 0.70, (0.70, 0.80), "pass"),
        ("at_least", 0.70, (0.60, 0.6999), "fail"),
        ("at_least", 0.70, (0.60, 0.70), "cannot tell"),
        ("at_most", 0.05, (0.01, 0.05), "pass"),
        ("at_most", 0.05, (0.051, 0.06), "fail"),
        ("at_most", 0.05, (0.04, 0.06), "cannot tell"),
        ("not_worse", 0.01, (-0.01, 0.02), "pass"),
        ("not_worse", 0.01, (-0.03, -0.011), "fail"),
        ("not_worse", 0.01, (-0.02, 0.03), "cannot tell"),
        ("better", 0.0, (0.001, 0.02), "pass"),
        ("better", 0.0, (-0.02, -0.001), "fail"),
        ("better", 0.0, (-0.01, 0.02), "cannot tell"),
    ],
)
def test_the_interval_decides(kind, bound, interval, answer):
    assert judged(kind, bound, ci_low=interval[0], ci_high=interval[1]) == answer


def test_a_loss_is_a_rise_where_lower_is_better():
    """NLL 0.02 to 0.05 above the baseline is a loss larger than 0.01."""
    assert judged("not_worse", 0.01, ci_low=0.02, ci_high=0.05, lower_is_better=True) == "fail"
    assert judged("not_worse", 0.01, ci_low=-0.05, ci_high=0.01, lower_is_better=True) == "pass"


def test_an_undefined_interval_cannot_tell():
    assert judged("at_least", 0.5, ci_low=np.nan, ci_high=np.nan) == "cannot tell"


def test_one_failure_fails_the_gate_and_one_doubt_keeps_it_open():
    assert overall(["pass", "cannot tell", "fail"]) == "fail"
    assert overall(["pass", "cannot tell"]) == "cannot tell"
    assert overall(["pass", "pass"]) == "pass"
    assert overall([]) == "cannot tell"


@pytest.mark.parametrize(("kind", "bound"), [("above", 0.5), ("not_worse", -0.01)])
def test_a_criterion_nobody_can_mean_is_refused(kind, bound):
    with pytest.raises(ValueError, match=r"kind must be one of|a margin is not negative"):
        judged(kind, bound, ci_low=0.1, ci_high=0.2)
