"""Calibration: does a stated confidence of 80 % come true 80 % of the time?"""

import time

import numpy as np
import pytest
from sklearn.metrics import log_loss

from ddeval.metrics import binning, calibration, smoothing
from ddeval.metrics.calibration import (
    brier_score,
    calibration_gap,
    ece,
    ece_equal_mass,
    mce,
    nll,
    reliability_table,
)
from ddeval.metrics.floors import calibration_floor
from ddeval.metrics.smoothing import smooth_ece
from tests import reference

NAMES = ("ece", "ece_equal_mass", "mce", "classwise_ece", "nll", "brier_score", "calibration_gap")
METRICS = {name: getattr(calibration, name) for name in NAMES} | {"smooth_ece": smooth_ece}
DRAWS = {name: getattr(calibration, f"{name}_draws") for name in NAMES} | {
    "smooth_ece": smoothing.smooth_ece_draws
}


def random_case(seed, *, has_ties=False, n_images=None):
    """20 to 80 images of 2 to 6 classes; with ties, probabilities are in tenths."""
    rng = np.random.default_rng(seed)
    n_classes = int(rng.integers(2, 7))
    n_images = n_images or int(rng.integers(20, 80))
    labels = rng.integers(n_classes, size=n_images)
    logits = 2 * rng.normal(size=(n_images, n_classes)) + 1.5 * np.eye(n_classes)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if has_ties:
        tenths = np.floor(probs * 10)
        tenths[:, 0] += 10 - tenths.sum(axis=1)
        probs = tenths / 10
    return labels, probs


def two_classes(confidence, correct):
    """Images of two classes with the top-class confidence given (above 1/2), right where `correct`."""
    confidence = np.asarray(confidence, dtype=float)
    return 1 - np.asarray(correct, dtype=int), np.column_stack([confidence, 1 - confidence])


def calibrated_case(rng, n_images, *, n_classes=6):
    logits = 1.5 * rng.normal(size=(n_images, n_classes))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (probs.cumsum(axis=1) > rng.random((n_images, 1))).argmax(axis=1)
    return labels, probs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("has_ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(10))
def test_metrics_match_their_definition(name, seed, has_ties):
    labels, probs = random_case(seed, has_ties=has_ties)
    assert METRICS[name](labels, probs) == pytest.approx(getattr(reference, name)(labels, probs), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_smooth_ece_matches_the_direct_sum_over_images(seed):
    """The reference adds one reflected Gaussian an image and finds the fixed point by halving."""
    labels, probs = random_case(seed, has_ties=seed % 2 == 1)
    assert smooth_ece(labels, probs) == pytest.approx(reference.smooth_ece(labels, probs), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_grid_moves_smooth_ece_by_less_than_1e_5(seed):
    """Calibrated images by the thousand give narrow Gaussians, the hard case for a grid.

    The error at a width falls as the width grows, so the fixed point is no further from the exact one
    than the exact error at our width is from our width.
    """
    rng = np.random.default_rng(seed)
    confidence = 1 - 0.5 * rng.random(8_000) ** (1 + seed)
    labels, probs = two_classes(confidence, rng.random(8_000) < confidence)
    value = smooth_ece(labels, probs)
    residuals = (labels == 0) - confidence
    assert value < 0.02
    assert reference.smooth_ece_at(confidence, residuals, value) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("size", [1e-2, 1e-3, 1e-4, 1e-5])
def test_the_grid_moves_even_the_smallest_smooth_ece_by_less_than_1e_5(size):
    """Errors of opposite sign a few of their own widths apart, down to widths below a cell."""
    confidence = 0.7 + size * np.array([0.0, 3.1, 8.7])
    residuals = size * np.array([1.0, -0.9, 0.4])
    value = float(smoothing.smooth_measure(confidence)(residuals[None], np.full((1, 3), 1 / 3))[0])
    assert 0 < value <= 2.3 * size
    direct = reference.smooth_ece_at(confidence, 3 * residuals, value, n_points=1_000_000)
    assert direct == pytest.approx(value, abs=1e-5)


def test_errors_that_nearly_vanish_in_one_place_leave_those_of_another():
    """999 of 1,000 right at .999, and .60032 right at .6: what is left is 16 images of 100,000."""
    confidence = np.repeat([0.999, 0.6], 50_000)
    correct = np.concatenate([np.arange(50_000) % 1000 != 0, np.arange(50_000) % 5 < 3])
    correct[50_000:50_040] = True
    assert smooth_ece(*two_classes(confidence, correct)) == pytest.approx(16e-5, abs=1e-8)


def test_smooth_ece_of_a_million_images_takes_seconds():
    rng = np.random.default_rng(0)
    confidence = 0.5 + 0.5 * rng.random(1_000_000)
    labels, probs = two_classes(confidence, rng.random(1_000_000) < confidence)
    start = time.perf_counter()
    assert smooth_ece(labels, probs) < 0.005
    assert time.perf_counter() - start < 10


def test_smooth_ece_of_one_sign_is_the_mean_gap_even_at_confidence_one():
    """Half the images state 1.0 and reach .8, half state and reach .6: the gap is .1.

    Two public packages give .133 for such data, because their kernel loses half its mass at 1.
    """
    confidence = np.repeat([1.0, 0.6], 500)
    labels, probs = two_classes(confidence, np.arange(1000) % 5 < np.where(confidence == 1.0, 4, 3))
    assert smooth_ece(labels, probs) == pytest.approx(0.1, abs=1e-8)
    assert calibration_gap(labels, probs) == pytest.approx(0.1)


def test_images_at_confidence_one_weigh_in_full_beside_others():
    """Overconfident by .2 at 1.0, underconfident by .3 at .7: not of one sign, so the kernel decides."""
    confidence = np.repeat([1.0, 0.7], 50)
    labels, probs = two_classes(confidence, np.arange(100) % 5 < np.where(confidence == 1.0, 4, 5))
    assert smooth_ece(labels, probs) == pytest.approx(reference.smooth_ece(labels, probs), abs=1e-6)


def test_smooth_ece_places_a_probability_that_rounding_carried_past_one_at_one():
    assert smooth_ece(np.array([0]), np.array([[1.0005, 0.0]])) == pytest.approx(0.0005, rel=1e-6)


def test_smooth_ece_is_zero_where_every_residual_is():
    assert smooth_ece(*two_classes([1.0, 1.0], [True, True])) == 0.0


def test_far_apart_errors_of_opposite_sign_do_not_cancel_in_smooth_ece():
    """Overconfident by .3 at .9 and underconfident by .3 at .6: the mean gap is 0, the error near .3."""
    confidence = np.repeat([0.9, 0.6], 1000)
    share_right = np.where(confidence == 0.9, 6, 9)
    labels, probs = two_classes(confidence, np.arange(2000) % 10 < share_right)
    assert calibration_gap(labels, probs) == pytest.approx(0.0)
    assert 0.1 < smooth_ece(labels, probs) < 0.3
    assert ece(labels, probs) == pytest.approx(0.3)


def test_nll_and_brier_score_match_scikit_learn():
    labels, probs = random_case(3)
    one_hot = np.eye(probs.shape[1])[labels]
    assert nll(labels, probs) == pytest.approx(log_loss(labels, probs, labels=np.arange(probs.shape[1])))
    assert brier_score(labels, probs) == pytest.approx(np.square(probs - one_hot).sum() / len(labels))


def test_ece_and_mce_match_netcal_in_float64():
    """netcal bins the same way but for values that lie exactly on an edge; there are none here."""
    metrics = pytest.importorskip("netcal.metrics")
    labels, probs = random_case(5, n_images=2000)
    assert ece(labels, probs) == pytest.approx(metrics.ECE(15).measure(probs, labels), abs=1e-9)
    assert mce(labels, probs) == pytest.approx(metrics.MCE(15).measure(probs, labels), abs=1e-9)


def test_equal_mass_bins_survive_where_netcal_raises():
    """A quarter of the confidences of a real network are exactly 1.0: quantile edges coincide there."""
    confidence = np.concatenate([np.ones(50), np.linspace(0.5, 0.99, 50)])
    labels, probs = two_classes(confidence, np.arange(100) % 2 == 0)
    assert ece_equal_mass(labels, probs) == pytest.approx(reference.ece_equal_mass(labels, probs))


@pytest.mark.parametrize("name", METRICS)
def test_a_weight_is_that_many_copies_of_the_image(name):
    labels, probs = random_case(7, has_ties=True)
    counts = np.random.default_rng(7).integers(0, 4, size=len(labels))
    rows = np.repeat(np.arange(len(labels)), counts)
    weighted = METRICS[name](labels, probs, weights=counts)
    assert weighted == pytest.approx(METRICS[name](labels[rows], probs[rows]), abs=1e-9)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_draws_are_the_metric_under_each_row_of_weights(name, order, monkeypatch):
    """Blocks of three rows, so that a draw cannot land in its neighbour's place; a draw of nothing is NaN."""
    labels, probs = random_case(8)
    weights = np.random.default_rng(8).integers(0, 3, size=(7, len(labels))).astype(np.float32, order=order)
    weights[4] = 0
    monkeypatch.setattr("ddeval.metrics.arrays.BLOCK_CELLS", 3 * len(labels))
    draws = DRAWS[name](labels, probs, weights)
    one_by_one = [METRICS[name](labels, probs, weights=w) for w in weights]
    np.testing.assert_allclose(draws, one_by_one, atol=1e-9)
    assert np.isnan(draws).tolist() == [False] * 4 + [True] + [False] * 2


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", range(5))
def test_metrics_do_not_depend_on_the_order_of_images_or_classes(name, seed):
    metric = METRICS[name]
    labels, probs = random_case(seed, has_ties=True)
    rng = np.random.default_rng(seed)
    rows, classes = rng.permutation(len(labels)), rng.permutation(probs.shape[1])
    renamed = np.argsort(classes)[labels]
    assert metric(labels[rows], probs[rows]) == pytest.approx(metric(labels, probs), abs=1e-9)
    assert metric(renamed, probs[:, classes]) == pytest.approx(metric(labels, probs), abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_nan_without_images(name):
    """Undefined is NaN. A zero would read as perfect calibration."""
    assert np.isnan(METRICS[name](np.empty(0, dtype=int), np.empty((0, 3))))
    assert np.isnan(METRICS[name](np.array([0]), np.array([[0.5, 0.5]]), weights=np.zeros(1)))


@pytest.mark.parametrize("name", METRICS)
def test_a_single_image_of_a_single_class_has_every_metric(name):
    assert METRICS[name](np.array([0]), np.array([[1.0]])) == 0.0


def test_ece_worked_by_hand():
    """Three images in one bin: accuracy 2/3, confidence (0.9 + 0.8 + 0.6) / 3 = 23/30, gap 1/10."""
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert ece(np.array([0, 0, 0]), probs, n_bins=2) == pytest.approx(1 / 10)


def test_mce_is_the_gap_of_the_worst_bin_however_few_images_it_has():
    """99 images state 1.0 and are right; one states .6 and is wrong: MCE .6, ECE .006."""
    labels, probs = two_classes([1.0] * 99 + [0.6], [True] * 99 + [False])
    assert mce(labels, probs) == pytest.approx(0.6)
    assert ece(labels, probs) == pytest.approx(0.006)


def test_equal_mass_bins_share_an_image_that_lies_on_a_cut():
    """Three images, two bins: the middle one is half in each. Residuals .4, -.7, .2 give
    |.4 - .35| + |-.35 + .2| = .2, over 3 images."""
    labels, probs = two_classes([0.6, 0.7, 0.8], [True, False, True])
    assert ece_equal_mass(labels, probs, n_bins=2) == pytest.approx(0.2 / 3)


def test_classwise_ece_sees_what_the_top_class_hides():
    """The top class is calibrated (.5, half right); the other two are .25 each and never / always .5."""
    labels, probs = np.array([0, 1] * 50), np.tile([0.5, 0.25, 0.25], (100, 1))
    assert ece(labels, probs) == pytest.approx(0.0)
    assert calibration.classwise_ece(labels, probs) == pytest.approx((0 + 0.25 + 0.25) / 3)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    """Bins are (low, high]: 0.5 of two bins is in the first, and 1.0 is in the last, not past it."""
    probs = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    assert reliability_table(np.array([0, 0]), probs, n_bins=2)["n"].tolist() == [1, 1]


def test_a_probability_that_rounding_carried_past_one_is_in_the_last_bin():
    table = reliability_table(np.array([0]), np.array([[1.0005, 0.0]]), n_bins=4)
    assert table["n"].tolist() == [0, 0, 0, 1]


def test_a_probability_of_zero_is_in_the_first_bin():
    assert binning.equal_width_bins(np.array([0.0]), 15).tolist() == [0]


def test_an_empty_bin_keeps_its_row_with_nan():
    table = reliability_table(*two_classes([0.95], [True]), n_bins=3)
    assert table["n"].tolist() == [0, 0, 1]
    assert table["accuracy"].isna().tolist() == [True, True, False]


def test_the_reliability_table_adds_up_to_ece_and_accuracy():
    labels, probs = random_case(11)
    table = reliability_table(labels, probs).dropna()
    gaps = (table["accuracy"] - table["confidence"]).abs() * table["n"]
    assert gaps.sum() / table["n"].sum() == pytest.approx(ece(labels, probs))
    assert (table["accuracy"] * table["n"]).sum() == pytest.approx(
        sum(reference.top_confidence(labels, probs)[1])
    )


def test_a_weighted_reliability_table_counts_weights():
    table = reliability_table(*two_classes([0.9, 0.9], [True, False]), n_bins=1, weights=np.array([3.0, 0.5]))
    assert table.loc[0, ["n", "accuracy"]].tolist() == pytest.approx([3.5, 3 / 3.5])


def test_a_tie_at_the_top_counts_as_wrong_as_in_top_1_accuracy():
    assert calibration_gap(np.array([0]), np.array([[0.5, 0.5]])) == 0.5


def test_the_gap_is_positive_for_overconfidence():
    labels, probs = two_classes([0.9] * 10, [True] * 6 + [False] * 4)
    assert calibration_gap(labels, probs) == pytest.approx(0.3)


def test_a_label_given_probability_zero_costs_34_nats():
    assert nll(np.array([1]), np.array([[1.0, 0.0]])) == pytest.approx(-np.log(1e-15))


def test_float16_rows_that_sum_to_nearly_one_are_taken_as_they_are():
    probs = np.array([[0.8995, 0.1]])
    assert calibration_gap(np.array([0]), probs) == pytest.approx(-0.1005)


@pytest.mark.parametrize("name", METRICS)
def test_logits_given_as_probabilities_are_refused(name):
    with pytest.raises(ValueError, match=r"row 1 has 3 \(logits\? apply softmax first\)"):
        METRICS[name](np.array([0, 0]), np.array([[0.5, 0.5], [3.0, -2.0]]))


@pytest.mark.parametrize("metric", [ece, mce, ece_equal_mass, calibration.classwise_ece])
def test_less_than_one_bin_is_refused(metric):
    with pytest.raises(ValueError, match="n_bins must be 1 or more, got 0"):
        metric(np.array([0]), np.array([[1.0, 0.0]]), n_bins=0)


@pytest.mark.parametrize(("n_images", "mean", "high"), [(50, 0.142, 0.210), (200, 0.076, 0.105)])
def test_the_floor_of_ece_is_that_of_a_perfectly_calibrated_model(n_images, mean, high):
    """Published mean and 95th percentile of ECE15 with confidence ~ Beta(5, 2); one sample of
    confidences moves them by about 5 %."""
    rng = np.random.default_rng(1)
    confidence = rng.beta(5, 2, size=n_images)
    rest = np.tile((1 - confidence)[:, None] / 99, 99)
    floor = calibration_floor(
        np.zeros(n_images, dtype=int),
        np.column_stack([confidence, rest]),
        rng=rng,
        metrics=["ece"],
        n_simulations=400,
    ).set_index("metric")
    assert floor.loc["ece", "floor_mean"] == pytest.approx(mean, rel=0.1)
    assert floor.loc["ece", "floor_high"] == pytest.approx(high, rel=0.1)


def test_the_floor_of_the_test_split_is_near_one_point():
    """15,561 images: mean .0088, 95th percentile .0128."""
    rng = np.random.default_rng(2)
    confidence = rng.beta(5, 2, size=15_561)
    rest = np.tile((1 - confidence)[:, None] / 25, 25)
    floor = calibration_floor(
        np.zeros(15_561, dtype=int),
        np.column_stack([confidence, rest]),
        rng=rng,
        metrics=["ece"],
        n_simulations=60,
    ).set_index("metric")
    assert floor.loc["ece", "floor_mean"] == pytest.approx(0.0088, rel=0.08)


@pytest.mark.parametrize("n_repeats", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_a_calibrated_model_is_inside_its_floor_nine_times_of_ten(n_repeats):
    """p-values of a true null are uniform: mean 1/2 with sd .29 / sqrt(repeats). Those of `mce` are larger:
    the same lone image often makes the same largest gap, and equal counts as at or above."""
    p_values = []
    for seed in range(n_repeats):
        rng = np.random.default_rng(seed)
        labels, probs = calibrated_case(rng, 150)
        floor = calibration_floor(labels, probs, rng=rng, n_simulations=39).set_index("metric")
        p_values.append(floor["p_value"].to_dict())
    means = {name: np.mean([p[name] for p in p_values]) for name in p_values[0]}
    assert means.pop("mce") >= 0.5 - 3.5 * 0.29 / np.sqrt(n_repeats)
    np.testing.assert_allclose(list(means.values()), 0.5, atol=3.5 * 0.29 / np.sqrt(n_repeats))


@pytest.mark.parametrize("n_repeats", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_copies_of_a_photograph_are_no_evidence_against_calibration(n_repeats):
    """Four copies of each image: as independent images they reject a calibrated model most of the time,
    as groups in about one of twenty."""
    p_values = {"images": [], "groups": []}
    for seed in range(n_repeats):
        rng = np.random.default_rng(seed)
        labels, probs = (np.repeat(a, 4, axis=0) for a in calibrated_case(rng, 100))
        groups = np.repeat(np.arange(100), 4)
        for kind, given in (("images", None), ("groups", groups)):
            floor = calibration_floor(labels, probs, groups=given, rng=rng, metrics=["ece"], n_simulations=99)
            p_values[kind].append(floor.loc[0, "p_value"])
    rejected = {kind: np.mean(np.array(values) <= 0.05) for kind, values in p_values.items()}
    assert rejected["images"] > 0.5
    assert rejected["groups"] <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / n_repeats)


def test_an_overconfident_model_is_above_its_floor_in_every_measure_but_mce():
    """One image can make the largest gap of a bin, so `mce` says little even at 2,000 images."""
    rng = np.random.default_rng(0)
    labels, probs = calibrated_case(rng, 2000)
    sharper = probs**3 / (probs**3).sum(axis=1, keepdims=True)
    floor = calibration_floor(labels, sharper, rng=rng, n_simulations=199)
    is_above = (floor["value"] > floor["floor_high"]).tolist()
    assert dict(zip(floor["metric"], is_above, strict=True)) == {
        "ece": True,
        "ece_equal_mass": True,
        "mce": False,
        "smooth_ece": True,
        "classwise_ece": True,
    }
    assert floor["p_value"].min() == 1 / 200


def test_the_floor_reports_the_public_values_and_how_alike_groups_are():
    rng = np.random.default_rng(3)
    labels, probs = (np.repeat(a, 2, axis=0) for a in calibrated_case(rng, 60))
    floor = calibration_floor(labels, probs, groups=np.repeat(np.arange(60), 2), rng=rng, n_simulations=20)
    values = {name: METRICS[name](labels, probs) for name in floor["metric"]}
    assert dict(zip(floor["metric"], floor["value"], strict=True)) == pytest.approx(values)
    assert floor[["n_images", "n_groups", "correlation"]].iloc[0].tolist() == [120, 60, 1.0]


def test_the_floor_of_a_model_that_never_decides_counts_its_ties_as_wrong_too():
    """Always .5 and .5: by convention never right, so a perfect model shows the same error of .5."""
    floor = calibration_floor(
        np.array([0, 1, 1]), np.full((3, 2), 0.5), rng=np.random.default_rng(0), metrics=["ece"]
    )
    assert floor.loc[0, ["value", "floor_low", "p_value"]].tolist() == [0.5, 0.5, 1.0]


def test_the_floor_is_nan_without_images():
    floor = calibration_floor(np.empty(0, dtype=int), np.empty((0, 3)), rng=np.random.default_rng(0))
    assert floor[["value", "floor_low", "floor_mean", "floor_high", "p_value"]].isna().all(axis=None)
    assert floor["n_images"].tolist() == [0] * 5


def test_the_floor_is_the_same_for_the_same_seed():
    labels, probs = random_case(4)
    once, again = (
        calibration_floor(labels, probs, rng=np.random.default_rng(5), n_simulations=30) for _ in range(2)
    )
    assert once.equals(again)


def test_a_metric_without_a_floor_is_refused_by_name():
    with pytest.raises(ValueError, match="metric 'nll' is not one of ece, "):
        calibration_floor(*random_case(0), rng=np.random.default_rng(0), metrics=["ece", "nll"])


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"groups must have shape \(1,\), got \(2,\)"):
        calibration_floor(
            np.array([0]), np.array([[1.0, 0.0]]), groups=np.array([1, 2]), rng=np.random.default_rng(0)
        )
